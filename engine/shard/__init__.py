"""The rules of a shard: commands become events, events fold into state. No clock, no I/O."""
