"""TaskForge in memory, for the tests of programs that use it: no server, no worker, no waiting.

    def test_sign_up() -> None:
        with MemoryTaskForge([greet]) as forge:
            sign_up(forge.client, "Ada")  # the program under test, with a client in its hands
            forge.assert_submitted(greet, name="Ada")
            forge.run()  # everything that is due
            forge.advance(3600)  # an hour later
            forge.run()

What a client sends is encoded, decoded and answered as a server would do it, and handlers run
as in a worker: arguments are converted, errors become failures, retries follow the policies. Left
out is what only a server has: limits, credentials, time limits of handlers, several workers at
once.
"""

from taskforge.testing.forge import MemoryAsyncClient, MemoryClient, MemoryTaskForge

__all__ = ["MemoryAsyncClient", "MemoryClient", "MemoryTaskForge"]
