"""The doors of the server: REST, worker streams, credentials and the command line."""

if __name__ != "taskforge_server.api":
    raise ImportError(
        "this package is imported as 'taskforge_server.api': as 'api' from the root of the "
        "repository it would be a second copy of every class in it"
    )
