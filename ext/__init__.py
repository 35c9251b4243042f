"""The compiled ground: heap, channel, slot table, codecs, ids. Imports nothing of ours."""

if __name__ != "taskforge_server.ext":
    raise ImportError(
        "this package is imported as 'taskforge_server.ext': as 'ext' from the root of the "
        "repository it would be a second copy of every class in it"
    )
