"""A node: the only place that builds adapters and wires actors."""
