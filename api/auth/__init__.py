"""From credentials to a principal, and what a principal may do."""
