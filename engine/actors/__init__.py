"""The actors that decide: queues, the dispatcher, workers, the scheduler."""
