"""The actors that decide: queues, the dispatcher, workers; and the rules and books they use."""
