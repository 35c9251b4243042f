"""Every bound of the SDK, with its reason. The server has bounds of its own and is the judge."""

from typing import Final

# --- worker: running handlers -------------------------------------------------------------------

CONCURRENCY_DEFAULT: Final = 100  # handlers at once; enough for I/O, kind to databases behind it
CONCURRENCY_MAX: Final = 10_000  # each suspended handler holds a runner task of a few KiB
THREADS_DEFAULT: Final = 32  # threads for sync handlers; more only fight over the interpreter
THREADS_MAX: Final = 1_000
SLICE_JOBS_MAX: Final = 100  # jobs that a runner runs before it lets the loop breathe
SLICE_S: Final = 0.005  # … and the time after which it does so earlier
RUNNERS_WOKEN_MAX: Final = 64  # runners that one turn of the loop wakes together
TICK_S: Final = 0.05  # the sweep that enforces deadlines and measures the rate of completions

# --- worker: credit -----------------------------------------------------------------------------

CREDIT_MAX: Final = 16_384  # unfinished jobs on one worker; 40 ms of work at 400,000 jobs/s
# Work kept in stock, so that a fast worker never waits for the wire. It must be longer than a job's
# way there and back with the two commits on it: a shorter one shrinks the credit with the rate.
CREDIT_WINDOW_S: Final = 0.1
CREDIT_GROWTH_MAX: Final = 4  # times a tick: a burst of short jobs does not flood a slow worker

# --- worker: completions ------------------------------------------------------------------------

DONE_JOBS_FLUSH: Final = 256  # completions that are sent without waiting for the end of a burst
DONE_BYTES_MAX: Final = 1 << 20  # results and errors in one done frame; a larger one goes alone
UNACKED_JOBS_MAX: Final = 65_536  # completions kept for a resend; beyond, the credit is zero
ERROR_MESSAGE_CHARS_MAX: Final = 4_096
ERROR_TRACEBACK_CHARS_MAX: Final = 16_384
RESULT_BYTES_MAX_DEFAULT: Final = 256 * 1024  # until the server has said its own

# --- worker: logs of handlers -------------------------------------------------------------------

LOG_MESSAGE_CHARS_MAX: Final = 16_384  # a longer message is cut
LOG_METADATA_BYTES_MAX: Final = 8 * 1024  # beyond, the server would not keep them
LOG_LINE_BYTES: Final = 200  # what a line is reckoned to take beside its texts
LOG_BYTES_MAX: Final = 4 << 20  # lines that the server does not have; beyond, new ones are dropped
LOG_FRAME_BYTES: Final = 256 * 1024  # of one frame; so much is sent without waiting for more
LOG_FRAME_LINES_MAX: Final = 1_000  # the server takes 2,000
LOG_LINGER_S: Final = 0.05  # how long the first line of a frame waits for others

# --- worker: progress of handlers ---------------------------------------------------------------

PROGRESS_MESSAGE_CHARS_MAX: Final = 1_024  # a longer message is cut
PROGRESS_LINGER_S: Final = 0.2  # words of one job in this time become one
PROGRESS_FRAME_MAX: Final = 500  # jobs in one frame; the server takes 1,000
PROGRESS_JOBS_MAX: Final = 20_000  # jobs whose words wait; beyond, new ones are dropped

# --- worker: connection -------------------------------------------------------------------------

PROTOCOL: Final = 1
TOKEN_BYTES: Final = 24  # job id (16) and lease (8, big endian)
FRAME_BYTES_MAX: Final = 64 << 20  # what one message of the server may weigh
CONNECT_TIMEOUT_S: Final = 10.0
WELCOME_TIMEOUT_S: Final = 30.0  # a node that has just taken its shards over answers late
CLOSE_TIMEOUT_S: Final = 2.0  # for the other side's half of a close
BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 10.0
STEADY_S: Final = 1.0  # a connection that stood for so long was no failure: pauses are short again
GRACE_S_DEFAULT: Final = 30.0  # what running handlers get to finish in after SIGTERM
BYE_TIMEOUT_S: Final = 5.0  # what the last acks get, and the close
HEARTBEAT_TIMEOUT_S: Final = 5.0
WEDGED_AFTER_S: Final = 600.0  # a loop that is blocked for longer stops its heartbeats: leases end

# --- client -------------------------------------------------------------------------------------

BATCH_JOBS_MAX: Final = 10_000  # jobs in one MessagePack request
BATCH_BYTES_MAX: Final = 8 << 20  # … and their payloads; a larger batch is split
RETRIES_DEFAULT: Final = 5
RETRY_DELAY_MIN_S: Final = 0.05
RETRY_DELAY_MAX_S: Final = 5.0
RETRY_AFTER_S_MAX: Final = 60.0  # a server that asks for more patience gets its error raised
REQUEST_TIMEOUT_S: Final = 30.0
WAIT_STEP_S: Final = 10.0  # one long poll of `wait`
RESPONSE_HEAD_BYTES_MAX: Final = 64 * 1024
RESPONSE_BYTES_MAX: Final = 256 << 20  # a page of jobs with the largest payloads and results
CONNECTIONS_MAX: Final = 100  # of one client
IDLE_CONNECTIONS_MAX: Final = 16  # kept by the blocking client
PAGE_JOBS: Final = 100
PAGE_LINES: Final = 1_000
PAGE_PARENTS: Final = 1_000
DECLARE_RETRIES: Final = 20  # of a worker's schedules: minutes, as servers need to come back
FOLLOW_SILENCE_S: Final = 45.0  # a stream of events says every 15 s that it lives
WAIT_JOBS_MAX: Final = 1_000  # jobs that one request waits for
EVENT_BYTES_MAX: Final = 1 << 20  # one event: a line with the largest message and metadata
AUDIT_ENTRY_BYTES_MAX: Final = 1 << 20  # one line of an export
PATHS_CACHED: Final = 1_000  # paths of queues, quoted once
BUFFER_JOBS: Final = 5_000  # of a buffered submit: jobs in one batch
BUFFER_LINGER_MS: Final = 2.0
BUFFER_BATCHES_IN_FLIGHT: Final = 4  # requests at once; what waits beyond them makes submit wait
BUFFER_WAITING_BATCHES_MAX: Final = 4  # … batches waiting

assert 0 < CREDIT_MAX <= UNACKED_JOBS_MAX  # a full credit can always be kept
assert SLICE_S < TICK_S
assert LOG_MESSAGE_CHARS_MAX * 4 + LOG_METADATA_BYTES_MAX < LOG_FRAME_BYTES < LOG_BYTES_MAX
assert BACKOFF_MIN_S < STEADY_S < BACKOFF_MAX_S
assert BATCH_JOBS_MAX >= BUFFER_JOBS
assert RESULT_BYTES_MAX_DEFAULT <= DONE_BYTES_MAX <= FRAME_BYTES_MAX

TIMEOUT_S_MAX: Final = 7 * 86_400
"""The longest that the server lets an attempt run."""
