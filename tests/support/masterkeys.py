"""The master key of the nodes that tests start; what tests it has keys of its own."""

import base64

MASTER_KEYS = "test:" + base64.b64encode(b"a key for tests, of no other use").decode()
