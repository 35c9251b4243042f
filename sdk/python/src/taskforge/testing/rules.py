"""What becomes of a job in memory when its handler has not succeeded: the server's rules, without
chance. Where the server draws a delay between nothing and a wait, the wait itself is taken.
"""

from typing import Any

from taskforge.client.models import RetryPolicy

DEFAULTS = RetryPolicy(
    max_attempts=5,
    base_delay_s=1.0,
    max_delay_s=300.0,
    backoff_multiplier=2.0,
    backoff="exponential",
    delays_s=(),
    non_retryable=(),
)


def policy_over(*policies: RetryPolicy | None) -> RetryPolicy:
    """The first policy that says something about a field decides it."""
    fields: dict[str, Any] = {}
    for name in RetryPolicy.__struct_fields__:
        given = (getattr(policy, name) for policy in (*policies, DEFAULTS) if policy is not None)
        fields[name] = next((value for value in given if value is not None), None)
    return RetryPolicy(**fields)


def wait_s(policy: RetryPolicy, failures: int) -> float:
    """Seconds until the next attempt after so many failures, of a policy without gaps."""
    assert policy.base_delay_s is not None
    assert policy.max_delay_s is not None
    assert policy.backoff_multiplier is not None
    match policy.backoff:
        case "fixed":
            return policy.base_delay_s
        case "list" if policy.delays_s:
            return policy.delays_s[min(failures, len(policy.delays_s)) - 1]
        case "linear":
            return min(policy.max_delay_s, policy.base_delay_s * failures)
    exponent = min(failures - 1, 300)
    return min(policy.max_delay_s, policy.base_delay_s * policy.backoff_multiplier**exponent)


def failed_reason(
    policy: RetryPolicy, error: dict[str, Any], failures: int, max_attempts: int | None
) -> str | None:
    """Why there is no further attempt; None: there is one."""
    if not error.get("retryable", True) or error.get("type") in (policy.non_retryable or ()):
        return "not_retryable"
    most = max_attempts or policy.max_attempts or 1
    if failures >= most:
        return "error" if most == 1 else "attempts_exhausted"
    return None
