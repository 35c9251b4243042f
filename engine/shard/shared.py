"""A bound that tenants share, so that none of them uses it up for all.

    room of a tenant = half of what is free, less half of what it has

so it may have as much as it leaves to all others: half of the bound when it is alone, less where
others have much already, and whoever has nothing always finds something. A tenant is an
organisation, for it may have any number of projects.

Invariant: `used` is the sum of what tenants have. What a takeover restores is added without a
question, and may exceed the bound.
"""

from taskforge_server.engine import limits
from taskforge_server.engine.errors import ShareUsedUp


class SharedBound:
    """How much of one bound is used, and by whom."""

    __slots__ = ("_most", "_of", "_what", "used")

    def __init__(self, what: str, most: int) -> None:
        """`what` names in a refusal what is counted, in the plural."""
        self._what = what
        self._most = most
        self._of: dict[bytes, int] = {}
        self.used = 0

    def room(self, tenant: bytes) -> int:
        """How many more the tenant may have; not positive: none."""
        return (self._most - self.used - self._of.get(tenant, 0)) // 2

    def require(self, tenant: bytes, count: int = 1) -> None:
        """ShareUsedUp: the tenant may not have so many more."""
        if count > self.room(tenant):
            raise ShareUsedUp(
                limits.OVERLOAD_RETRY_S,
                f"no room for {count} more {self._what}: this organization has "
                f"{self._of.get(tenant, 0)}, all together have {self.used} of {self._most}, "
                "and none may have more than it leaves to the others",
            )

    def add(self, tenant: bytes, count: int = 1) -> None:
        """The tenant has so many more."""
        self._of[tenant] = self._of.get(tenant, 0) + count
        self.used += count

    def remove(self, tenant: bytes, count: int = 1) -> None:
        """The tenant has so many less."""
        left = self._of.get(tenant, 0) - count
        if left > 0:
            self._of[tenant] = left
        else:
            self._of.pop(tenant, None)
        self.used -= count
