"""`python -m taskforge_server.api.cli` is `taskforge`."""

from taskforge_server.api.cli.main import main

main()
