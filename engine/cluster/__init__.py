"""What nodes tell each other: membership, shard leases, the bus, rate limits."""
