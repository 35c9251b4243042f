"""The errors of the server, sorted by whose fault they are.

    TaskForgeError
    ├── CallerError          the request is wrong: repeating it as it is changes nothing (4xx)
    ├── EnvironmentalError   a server that we need, or our capacity, is short: try again
    │                        (429, 503; 504 when what was asked for may be done already)
    └── InternalError        our own fault (500)

Every error carries a stable `code` that a program may compare, a message that says what to do, and,
where one input is at fault, the name of its field. `FrameError` and `ShardLost` stay below the API.
"""

# ruff: noqa: N818 - the names say what happened; every one is an error by its base class.


class TaskForgeError(Exception):
    """Anything that the server refuses or fails to do, with a stable code."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message if self.field is None else f"{self.field}: {self.message}"


class CallerError(TaskForgeError):
    """The caller's fault."""


class InvalidInput(CallerError):
    """A value that breaks a rule; `field` is its path in the input, such as `settings.timeout`."""

    def __init__(self, message: str, field: str | None = None, code: str = "invalid_input") -> None:
        super().__init__(code, message, field)


class NotFound(CallerError):
    """No such thing, or none that this caller may know of."""

    def __init__(self, message: str, field: str | None = None, code: str = "not_found") -> None:
        super().__init__(code, message, field)


class Conflict(CallerError):
    """The thing exists already, or is in a state that forbids the move."""

    def __init__(self, message: str, field: str | None = None, code: str = "conflict") -> None:
        super().__init__(code, message, field)


class KeyConflict(Conflict):
    """An idempotency key was used before with another body."""

    def __init__(
        self, message: str = "this Idempotency-Key was used before with another body"
    ) -> None:
        super().__init__(message, "Idempotency-Key", "idempotency_key_reused")


class UniqueConflict(Conflict):
    """Another job holds the unique key."""

    def __init__(self, job_id: bytes) -> None:
        super().__init__("another job holds this key", "unique_key", "unique_conflict")
        self.job_id = job_id
        """Which; zeros where that is not known any more."""


class Unauthenticated(CallerError):
    """No credentials, or wrong ones."""

    def __init__(
        self,
        message: str = "give a valid API key or access token as `Authorization: Bearer …`",
        code: str = "unauthenticated",
    ) -> None:
        super().__init__(code, message)


class LoginFailed(Unauthenticated):
    """An address and a password that do not belong together; which of them is wrong is not told."""

    def __init__(self, message: str = "the address or the password is wrong") -> None:
        super().__init__(message, "login_failed")


class PermissionDenied(CallerError):
    """Known, but not allowed to do this."""

    def __init__(self, message: str) -> None:
        super().__init__("permission_denied", message)


class TooLarge(CallerError):
    """More bytes, items or levels than a bound allows."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__("too_large", message, field)


class QuotaExceeded(CallerError):
    """The organisation has submitted as many jobs this month as it may."""

    def __init__(self, jobs_max: int, used: int) -> None:
        super().__init__(
            "quota_exceeded",
            f"this organisation may submit {jobs_max} jobs a month and has submitted {used}; "
            "the month ends with its last day in UTC",
        )


class SubscriptionExpired(CallerError):
    """Nothing new is taken; what was taken is finished."""

    def __init__(self) -> None:
        super().__init__(
            "subscription_expired",
            "the subscription of this organisation has ended: jobs that were submitted are "
            "finished, new ones are not taken",
        )


class LimitReached(Conflict):
    """The organisation has as many things of a kind as its subscription allows."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, code=code)


class EnvironmentalError(TaskForgeError):
    """Nobody's fault in the request: the same call may succeed after `retry_after_s`."""

    def __init__(self, code: str, message: str, retry_after_s: float) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


class Unavailable(EnvironmentalError):
    """Postgres is away, a shard is moving, or the node is stopping (503)."""

    def __init__(
        self, retry_after_s: float = 1.0, message: str = "not available now: try again"
    ) -> None:
        super().__init__("unavailable", message, retry_after_s)


class JobAway(Unavailable):
    """A job left memory between the look that found it there and its turn: look again."""


class OutcomeUnknown(EnvironmentalError):
    """The log does not say in time whether it has what was decided: it may be done or not (504)."""

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__(
            "outcome_unknown",
            "the log does not answer, so this may have been done or not: "
            "repeat it with the same Idempotency-Key",
            retry_after_s,
        )


class Overloaded(EnvironmentalError):
    """A bound on memory, backlog or lag is reached (429)."""

    def __init__(
        self,
        retry_after_s: float = 1.0,
        message: str = "more work than the server can take now",
        code: str = "overloaded",
    ) -> None:
        super().__init__(code, message, retry_after_s)


class ShareUsedUp(Overloaded):
    """The organisation has its part of something of which a node holds so many for all (429)."""

    def __init__(self, retry_after_s: float, message: str) -> None:
        super().__init__(retry_after_s, message, "share_used_up")


class RateLimited(EnvironmentalError):
    """The project sends more requests a second than it may (429)."""

    def __init__(self, rate: int, retry_after_s: float, reset_s: int) -> None:
        super().__init__(
            "rate_limited", f"more than {rate} requests a second in this project", retry_after_s
        )
        self.rate = rate
        self.reset_s = reset_s


class TooManyAttempts(EnvironmentalError):
    """So many failed logins that no further one is looked at for a while (429)."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("too_many_attempts", "too many attempts: try again later", retry_after_s)


class InternalError(TaskForgeError):
    """Our fault; what happened stands in the server's log, not in the message."""

    def __init__(self, message: str = "the server failed; its log says why") -> None:
        super().__init__("internal", message)


class FrameError(Exception):
    """A frame of the worker stream that makes no sense; `reason` goes into the close frame."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ShardLost(Exception):
    """This node no longer owns the shard: nothing that it decided since its last commit counts,
    unless that is `in_doubt`: on its way to the log when the node gave the shard up by itself."""

    def __init__(self, shard: int, *, in_doubt: bool = False) -> None:
        super().__init__(f"shard {shard} belongs to another owner")
        self.shard = shard
        self.in_doubt = in_doubt

    def told(self, retry_after_s: float) -> "Unavailable | OutcomeUnknown":
        """What the caller of a command hears of it."""
        if self.in_doubt:
            return OutcomeUnknown(retry_after_s)
        return Unavailable(retry_after_s, "the shard is moving: try again")


class ConfigError(Exception):
    """An option of the configuration that stops the start; names it and says what is accepted."""

    def __init__(self, option: str, source: str, problem: str) -> None:
        super().__init__(f"option {option} (from {source}): {problem}")
        self.option = option
        self.source = source
        self.problem = problem
