"""The REST interface over HTTP."""
