"""A worker that is there before its node: it connects as soon as the port answers.

The SDK's worker would try again at growing intervals, and its pause would be measured instead of
the node's start.
"""

import argparse
import logging
import socket
import time

from bench.load.tasks import first
from taskforge.worker import Worker

LOOK_S = 0.002


def answers(port: int) -> bool:
    """Whether somebody listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--queue", required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    worker = Worker(tasks=[first], queues=[given.queue], grace_s=1.0)
    print("here", flush=True)
    while not answers(given.port):
        time.sleep(LOOK_S)
    worker.run()


if __name__ == "__main__":
    main()
