"""Parts of the API without a socket."""
