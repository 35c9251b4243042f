"""People, sessions and their tokens over a real server and database."""
