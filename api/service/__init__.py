"""Use cases shared by every interface. They are given ports and open nothing."""
