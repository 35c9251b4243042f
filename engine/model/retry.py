"""When a failed attempt is tried again: a backoff, and a jitter that spreads what failed together.

    backoff      waits, with `failures` counted from 1: the attempt that failed just now
    exponential  min(max_delay, base_delay * backoff_multiplier ** (failures - 1))
    linear       min(max_delay, base_delay * failures)
    fixed        base_delay
    list         delays[failures - 1], the last one for all that follow

    delay = random * wait   with jitter `full`, `random` in [0, 1)
            wait            with jitter `none`

Full jitter spreads jobs over the whole interval, which costs the least total work of the variants
compared in "Exponential Backoff and Jitter" (Marc Brooker, AWS Architecture Blog, 2015).

Crashed attempts, and those given back or put off, are no failures: they do not lengthen the delay.

A job may bring a policy of its own (`RetryPolicyChange`): what it says goes before what its queue
says, field by field, each time that an attempt fails. So a queue whose policy is changed takes the
jobs along that said nothing about it.
"""

import sys
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.base import Model

Backoff = Literal["exponential", "linear", "fixed", "list"]
Jitter = Literal["full", "none"]

Delay = Annotated[float, msgspec.Meta(ge=0, le=limits.RETRY_DELAY_S_MAX, description="seconds")]
Attempts = Annotated[int, msgspec.Meta(ge=1, le=limits.ATTEMPTS_MAX)]
Multiplier = Annotated[float, msgspec.Meta(ge=1, le=limits.BACKOFF_MULTIPLIER_MAX)]
Delays = Annotated[
    tuple[Delay, ...],
    msgspec.Meta(
        max_length=limits.RETRY_DELAYS_MAX,
        description="with backoff `list`: one for each retry, the last for all that follow",
    ),
]
ErrorType = Annotated[
    str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS_MAX, pattern=r"^[^\x00]*\Z")
]
ErrorTypes = Annotated[
    tuple[ErrorType, ...],
    msgspec.Meta(
        max_length=limits.NON_RETRYABLE_MAX,
        description="an error whose `type` is among these fails the job for good",
    ),
]


class RetryPolicy(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a job is tried and how long it waits in between; delays in seconds."""

    max_attempts: Attempts = 5
    base_delay: Delay = 1.0
    max_delay: Delay = 300.0
    backoff_multiplier: Multiplier = 2.0
    backoff: Backoff = "exponential"
    delays: Delays = ()
    jitter: Jitter = "full"
    non_retryable: ErrorTypes = ()

    def validate(self) -> None:
        super().validate()
        self.check_relations()

    def check_relations(self, path: str = "") -> None:
        """Rules of two fields; `path` leads the name of the field in the error."""
        grows = self.backoff in ("exponential", "linear")
        if grows and self.max_delay < self.base_delay:
            raise InvalidInput(
                f"must not be less than base_delay ({self.base_delay:g})", f"{path}max_delay"
            )
        _check_delays(self.backoff, self.delays, path)

    def may_retry(self, failures: int) -> bool:
        """Whether there is another attempt after this many failures."""
        return failures < self.max_attempts


class RetryPolicyChange(msgspec.Struct, frozen=True, kw_only=True):
    """Some fields of a retry policy; the others are as they are. As it is stored: read with fields
    of a newer version passed over."""

    max_attempts: Attempts | UnsetType = UNSET
    base_delay: Delay | UnsetType = UNSET
    max_delay: Delay | UnsetType = UNSET
    backoff_multiplier: Multiplier | UnsetType = UNSET
    backoff: Backoff | UnsetType = UNSET
    delays: Delays | UnsetType = UNSET
    jitter: Jitter | UnsetType = UNSET
    non_retryable: ErrorTypes | UnsetType = UNSET

    def given(self) -> dict[str, Any]:
        """The fields that are there."""
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in fields if value is not UNSET}

    def over(self, policy: RetryPolicy) -> RetryPolicy:
        """The policy with these fields in the place of its own."""
        return msgspec.structs.replace(policy, **self.given())

    def check_own(self, path: str) -> None:
        """What a job says must make sense whatever its queue says, now and later."""
        own = self.given()
        if "delays" in own or own.get("backoff") == "list":
            _check_delays(own.get("backoff"), own.get("delays", ()), path)
        base, most = own.get("base_delay"), own.get("max_delay")
        if base is not None and most is not None and most < base:
            raise InvalidInput(f"must not be less than base_delay ({base:g})", f"{path}max_delay")


class RetryPolicyUpdate(RetryPolicyChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a retry policy is to be another, as a caller says it."""


class RetryBudget(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many of a queue's attempts may be retries; what is beyond waits for longer."""

    ratio: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="the share of retries among the attempts")
    ] = 0.2
    per_s: Annotated[
        float,
        msgspec.Meta(
            ge=limits.BUDGET_PER_S_MIN,
            le=limits.BUDGET_PER_S_MAX,
            description="retries a second that are made in any case",
        ),
    ] = 10.0


def _check_delays(backoff: str | None, delays: tuple[float, ...], path: str) -> None:
    if backoff == "list" and not delays:
        raise InvalidInput("backoff `list` needs at least one", f"{path}delays")
    if delays and backoff != "list":
        raise InvalidInput("only with backoff `list`", f"{path}delays")


def wait_s(policy: RetryPolicy, failures: int) -> float:
    """Seconds to wait after `failures` failures (1 or more), before the jitter."""
    if failures < 1:
        raise ValueError(f"failures is {failures}: counted from 1")
    match policy.backoff:
        case "fixed":
            return policy.base_delay
        case "list" if policy.delays:
            return policy.delays[min(failures, len(policy.delays)) - 1]
        case "linear":
            return min(policy.max_delay, policy.base_delay * failures)
    # The cap is reached long before the power overflows a float.
    exponent = min(failures - 1, _EXPONENT_MAX)
    return min(policy.max_delay, policy.base_delay * policy.backoff_multiplier**exponent)


def backoff_s(policy: RetryPolicy, failures: int, random: float) -> float:
    """Seconds until the next attempt, with `random` in [0, 1)."""
    if not 0.0 <= random < 1.0:
        raise ValueError(f"random is {random}: in [0, 1)")
    wait = wait_s(policy, failures)
    return wait if policy.jitter == "none" else random * wait


_EXPONENT_MAX = 300
assert sys.float_info.max >= limits.BACKOFF_MULTIPLIER_MAX**_EXPONENT_MAX
