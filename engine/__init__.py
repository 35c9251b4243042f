"""The engine: what a job is, who may run it, and how every decision is made durable."""

if __name__ != "taskforge_server.engine":
    raise ImportError(
        "this package is imported as 'taskforge_server.engine': as 'engine' from the root of the "
        "repository it would be a second copy of every class in it"
    )
