"""Real processes that are killed, frozen and cut off; a checker reads what they did."""
