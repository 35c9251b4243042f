"""The events of a log body, by number, and the sizes of what stands around them.

    body = version (1 byte), CRC-32 (4) | header: nonce, time, queues, types, workers, count | event …
"""
cdef enum:
    SUBMITTED_EVENT = 1
    STARTED_EVENT = 2
    SUCCEEDED_EVENT = 3
    RETRIED_EVENT = 4
    FAILED_EVENT = 5
    RELEASED_EVENT = 6
    CANCELLED_EVENT = 7
    REQUEUED_EVENT = 8
    KEYED_EVENT = 9
    OWNED_EVENT = 10
    RETURNED_EVENT = 11
    CHANGED_EVENT = 12
    STOPPED_EVENT = 13

cdef enum:
    BODY_VERSION = 1
    BODY_HEAD_BYTES = 5
    EVENT_BYTES = 160            # the most that an event takes besides its texts
    RETURNED_FIELDS_DUE = 5      # of `returned` with a due time
    REQUEUED_FIELDS_BEFORE = 13  # of `requeued` in logs that do not know returns
    RETURNS_MAX = 255            # what a slot can count; beyond, returns look like failures
