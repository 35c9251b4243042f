"""Every bound of the server, in one place, with why it has this value and how bounds relate.

A bound's name ends in its unit: `_bytes_max`, `_s`, `_max` for a count. The asserts at the end hold
the relations between bounds; they run at import, so a change that breaks one stops the start.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# Jobs

CANCEL_GRACE_S: Final = 30.0
CANCEL_GRACE_S_MAX: Final = 86_400.0
"""What the handler of a running job gets to end in when it is cancelled, unless it is said."""
CANCEL_PAGE_JOBS: Final = 1_000
CANCEL_LOOKS_MAX: Final = 262_144
"""Open jobs, and places in memory, that one page of a mass cancel looks at: some milliseconds."""

PRIORITY_MIN: Final = 0
PRIORITY_MAX: Final = 9
"""Ten lanes: a heap key has four bits for them, and people cannot tell more apart."""

PAYLOAD_BYTES_MAX_DEFAULT: Final = 256 * KIB
PAYLOAD_BYTES_MAX: Final = MIB
"""A payload stays in memory while the job waits; what is larger belongs in an object store."""

RESULT_BYTES_MAX: Final = MIB
"""A result is stored twice, with the job and with its execution."""

ERROR_BYTES_MAX: Final = 64 * KIB
"""A traceback of some hundred frames; kept for every attempt."""

JSON_DEPTH_MAX: Final = 64
"""Bounds the recursion of every decoder, ours and those of the workers."""

JOB_TYPE_BYTES_MAX: Final = 255
KEY_BYTES_MAX: Final = 255
"""`varchar(255)` in the tables, counted in bytes, so that it holds in every encoding."""

TAGS_MAX: Final = 32
TAG_BYTES_MAX: Final = 64
"""Labels to search by, not a second payload."""

ATTEMPTS_MAX: Final = 1_000
CRASHES_MAX: Final = 100
"""int2 columns; and one history row for each attempt."""

RETRY_DELAY_S_MAX: Final = 7 * 86_400
"""The longest pause between two attempts; with ATTEMPTS_MAX no job is forgotten by its policy."""

RETRY_DELAYS_MAX: Final = 50
NON_RETRYABLE_MAX: Final = 50
"""Entries of the lists in a retry policy: settings of a queue, or what one job carries along."""

SNOOZES_MAX: Final = 200
"""How often a job may be put off and given back: it is counted in one byte of its slot."""

BUDGET_PER_S_MIN: Final = 0.01
BUDGET_PER_S_MAX: Final = 100_000.0
BUDGET_WINDOW_S: Final = 10.0
"""Retry budgets: the floor lets one retry pass in 100 s at least, so that debts are paid; what was
saved fades over ten seconds, so that an hour of peace does not pay for a storm."""

BACKOFF_MULTIPLIER_MAX: Final = 10.0
TIMEOUT_S_MAX: Final = 7 * 86_400
SCHEDULE_AHEAD_S_MAX: Final = 5 * 366 * 86_400
"""How far in the future a job may be due: catches milliseconds given as seconds."""

DEAD_LETTER_KEEP_S_MIN: Final = 60.0
DEAD_LETTER_KEEP_S_MAX: Final = 3_650 * 86_400.0
"""Long enough for the hook and for a look; as long as any history."""
# Dependencies

GRAPH_JOBS_MAX: Final = 16_384  # a fan of ten thousand with both its ends
GRAPH_EDGES_MAX: Final = 65_536  # and both callbacks; submitted in one turn, some 0.6 s
PARENTS_MAX: Final = 16_384  # of one job: 380 KB in its options while they are missing
EDGES_MAX: Final = 1_000_000  # open ones of a node, some 400 bytes each; shared
CYCLE_STEPS_MAX: Final = 100_000  # open edges on the way up from a new parent; some 50 ms
PARENTS_LOOK_MAX: Final = 500  # parents or children in one go: some 5 ms
PARENTS_SWEEP_S: Final = 5.0
PARENTS_SWEEP_MAX: Final = 5_000  # in turn: a loss is found after minutes at the latest
PARENTS_WRITTEN_MIN: Final = 64  # a child with fewer is written anew by the sweep alone
GRAPH_NODES_SHOWN: Final = 200
GRAPH_NODES_SHOWN_MAX: Final = 1_000
GRAPH_LEVELS_SHOWN_MAX: Final = 100  # one query each
PARENTS_REPLY_BYTES_MAX: Final = 8 * MIB  # of results in one page; the page ends there
REF_CHARS_MAX: Final = 100
EDGES_EXPIRE_ROWS: Final = 20_000  # looked at in one round of the upkeep, in turn
PARENT_KEPT_S: Final = 600.0  # after its end: by then the tables know all who wait for it

DEAD_LETTERS_LOOK: Final = 100_000
"""Dead letters that one request looks at, whatever its filter leaves of them: some 0.1 s."""

DEAD_LETTERS_FETCH: Final = 100
DEAD_LETTERS_ACT_MAX: Final = 1_000
DEAD_LETTERS_BYTES_MAX: Final = 8 * MIB
"""What one request puts back or deletes: one turn of a queue, and half of a commit at most."""

DEAD_LETTERS_COUNT_MAX: Final = 10_000
DEAD_LETTERS_SAMPLE: Final = 10
"""What a dry run counts and shows."""

DEAD_LETTER_ATTEMPTS_DEFAULT: Final = 5
DEAD_LETTER_ATTEMPTS_MAX: Final = 20
"""Attempts shown with each entry of a list; a look at the job shows all."""

REQUEUE_PER_S_MAX: Final = 100_000.0
REQUEUE_PER_S_MIN: Final = 0.001

HOOKS_AT_ONCE_MAX: Final = 200
HOOKS_LOOK_S: Final = 0.1
HOOKS_PAUSE_S: Final = 5.0
"""Hook jobs of a queue that are submitted together; how often the tables are asked for more, and
how long a queue rests whose hooks cannot be submitted."""

DEAD_LETTERS_SWEEP_S: Final = 30.0
DEAD_LETTERS_SWEEP_ROWS: Final = 1_000
DEAD_LETTERS_SWEEP_ROUNDS: Final = 20
"""Dead letters past their time go so often, in transactions of so many, so many for a queue."""

# Configuration rows

NAME_CHARS_MAX: Final = 255
EMAIL_CHARS_MAX: Final = 255
"""`varchar(255)` in the tables."""

DESCRIPTION_CHARS_MAX: Final = 4_000
PERMISSIONS_MAX: Final = 64
ASSIGNMENT_WEIGHT_MAX: Final = 1_000
API_KEY_BYTES_MAX: Final = 128
"""Longer credentials are refused before they are hashed."""

QUEUES_PER_PROJECT_MAX: Final = 10_000
"""All queues of a project fit in a node's cache."""

PROJECTS_PER_ORGANIZATION_MAX: Final = 1_000
"""One page lists them all."""

API_KEYS_PER_PROJECT_MAX: Final = 100
"""Keys of a project that are not revoked: one for each program, and its successor."""

API_KEY_OVERLAP_S_MAX: Final = 30 * 86_400
"""How long a rotated key may live beside its successor; whoever needs longer does not rotate."""

API_KEY_PREFIX_CHARS: Final = 8
"""What is shown of a key: enough to tell two apart, five of its 43 random characters."""

API_KEYS_USED_S: Final = 10.0
API_KEYS_USED_MAX: Final = 10_000
"""When keys were last used is written this often, all at once; beyond so many, the rest is told by
their next use."""

AUDIT_SEQUENCE_MAX: Final = 2**63 - 1
"""A bigint; behind every entry."""

AUDIT_READ_ROWS: Final = 500
"""Entries of one read in an export or a verification: some 5 ms of hashing between two turns of the
loop."""

AUDIT_READERS_OF_ONE_MAX: Final = 2
AUDIT_READERS_MAX: Final = 32
"""Who reads a whole log at one time, of one organisation and on a node: an export goes as slowly as
its reader, so that one organisation must not take what others need."""

AUDIT_VERIFICATIONS_MAX: Final = 2
"""Under way at one time on a node, others wait: each keeps a connection of the pool busy."""

QUEUE_KEPT_S: Final = 3_600.0
"""The row of a deleted queue stays at least this long: what had ended is in the tables by then."""

AUDIT_FAULTS_MAX: Final = 100
"""What a verification of the audit log lists; one rewrite of a log may break every entry."""

# Requests

TLS_HANDSHAKE_S: Final = 10.0
"""Three round trips of the slowest path; who connects and says nothing holds a socket this long."""

TLS_SHUTDOWN_S: Final = 2.0
"""How long the end of a connection waits for the peer's own."""

PART_WRITE_S: Final = 30.0
"""How long a caller may take for the next piece of a long answer before it is given up."""

CORRELATION_ID_CHARS_MAX: Final = 128
"""A UUID, a trace id or a path of them; it stands in every log line of the request."""

BATCH_JOBS_MAX: Final = 1_000
BATCH_JOBS_MSGPACK_MAX: Final = 10_000
"""Jobs in one request; one turn of the loop decodes them, so this bounds its lag."""

REQUEST_BYTES_MAX: Final = 32 * MIB
PAGE_ROWS_MAX: Final = 1_000
PAGE_ROWS_DEFAULT: Final = 100
CURSOR_CHARS_MAX: Final = 1_500
"""The longest key in a cursor is a name of 255 characters, of up to 4 bytes each, in base64."""

WAIT_S_MAX: Final = 60.0
"""A waiting request holds a connection; proxies commonly cut one after 60 s."""

# Subscriptions

REQUESTS_PER_SECOND_MAX: Final = 100_000
"""More than a node answers: whoever may send so many is not limited in practice."""

HISTORY_DAYS_MAX: Final = 3_650

RATE_BURST_S: Final = 0.2
"""What may come at once, in seconds of the rate: small beside the half minute over which people
measure a rate, and much longer than a node needs to settle with the others."""

RATE_SETTLE_S: Final = 0.02
"""Nodes add up their requests this often: one round trip, however many requests there were."""

RATE_SETTLE_EASY_S: Final = 0.1
"""The same while no project has used much of its burst: what is let in too much until then is paid
off later, and is less than a burst."""

RATE_SETTLE_KEYS_MAX: Final = 500
"""Projects that are settled in one call of the script; it must not hold up the server."""

RATE_BUCKETS_MAX: Final = 50_000
"""Projects whose rate a node remembers; beyond, those that are full again are forgotten."""

PLANS_MAX: Final = 20_000
PLAN_TTL_S: Final = 10.0
"""Subscriptions are read again after this long, in case the news of a change was lost."""

USAGE_MONTHS_SHOWN: Final = 12
"""Earlier months that a look at a subscription tells of."""

USAGE_READ_S: Final = 5.0
"""How often a node that does not own all shards reads what the others have counted."""

HISTORY_DELETE_ROWS_MAX: Final = 10_000
"""Finished jobs past their days that one transaction deletes."""

RETENTION_S: Final = 600.0
"""How often a node looks for finished jobs past their days; they go by whole days."""

RETENTION_LOCK_S: Final = 0.5
"""How long taking a partition out may make readers and writers wait, while it waits itself."""

# Limits of queues

QUEUE_CONCURRENCY_MAX: Final = 1_000_000
RATE_PER_S_MIN: Final = 1 / 3600
RATE_PER_S_MAX: Final = 100_000.0
RATE_BURST_MAX: Final = 1_000_000
"""More than a node starts in some seconds; after a takeover the first token takes 1 / per_s."""

RATE_FILL_S_MAX: Final = 30 * 86_400
"""A bucket fills within this: its times, in nanoseconds, fit the table's 52 bits."""

IDLE_KEYS_MAX: Final = 100_000
"""Keys of one queue that are remembered for their rate alone, some 30 MB; then the fullest go."""

QUEUE_AGE_DOUBT_S: Final = 5.0
"""A queue counts as younger than an ownership when it is so by this much: nodes read the database's
clock to some ms, but that of a server which takes its place may be some seconds off."""

# Shards and the log

SHARDS_MAX: Final = 4_096
"""A job id has 12 bits for its shard."""

SHARDS_DEFAULT: Final = 64

LOG_READ_ROWS_MAX: Final = 256
"""Log rows of one read during replay; a body may hold megabytes."""

# Journal

APPEND_BYTES_MAX: Final = 16 * MIB
"""Bodies of one commit; a commit of this size takes some 50 ms, and nothing is released before."""

QUICK_EVENTS_MAX: Final = 256
"""Events of a shard that go with the small commits; one with more has the load to wait for."""

JOURNAL_LANES: Final = 2
"""Commits under way at one time: small ones beside big ones."""

CROWDED_S: Final = 0.25
QUICK_COMMIT_S: Final = 0.003
"""A small commit beside a big one shows that tenants share the node, for this long; one that takes
longer than three milliseconds shows that the big work leaves too little to others."""

FILLED_S: Final = 10.0
"""So long after a big commit it counts as under way: its jobs are being written to the tables."""

BUSY_POLL_EVENTS_MAX: Final = 2
BUSY_POLL_GAP_S: Final = 0.0005
BUSY_POLL_S_MAX: Final = 0.001
"""Commits of so few events, each so soon after the last, are looked for without sleeping, for so
long: jobs that are submitted call after call, and start at once. A commit takes some 0.4 ms."""

PAUSE_S_MIN: Final = 0.001
PAUSE_S_MAX: Final = 0.01
PAUSE_GROWTH: Final = 1.5
PAUSE_SHRINKS: Final = 0.93
"""How bulk work stands back then, after each portion: a quarter of its speed is left at worst."""

GATHER_EVENTS_MAX: Final = 1_024
"""Events of one shard that gather while tenants share the node, and what one command adds: with
submits of 2,000 jobs a commit of some 300 KiB."""

COPY_CHUNK_CROWDED_BYTES: Final = 32 * KIB
"""A portion of the projector then: some 2 ms of the server's time."""

JOURNAL_STATEMENT_S: Final = 5.0
"""After this long an append counts as lost in the network: connect again and look."""

JOURNAL_RETRY_S: Final = 20.0
"""How long one append tries to learn its outcome before its caller is told Unavailable."""

JOURNAL_SLOW_S: Final = 2.0
"""An append that takes this long closes admission: the database is away, or as good as."""

RECONNECT_PAUSE_S_MIN: Final = 0.02
RECONNECT_PAUSE_S_MAX: Final = 1.0
"""A restarted database is found within a second; one that is away is not stormed."""

LOG_KEPT_S: Final = 15.0
LOG_TRIM_S: Final = 3.0
"""Projected rows of the log stay this long: no append that is still under way may be older than the
row that refuses it, and whoever takes a shard over finds the rows above the watermark it read."""

TAKEOVER_TRIES_MAX: Final = 10
"""Appends of `owned` that lose against a busy owner; each costs a round trip."""

CHECK_DIFFERENCES_MAX: Final = 1_000
"""What `taskforge check` lists; whoever has more has one cause, not a thousand."""

CHECK_PREFETCH_ROWS: Final = 1_000
"""Rows of one fetch; a row may hold a payload of a megabyte."""

# Projector

PROJECTION_ROUND_ROWS: Final = 65_536
"""Rows of one round: the server's cost of a row falls until a COPY has some 5,000 of them."""

PROJECTION_COLLECT_ROWS: Final = 4_096
"""Jobs that one shard encodes before the loop gets its turn: some 2 ms."""

PROJECTION_ASKS_MAX: Final = 64
"""How often one shard is asked in a round: without history it may have jobs, yet no rows."""

PROJECTION_WRITERS: Final = 2
"""Jobs of so many rounds are written at once: they take twice as long as executions."""

PROJECTION_ROUNDS_MAX: Final = 3
"""Rounds under way: executions of the next beside jobs of those before."""

PROJECTION_TURN_S: Final = 3.0
"""A round whose rows are written waits so long for its turn to commit; then it is undone, and
written again in its turn: nothing waits for rows of a transaction that waits for others."""

PROJECTION_IDLE_S: Final = 5.0
"""A node that stands still between two statements of a projection: it is undone, so that nobody who
takes its shards over has to wait for longer."""

PROJECTION_CAREFUL_ROWS: Final = 1_000
"""Rows written together when a round holds a bad one; it is found by halving within these."""

COPY_CHUNK_BYTES: Final = 512 * KIB
"""What goes to the driver at once: it copies each chunk."""

COPY_PARTITION_BYTES_MIN: Final = 256 * KIB
"""Rows of one day that are copied straight into its partition: 750 jobs spare twice what it
costs to ask for it."""

# Store

POOL_CONNECTIONS_MIN: Final = 2
"""A takeover reads over one connection while it asks over another."""

POOL_CONNECTIONS_MAX: Final = 100
CONNECT_TIMEOUT_S: Final = 5.0
ACQUIRE_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 30.0
"""A dead socket or a lock must not hang a request: acquire + statement stays below WAIT_S_MAX."""

BULK_TIMEOUT_S: Final = 300.0
"""COPY of a backlog, partition upkeep."""

MIGRATION_S: Final = 4 * 3_600.0
"""One statement of a migration: an index over some thousand million rows; an operator waits."""

MIGRATION_TABLE_WAIT_S: Final = 20.0
"""How long it may wait for others who use its table: new ones wait behind it, below the time that
their own statements have."""

MIGRATION_LOCK_TIMEOUT_S: Final = 120.0
"""How long a node waits for another that migrates."""

TCP_USER_TIMEOUT_S: Final = 10.0
"""Unacknowledged bytes for this long mean a dead connection, not a slow one."""

TCP_KEEPALIVE_IDLE_S: Final = 10
TCP_KEEPALIVE_INTERVAL_S: Final = 3
TCP_KEEPALIVE_COUNT: Final = 3

PARTITIONS_AHEAD_DAYS: Final = 3
"""Today and three days: a node that is down over a weekend still finds its partitions."""

RESIDENT_JOBS_MIN: Final = 4
RESIDENT_JOBS_MAX: Final = 10_000_000
RESIDENT_JOBS_DEFAULT: Final = 200_000
"""Jobs of one type in one queue that wait in memory, some 50 MB; the others wait in the tables."""

PAGE_JOBS_MAX: Final = 16_384
"""Waiting jobs read at once: some 50 ms of the database, and a fifth of a second of a full node."""

PAGING_ENDED_MAX: Final = 400_000
"""Jobs that ended and that the tables lack, some 100 MB and five seconds of them; beyond, no more
are brought, but for shards that have a small part of them: twice as many are there at most."""

PAGERS_MAX: Final = 2
PAGE_LOOK_S: Final = 0.02
PAGE_LOOK_IDLE_S: Final = 0.1
LET_GO_S: Final = 0.2
"""Shards read at once; how often is looked for jobs that are to come, while some are away and while
none is, and for such that may go."""

AWAY_TRIES_MAX: Final = 10
"""How often a command brings its jobs to memory and finds them gone again before it is refused; a
try takes milliseconds, and jobs leave every LET_GO_S and with the rounds of the projector."""

LAG_LOOKS_MAX: Final = 256
"""Looks at a shard's log that wait for its watermark: a minute of a backlog."""

LEAVE_JOBS: Final = 16_384
"""Jobs that stayed for a reading and leave before the loop gets its turn: some 5 ms."""

REGROUP_LOOKS: Final = 8_192
"""Places in memory that are looked at for jobs of a queue in which keys begin to matter, before the
loop gets its turn: some 8 ms if all are of that queue."""

MARKS_READ: Final = 1_000
"""Jobs with options that a takeover looks at before others have their turn: some 3 ms."""

REQUEUES_KEPT: Final = 16_384
"""Jobs of a shard that were put back lately, 2 MB: a row read before that puts none back again."""

HORIZON_S: Final = 3_600.0
"""Jobs that are due later than this wait in the tables."""
HORIZON_SOON_SHARE: Final = 0.01  # of it; this near, jobs come however many of later times are here

REPLAY_ROWS: Final = 64
"""Log rows for which the jobs that they name are asked for together."""

LOAD_CHUNK_BYTES: Final = 128 * KIB
"""What the loader hands on at once, some 500 jobs: enough to amortise a call, and a millisecond of
the loop."""

LOAD_PIECE_BYTES: Final = 4 * KIB
LOAD_GATHER_S: Final = 0.001
"""A server sends pieces of 8 KiB, half of which is no end: then the loader lets so much time pass,
in which some 100 KiB come."""

EXECUTIONS_READ_MAX: Final = 1_000
"""Attempts that come with a job: all of them, but for a job that was put back many times."""

IDEMPOTENCY_KEY_RETENTION_S: Final = 24 * 3_600
"""How long a repeated submit is recognised."""

# Workers

LEASE_TTL_S_MIN: Final = 1.0
LEASE_TTL_S_MAX: Final = 3_600.0
HEARTBEATS_PER_LEASE_MIN: Final = 2
"""A lease survives the loss of one heartbeat."""

# Memory of a node

MEMORY_BYTES_MIN: Final = 64 * MIB
MEMORY_BYTES_DEFAULT: Final = 2 * GIB

MAPPED_BLOCK_BYTES_MIN: Final = 16 * MIB
"""Blocks of this size are mapped by themselves. Bodies, frames and log rows are smaller and many:
mapping each of them anew took a third of the node's CPU time."""

GIVE_BACK_S: Final = 1.0
"""A node that has been idle for this long gives free memory back."""

HEAP_TRIM_BYTES: Final = 256 * MIB
"""What may lie free at the end of the heap before it is given back."""

# Runtime

CLOCK_TRIES: Final = 5
"""Round trips of one measurement of the database's clock; the shortest counts."""

CLOCK_REFRESH_S: Final = 10.0
"""Crystals drift by some 20 µs a second at worst: 0.2 ms between two measurements."""

TURN_MESSAGES_MAX: Final = 4_096
"""What an actor handles before others get their turn."""

RESTARTS_MAX: Final = 3
RESTART_WINDOW_S: Final = 60.0
"""An actor that fails more often works on broken state: what it works on is rebuilt."""

PART_STOP_S: Final = 15.0
"""What one part of a node gets to stop in."""

# Actors

QUEUE_MAILBOX_MAX: Final = 8_192
"""Commands that wait for one turn of a queue; more means that the loop is behind: 429."""

WORKER_MAILBOX_MAX: Final = 256
"""Frames of one worker that wait for a turn; more push back to its socket."""

CREDIT_MAX: Final = 65_536
"""Unfinished jobs on one worker; what a worker asks for beyond it is not given."""

ASSIGN_JOBS_MAX: Final = 1_024
"""Jobs of one frame to a worker: a frame of small jobs stays below 150 KiB."""

WORKERS_MAX: Final = 10_000
"""Workers that a node knows, those that are away but keep leases included."""

BLOCKERS_SHOWN_MAX: Final = 10
"""Names of what stands in the way of a deletion, in one problem."""

STARVATION_S: Final = 1.0
LATE_PART: Final = 10
"""A queue of low priority with ready jobs is served this often at least, out of turn, with so small
a part of a worker's free credit, one job at least."""

PORTION_JOBS_MAX: Final = 8_192
PORTION_CHUNK_JOBS: Final = 16
"""Jobs that the dispatcher gives away before the loop gets its turn, some 2 ms; a chunk of few jobs
counts as so many."""

PROJECT_WEIGHT_MAX: Final = 1_000
"""How much more a project may get than another one."""

WHY_JOBS_MAX: Final = 1_000
WHY_LOOKS_MAX: Final = 20_000
WHY_ROWS_MAX: Final = 10_000
"""What is looked at in memory, and in the tables, to count the jobs ahead of one: some 5 ms."""

WHY_NAMES_MAX: Final = 20
WHY_ERROR_CHARS_MAX: Final = 500
"""Names of workers, types and parents in a reason, and what it repeats of an error."""

START_RATE_S: Final = 10.0
START_RATE_FORGOTTEN_S: Final = 600.0
"""Over how long the rate of a queue's starts is seen; slower than one job in the longer time is no
rate to reckon with."""

CATCH_UP_JOBS: Final = 1_024
"""What an assigned worker that took nothing for a time gets back: a chunk, not an hour's work."""

QUEUE_ASSIGNMENTS_MAX: Final = 1_000
"""Workers assigned to one queue: each chunk looks at all of them."""

WORKER_FEATURES_MAX: Final = 64
"""Names of what a worker knows beyond the first protocol; there are a handful."""

INSTANCE_BYTES_MAX: Final = 16
"""What tells two processes under one worker id apart: a UUID is enough."""

WORKER_QUEUES_MAX: Final = 1_000
WORKER_TYPES_MAX: Final = 1_000
"""Names in one hello; a worker's queues are looked at each time that it has credit again."""

SWEEP_S: Final = 0.1
"""How often deadlines are looked at: the accuracy of a timeout and of a lease."""

SWEEP_LATE_S: Final = 0.5
"""A sweep that comes later than this after the last one finds that the process was held up."""

WELCOME_WAIT_S: Final = 10.0
"""A welcome waits for the log where it tells of something that is not durable yet."""

DUE_JOBS_MAX: Final = 4_096
"""Due jobs that go to their lanes in one turn of the loop: some 2 ms. A herd takes several."""

EXPIRE_JOBS_MAX: Final = 1_024
"""Jobs of a shard that expire in one sweep: some 5 ms. A herd takes several."""

DUE_TIMER_S_MAX: Final = 60.0
"""The timer for due jobs looks again after this long, whatever it was told."""

WAITERS_MAX: Final = 50_000
"""Calls that wait for the end of a job; each holds a connection anyway. Shared."""

KEYS_MAX: Final = 1_000_000
KEYS_BYTES_MAX: Final = 256 * MIB
"""Idempotency keys that a node remembers; beyond, keys of organisations with more than the mean go
before their day is over, the oldest first."""
KEY_ENTRY_BYTES: Final = 256
KEYS_LOOK: Final = 1_024
"""What a key is reckoned to take beside its ids; old ones that are looked at for each new one."""

# Schedules

CRON_CHARS_MAX: Final = 255
CRON_RULES_KEPT_MAX: Final = 4_096
"""Parsed expressions and zones in memory: some 5 KiB each, and most schedules share theirs."""
SCHEDULES_PER_PROJECT_MAX: Final = 10_000
SCHEDULE_PAYLOAD_BYTES_MAX: Final = 32 * KIB
SCHEDULE_PAYLOAD_KEPT_BYTES_MAX: Final = 512
"""What one job is made from, again and again; larger ones than the last are read at the tick."""
SCHEDULE_GRACE_S: Final = 30
"""A tick that comes no later than this was not missed: a node is restarted within it."""
SCHEDULE_WINDOW_S_MAX: Final = 7 * 86_400
SCHEDULE_JITTER_S_MAX: Final = 3_600
SCHEDULE_TURN_TICKS: Final = 1_000
"""Ticks decided in one turn: some 20 ms of the loop, in portions; a herd takes several turns."""
SCHEDULE_RETRY_S: Final = 0.5
SCHEDULES_READ_S: Final = 10.0
SCHEDULES_READ_ROWS: Final = 1_000
"""News that were lost are found this late, by reading the revisions of all rows."""
NEXT_RUNS_FLUSH_S: Final = 0.1
NEXT_RUNS_CHECK_S: Final = 5.0
"""Redis hears of next runs this often, and is asked this often whether it still has them."""
SCHEDULE_KEY_KEPT_S: Final = 3_600.0
"""The row of a schedule says what was decided long before the key of a tick is forgotten."""
PREVIEW_TICKS_MAX: Final = 100

# Execution logs

LOG_MESSAGE_BYTES_MAX: Final = 16 * KIB
"""A message with a traceback of some hundred lines; what is longer is cut."""

LOG_METADATA_BYTES_MAX: Final = 8 * KIB
"""Fields to search by; whole documents belong in a result."""

LOG_LINES_MAX: Final = 10_000
LOG_BYTES_MAX: Final = 4 * MIB
"""Lines of one execution, and what they weigh; a last one says that there were more."""

LOG_NUMBER_MAX: Final = 2**20 - 1
"""Numbers of lines: 20 bits of the id of a line."""

LOG_FRAME_LINES_MAX: Final = 2_000
"""Lines of one frame of a worker: one turn of the loop takes them in some 5 ms."""

LOG_LINE_BYTES: Final = 256
"""What a line is reckoned to take in memory beside its texts."""

LOG_BUFFER_BYTES_MAX: Final = 64 * MIB
LOG_BUFFER_PROJECT_BYTES_MAX: Final = 16 * MIB
"""Lines that wait for the table, in all and of one project; beyond, new ones are dropped: no log
may cost the node its memory, and no project another one its log."""

LOG_WRITE_ROWS: Final = 5_000
"""Lines written together: some 50 ms of the server's time."""

LOG_LINGER_S: Final = 0.05
"""How long the first line of a batch waits for others: people who follow do not notice."""

LOG_RETRY_S: Final = 0.5
"""Between two tries to write while the database is away."""

LOG_FOLLOW_PAUSE_S: Final = 0.1
LOG_FOLLOW_READS_MAX: Final = 4
"""A follower reads this often at most, and so many at one time: many of them must not keep the
connections of the pool from others."""

LOG_FLUSH_S: Final = 2.0
"""What a stopping node gives to write lines; a worker sends what was not acked to another node."""

LOG_ATTEMPTS_SWEPT: Final = 10_000
"""Executions with lines that are remembered before those that have ended are looked for."""

LOG_DELETE_EXECUTIONS: Final = 500
"""Executions whose lines one statement deletes."""

LOG_UNKEPT_S: Final = 1.0
LOG_DOUBTFUL_LOOKS: Final = 5_000
LOG_DOUBTFUL_MAX: Final = 200_000
"""Executions of queues with `history = failed` are looked at this often, so many at once, until
their job has ended; 20 ms of the loop at most. Beyond so many, lines of the oldest may stay."""

LOG_NEWS_JOBS_MAX: Final = 256
"""Jobs named in one message to other nodes; followers of the others read again by themselves."""

LOG_FOLLOW_READ_S: Final = 5.0
"""A follower that was told nothing reads again after this long, in case a message was lost."""

# Unique keys

UNIQUE_KEY_BYTES_MAX: Final = 255
UNIQUE_PERIOD_S_MAX: Final = 86_400
"""A period is remembered beside the Idempotency-Keys, and as long as these at most."""

UNIQUE_PERIODS_MAX: Final = 100_000
"""Keys that jobs of one shard hold for a period, some 30 MiB; beyond, such submits get 429. Shared,
as each bound that names it: an organisation may have as much as it leaves to all others."""

UNIQUE_JOBS_MAX: Final = 1_000
"""Jobs with a unique key in one request: each is decided by itself, in some 10 µs."""

# Progress and events of jobs

PROGRESS_MESSAGE_BYTES_MAX: Final = 4_096
PROGRESS_FRAME_MAX: Final = 1_000
PROGRESS_PER_S_MAX: Final = 2_000
"""What a message may weigh (it is cut), and what one frame and one worker in a second may say: some
10 ms of the loop. Beyond, the newest are dropped; a worker says the last word of a job again."""

PROGRESS_JOBS_MAX: Final = 100_000
"""Running jobs whose progress is remembered, some 30 MiB; beyond, that of others is only told.
Shared."""

EVENTS_KEPT_MAX: Final = 200_000
EVENTS_KEPT_EACH_MAX: Final = 20_000
"""Events that wait for followers in all, some 80 MiB, and of one job, queue or project: what a
follower may lag behind before it misses some."""

EVENT_TOPICS_MAX: Final = 1_000
"""Jobs, queues and projects that are followed at one time. Shared."""

EVENT_LINGER_S: Final = 10.0
"""How long events are kept for a follower that was cut off and comes back."""

EVENTS_PER_S_MAX: Final = 20_000
EVENTS_BURST_MAX: Final = 10_000
EVENTS_FILL_S: Final = 0.1
"""Events that followers of queues and projects are told in a second, shared by what is followed:
some 5 % of the loop. Beyond, they are counted as missed. A batch of the largest size fits in."""

EVENTS_READ_MAX: Final = 1_000
"""Events that a follower is given at once."""

WAIT_JOBS_MAX: Final = 1_000
WAIT_RESULT_BYTES_MAX: Final = 8 * MIB
"""Jobs that one call waits for, and the results in its answer; what is larger is left out."""

# Cluster

PRESENCE_TTL_S: Final = 6.0
"""A node that says nothing for this long counts as gone; it speaks every third of it."""

CLUSTER_COMMAND_S: Final = 1.0
"""One command to Redis, connecting included; nobody on the path of a job waits for it."""

CLUSTER_PAUSE_S: Final = 0.5
"""Between two tries to reach a Redis that does not answer."""

OUTAGE_TOLD_S: Final = 60.0
"""How often a node says that Redis is still away: it tries twice a second."""

CLUSTER_SILENCE_S: Final = 2.0
"""A subscription that is silent for this long is pinged; silent twice, it is dead."""

CLUSTER_OUTBOX_MAX: Final = 10_000
"""Messages that wait while Redis is away; then the oldest go. Listeners read again anyway."""

# Admission

UNPROJECTED_JOBS_MAX: Final = 4_000_000
"""Jobs whose changes the tables do not have; some ten seconds of the greatest load."""

ADMIT_SHARED: Final = 0.9
"""Beyond this part of a bound only those are let in who submitted less than the mean lately."""

LATELY_SWEEPS: Final = 10
LATELY_KEPT: Final = 0.9
"""Lately: every second a tenth is forgotten."""

SUBMIT_JOB_BYTES: Final = 256
"""What a job is reckoned to take beside its payload until memory is measured again."""

OVERLOAD_RETRY_S: Final = 1.0
UNAVAILABLE_RETRY_S: Final = 1.0
"""What a refused caller is told to wait."""

QUEUES_SHOWN_MAX: Final = 200
"""Queues that the metrics name; the others are summed up."""

REPLY_WAIT_S: Final = 20.0
"""While the log is away, a caller waits this long before it is told that the outcome is unknown."""

# Node

TAKEOVERS_AT_ONCE_MAX: Final = 8
"""Shards taken over side by side at the start: each reads its rows over a connection."""

RETAKE_TRIES_MAX: Final = 5
RETAKE_PAUSE_S: Final = 1.0
"""A lost shard is taken again this often before the node leaves it to its owner for a while."""

RETAKE_LOOK_S: Final = 10.0
"""How often the node looks whether the owner of a shard that it lost is still there."""

FLUSH_S: Final = 10.0
"""What a stopping node gives the log, and then the tables, to catch up; the next start does."""

INBOX_SWEEP_S: Final = 1.0
INBOX_ROWS_MAX: Final = 500
INBOX_BYTES_MAX: Final = 16 * MIB
INBOX_PUT_OFF_S: Final = 5.0
"""What applications enqueue by SQL is looked for so often, besides the bell; rows and bytes a
look; how long one that the plan or the load forbids waits."""

UPKEEP_S: Final = 600.0
UPKEEP_ROWS_MAX: Final = 100_000
"""Partitions are made days ahead, and old keys deleted in portions: neither is in a hurry."""

QUEUES_READ_S: Final = 30.0
QUEUES_READ_PAUSE_S: Final = 0.05
"""News of a queue arrives in a tenth of a second; news that was lost, within half a minute."""

ROSTER_READ_S: Final = 30.0
ROSTER_READ_PAUSE_S: Final = 0.05
"""The same for news of drained workers and of assignments."""

WORKER_KEPT_S: Final = 7 * 86_400
WORKERS_KEPT_MAX: Final = 10_000
"""Workers that left are listed for a week, and so many of a project: every process is a worker of
its own."""

WORKER_ROWS_S: Final = 2.0
WORKER_ROWS_MAX: Final = 1_000
"""The table of workers is brought up to date this often, so many rows at once."""

# Encryption at rest

MASTER_ID_CHARS_MAX: Final = 64
"""The name of a master key stands beside everything that it wraps."""

MASTER_KEYS_BYTES_MAX: Final = 16 * KIB
"""A hundred master keys and more: whoever rotates monthly may keep those of years."""

PROJECT_KEYS_MAX: Final = 100
"""Data keys of one project: a new one each month for eight years. Every node holds them all."""

PROJECT_KEYS_READ_S: Final = 2.0
"""News of a key arrives in a tenth of a second; news that was lost, or of a command that talks to
the database alone, after this. It takes one row to see that nothing has changed."""

PROJECT_KEYS_PAUSE_S: Final = 1.0
"""A reader that meets an unknown key has the rows read again at once, but not more often."""

# Doors

SMALL_BODY_BYTES_MAX: Final = 64 * KIB
"""Bodies of all requests but submits: settings of a queue are the largest."""

ENVELOPE_BYTES_MAX: Final = 64 * KIB
"""What a job may weigh in a request beside its payload."""

NAME_BYTES_SHOWN_MAX: Final = 64
"""What a problem repeats of a name that the caller made up."""

BODIES_BYTES_MAX: Final = 256 * MIB
"""Bodies that are being read at one time, in the whole process; beyond, callers get 429. Shared:
senders that are slow on purpose keep no other organisation out."""

QUERY_FIELDS_MAX: Final = 32
"""Parameters of a query string; no operation has that many."""

BODY_READ_S: Final = 30.0
"""A body that takes longer is given up, so that slow senders hold nothing for long."""

LINGER_S: Final = 5.0
"""How long the rest of a refused body is read and dropped, so that its sender sees the answer."""

IDLE_CONNECTION_S: Final = 300.0
IDLE_SWEEP_S: Final = 15.0
"""Connections that say nothing for this long are closed; longer than the pools of common clients
keep theirs, so that it is the client that closes."""

HEADS_MAX: Final = 4_096
HEAD_BYTES_MAX: Final = 2 * KIB
"""Request heads that are known by heart: a few for each client and length of body."""

HELD_BYTES_MAX: Final = 256 * KIB
"""What a connection may send ahead while its request is worked on."""

CONNECTIONS_BACKLOG: Final = 4_096

PRINCIPALS_MAX: Final = 10_000
PRINCIPAL_TTL_S: Final = 0.9
"""How long a key is believed after it was looked up: a revoked one stops within a second."""

WAY_TTL_S: Final = 0.1
"""How long the short way goes by what it looked up for a head, while nothing of it has changed."""

UNKNOWN_KEYS_MAX: Final = 10_000
UNKNOWN_KEY_TTL_S: Final = 5.0
"""Wrong keys are remembered too, so that guessing costs the database little."""

LOOKUPS_AT_ONCE_MAX: Final = 64
"""Keys and queues that are looked up at one time; more callers than that get 503."""

QUEUES_CACHED_MAX: Final = 20_000
QUEUE_TTL_S: Final = 10.0
"""Cached queues are read again after this long, in case an invalidation was lost."""

WAIT_S_DEFAULT: Final = 10.0
HELLO_WAIT_S: Final = 10.0
"""A worker's connection must say hello within this."""

STREAM_MESSAGE_BYTES_MAX: Final = 4 * MIB
"""A frame of a worker: completions with results of 1 MiB, and room around them."""

STREAM_OUT_BYTES_MAX: Final = 64 * MIB
"""Frames that wait for a worker that reads slowly; beyond, its connection is closed."""

STREAM_PING_S: Final = 20.0
"""A silent worker is asked whether it is there; half of this later it is taken for gone."""

STREAM_CHECK_S: Final = 0.5
"""How often the credentials of connected workers are looked at: with PRINCIPAL_TTL_S or the news of
a revoked key before it, the worker is gone about a second later."""

STREAM_CLOSE_S: Final = 2.0
"""What the worker's half of a close gets."""

EVENT_STREAMS_MAX: Final = 1_000
"""Answers that go on (server-sent events), in the whole process; beyond, callers get 429."""

EVENT_STREAMS_ORGANIZATION_MAX: Final = 250
"""Of one organisation, so that none takes them all."""

EVENT_HEARTBEAT_S: Final = 15.0
"""A silent stream says this often that it lives: proxies commonly cut after 60 s."""

EVENT_WRITE_S: Final = 30.0
"""A follower that reads nothing for this long loses its connection; it may take it up again."""

EVENT_RETRY_MS: Final = 1_000
"""What followers are told to wait before they connect again."""

DRAIN_S: Final = 10.0
"""Requests under way when the server stops get this long."""

# People

PASSWORD_CHARS_MIN: Final = 12
PASSWORD_CHARS_MAX: Final = 256
PASSWORD_DIFFERENT_CHARS_MIN: Final = 5
"""Length is what makes guessing hard; a bound, since the whole of it is hashed."""

PASSWORD_MEMORY_KIB: Final = 19 * 1024
PASSWORD_PASSES: Final = 2
PASSWORD_LANES: Final = 1
"""argon2id as OWASP's password storage sheet has it: some 30 ms of one core for each guess."""

PASSWORD_THREADS_MAX: Final = 4
"""Hashes that are made at one time, and no more than half of the cores: the loop needs one too."""

PASSWORDS_WAITING_MAX: Final = 256
"""Logins that wait for a hash, some ten seconds of them; beyond, callers get 429."""

ACCESS_TOKEN_S: Final = 600
"""What a stolen one is good for, if nobody notices; each renewal costs one transaction."""

CLOCKS_APART_S: Final = 10
"""How far apart the clocks of nodes may be: a token from the future by this much is believed."""

TOKEN_BELIEVED_S: Final = 5.0
"""A signature is verified again after this long, in case its key was taken away."""

SESSION_S: Final = 30 * 86_400
"""A login ends after this long without a refresh."""

SESSIONS_PER_USER_MAX: Final = 100
"""Logins of one person; beyond, the oldest ends."""

INVITATION_S: Final = 7 * 86_400
INVITATIONS_MAX: Final = 1_000
"""Open invitations of an organisation."""

USERS_MAX: Final = 10_000
"""People of an organisation."""

CREDENTIAL_BYTES_MAX: Final = KIB
"""The longest credential, an access token, has some 500 bytes."""

REVOCATIONS_READ_S: Final = 0.5
REVOCATIONS_READ_PAUSE_S: Final = 0.05
"""What other nodes took back is read this often, should the news of it be lost."""

REVOCATIONS_OVERLAP_S: Final = 90.0
"""Each read looks back this far: an act may take a statement and a pause before it commits."""

REVOCATIONS_STALE_S: Final = 15.0
"""A node that could not read for this long believes no access token: one may be taken back."""

REVOCATIONS_KEPT_S: Final = ACCESS_TOKEN_S + 2 * CLOCKS_APART_S
REVOCATIONS_MAX: Final = 1_000_000
"""Kept as long as a token may live; some 100 MiB at most."""

SIGNING_KEYS_READ_S: Final = 30.0
SIGNING_KEYS_PAUSE_S: Final = 1.0
"""Keys are read again after this long, and for an unknown `kid` at most once a second."""

SIGNING_KEY_LIFE_S: Final = 90 * 86_400
"""A key that has signed for this long is followed by a new one."""

LOGIN_WINDOW_S: Final = 900
LOGIN_FAILURES_ACCOUNT_MAX: Final = 10
LOGIN_FAILURES_ADDRESS_MAX: Final = 300
"""Failed logins in a window: a thousand guesses a day at one account; an address may be an
office."""

SIGNUP_WINDOW_S: Final = 3_600
SIGNUPS_ADDRESS_MAX: Final = 100
"""Organisations that one address may make in a window."""

THROTTLE_COMMAND_S: Final = 0.3
"""A login waits this long for Redis before it counts for itself."""

THROTTLE_CONNECTIONS_MAX: Final = 8
"""Over which logins are counted; each count is one short round trip."""

THROTTLE_ENTRIES_MAX: Final = 20_000
"""Accounts and addresses that a node counts by itself; beyond, the oldest are forgotten."""

assert GRAPH_JOBS_MAX <= PARENTS_MAX < EDGES_MAX, "on_complete waits for all of a graph"
assert 8 * GRAPH_EDGES_MAX < EDGES_MAX, "three organisations have room for the largest graph"
assert SCHEDULE_GRACE_S < SCHEDULE_KEY_KEPT_S < IDEMPOTENCY_KEY_RETENTION_S
assert 0 == PRIORITY_MIN < PRIORITY_MAX < 16
assert PAYLOAD_BYTES_MAX_DEFAULT <= PAYLOAD_BYTES_MAX < REQUEST_BYTES_MAX
assert BATCH_JOBS_MAX <= BATCH_JOBS_MSGPACK_MAX
assert PAGE_ROWS_DEFAULT <= PAGE_ROWS_MAX
assert ERROR_BYTES_MAX < RESULT_BYTES_MAX
assert ATTEMPTS_MAX < 2**15
assert DEAD_LETTERS_BYTES_MAX + DEAD_LETTERS_ACT_MAX * KIB < APPEND_BYTES_MAX
assert CRASHES_MAX < 2**15
assert SHARDS_DEFAULT <= SHARDS_MAX == 2**12
assert ACQUIRE_TIMEOUT_S + STATEMENT_TIMEOUT_S < WAIT_S_MAX
assert CONNECT_TIMEOUT_S < STATEMENT_TIMEOUT_S < BULK_TIMEOUT_S < MIGRATION_S
assert MIGRATION_TABLE_WAIT_S < STATEMENT_TIMEOUT_S
assert (
    TCP_KEEPALIVE_IDLE_S + TCP_KEEPALIVE_COUNT * TCP_KEEPALIVE_INTERVAL_S < STATEMENT_TIMEOUT_S
), "a dead peer is found before the statement runs out"
assert PARTITIONS_AHEAD_DAYS >= 1
assert MEMORY_BYTES_MIN > REQUEST_BYTES_MAX
assert CLUSTER_COMMAND_S + CLUSTER_PAUSE_S < PRESENCE_TTL_S / 3
assert JOURNAL_SLOW_S < JOURNAL_STATEMENT_S < JOURNAL_RETRY_S
assert JOURNAL_STATEMENT_S + RECONNECT_PAUSE_S_MAX < LOG_KEPT_S
assert PROJECTION_COLLECT_ROWS <= PROJECTION_ROUND_ROWS
assert PROJECTION_WRITERS < PROJECTION_ROUNDS_MAX
assert PROJECTION_TURN_S < PROJECTION_IDLE_S
assert PAGE_JOBS_MAX < 2 * PROJECTION_ROUND_ROWS < PAGING_ENDED_MAX < UNPROJECTED_JOBS_MAX
assert TURN_MESSAGES_MAX <= QUEUE_MAILBOX_MAX
assert ASSIGN_JOBS_MAX <= CREDIT_MAX
assert SWEEP_S < LEASE_TTL_S_MIN / HEARTBEATS_PER_LEASE_MIN
assert WORKERS_MAX >= WORKER_ROWS_MAX
assert PAYLOAD_BYTES_MAX + ENVELOPE_BYTES_MAX < REQUEST_BYTES_MAX <= BODIES_BYTES_MAX
assert HEAD_BYTES_MAX < HELD_BYTES_MAX
assert IDLE_SWEEP_S < IDLE_CONNECTION_S
assert WAIT_S_DEFAULT <= WAIT_S_MAX < IDLE_CONNECTION_S
assert RESULT_BYTES_MAX < STREAM_MESSAGE_BYTES_MAX <= STREAM_OUT_BYTES_MAX
assert QUEUES_CACHED_MAX >= QUEUES_PER_PROJECT_MAX
assert EXECUTIONS_READ_MAX >= ATTEMPTS_MAX
assert FLUSH_S < PART_STOP_S
assert LOG_LINES_MAX < LOG_NUMBER_MAX < 2**20
assert LOG_MESSAGE_BYTES_MAX + LOG_METADATA_BYTES_MAX < LOG_BYTES_MAX < STREAM_MESSAGE_BYTES_MAX * 2
assert STREAM_MESSAGE_BYTES_MAX < LOG_BUFFER_PROJECT_BYTES_MAX < LOG_BUFFER_BYTES_MAX
assert LOG_FRAME_LINES_MAX <= LOG_WRITE_ROWS
assert LOG_DOUBTFUL_LOOKS <= LOG_DOUBTFUL_MAX
assert EVENT_HEARTBEAT_S < WAIT_S_MAX
assert EVENT_STREAMS_ORGANIZATION_MAX <= EVENT_STREAMS_MAX
assert SWEEP_S < SWEEP_LATE_S < LEASE_TTL_S_MIN
assert RATE_SETTLE_S < RATE_SETTLE_EASY_S < RATE_BURST_S < 0.3, "a burst stays below 1 % of 30 s"
assert REVOCATIONS_OVERLAP_S > STATEMENT_TIMEOUT_S + ACQUIRE_TIMEOUT_S
assert REVOCATIONS_READ_S + REVOCATIONS_READ_PAUSE_S < 1.0 < REVOCATIONS_STALE_S
assert TOKEN_BELIEVED_S < ACCESS_TOKEN_S < REVOCATIONS_KEPT_S < SESSION_S
assert API_KEY_BYTES_MAX < CREDENTIAL_BYTES_MAX < HEAD_BYTES_MAX
assert PRINCIPAL_TTL_S + WAY_TTL_S <= 1.0
assert EVENTS_KEPT_EACH_MAX <= EVENTS_KEPT_MAX
assert EVENTS_KEPT_MAX // EVENT_TOPICS_MAX >= 100
assert WAIT_JOBS_MAX <= WAITERS_MAX
assert UNIQUE_PERIOD_S_MAX <= IDEMPOTENCY_KEY_RETENTION_S
