"""What actors run on: mailboxes, supervision, the clock, the life cycle of services."""
