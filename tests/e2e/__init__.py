"""The whole server from the outside, through its public interfaces."""
