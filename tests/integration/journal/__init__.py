"""The journal against the real server: plans, and a server that ends its connections."""
