"""When a schedule ticks: a cron expression in a time zone, and the rule for the changes of clocks.

    "*/15 9-17 * * MON-FRI"     minute, hour, day of month, month, day of week
    "30 */15 9-17 * * *"        the same with seconds in front
    "@daily"                    a name: @yearly (@annually), @monthly, @weekly, @daily (@midnight),
                                @hourly

Days of month and of week are joined as in Debian's cron: a day matches when either does, or, when
one of the two fields begins with `*`, when both do. `L` is the last day of a month, `LW` its last
weekday, `5L` its last Friday, `MON#2` its second Monday.

**When clocks change.** Expressions are of two kinds, as in Debian's cron:

    times of the day    neither minute nor hour begins with `*`:   "30 2 * * *"
    intervals           one of them does:                          "*/10 * * * *", "0 */2 * * *"

- A time of the day that does not exist, because clocks go forward over it, ticks at the first
  moment that does; several such times tick there once. This holds for a day that is skipped, too.
- A time of the day that comes twice, because clocks go back, ticks the first time only.
- An interval follows what the clock shows: what is skipped does not tick, what comes twice ticks
  twice.

So a daily job is neither left out nor run twice, and a job of every minute runs every minute.

The library parses and finds matching times of a clock that never changes; which moments those are
in a zone is decided here. Zones are those of the pinned package `tzdata`, whatever the system has:
all nodes agree. Ticks are whole seconds, given in microseconds since the epoch.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import resources
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput

NAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

NEVER_US: Final = 0
"""No tick within the fifty years that the library looks ahead."""

SECOND_US: Final = 1_000_000

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the clock of no zone
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_SHIFT_MAX = timedelta(hours=26)
"""No clock was ever moved by more than a day."""


class CronRule:
    """The ticks of one expression in one zone."""

    def __init__(self, cron: str, timezone: str = "UTC") -> None:
        """InvalidInput names `cron` or `timezone`."""
        self.cron = cron
        self._zone = _zone(timezone)
        self._search = _parsed(cron)
        fields = _expanded(cron).split()
        self._at_times = not any(field.startswith("*") for field in fields[-5:-3])
        self._asked = (-1, NEVER_US)

    def next_us(self, after_us: int) -> int:
        """The first tick after this moment; NEVER_US: none."""
        if self._asked[0] != after_us:
            # Remembered, since schedules that share a rule ask for the same one after the other.
            self._asked = (after_us, self._next_us(after_us))
        return self._asked[1]

    def _next_us(self, after_us: int) -> int:
        after = datetime.fromtimestamp(after_us // SECOND_US, UTC)
        find = self._next_time if self._at_times else self._next_of_interval
        try:
            found = find(after)
        except OverflowError:
            return NEVER_US
        return NEVER_US if found is None else round(found.timestamp()) * SECOND_US

    def ticks_us(self, after_us: int) -> Iterator[int]:
        """All ticks after this moment, in their order."""
        while (after_us := self.next_us(after_us)) != NEVER_US:
            yield after_us

    def last_us(self, after_us: int, until_us: int) -> int:
        """The last tick after the one moment and not after the other; NEVER_US: there is none.

        Halving finds it, since the first tick after a moment never comes before that after an
        earlier one."""
        low, high = after_us // SECOND_US, until_us // SECOND_US
        if not 0 < self.next_us(low * SECOND_US) <= until_us:
            return NEVER_US
        while high - low > 1:
            middle = (low + high) // 2
            if 0 < self.next_us(middle * SECOND_US) <= until_us:
                low = middle
            else:
                high = middle
        return self.next_us(low * SECOND_US)

    def _next_time(self, after: datetime) -> datetime | None:
        wall = after.astimezone(self._zone).replace(tzinfo=None, fold=0)
        while (found := self._match(wall)) is not None:
            moment = self._moment(found)
            if moment > after:
                return moment
            wall = found  # a time that comes again: it was its turn before
        return None

    def _moment(self, wall: datetime) -> datetime:
        """When the clock shows this for the first time, or passes over it."""
        moment = wall.replace(tzinfo=self._zone).astimezone(UTC)
        if moment.astimezone(self._zone).replace(tzinfo=None, fold=0) == wall:
            return moment
        # It is skipped: read by the offset from before, it lies behind the change.
        changed = self._change(moment - _SHIFT_MAX, moment)
        return moment if changed is None else changed

    def _next_of_interval(self, after: datetime) -> datetime | None:
        """From one change of the clock to the next, as if the offset had always been that."""
        at, fresh = after, False
        while True:
            offset = self._offset(at)
            wall = at.replace(tzinfo=None) + offset
            found = self._match(wall - _SECOND if fresh else wall)
            if found is None:
                return None
            moment = found.replace(tzinfo=UTC) - offset
            changed = self._change(at, min(moment, at + _DAY))
            if changed is not None:
                at, fresh = changed, True
            elif moment <= at + _DAY:
                return moment
            else:
                # Nothing matches before, however clocks are moved meanwhile.
                at, fresh = max(at + _DAY, moment - _SHIFT_MAX), True

    def _match(self, wall: datetime) -> datetime | None:
        """The first matching time of a clock that never changes."""
        search = self._search
        search.dt = wall
        return next(search, None)

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset

    def _change(self, since: datetime, until: datetime) -> datetime | None:
        """When the clock is changed after the one moment and not after the other."""
        before = self._offset(since)
        if self._offset(until) == before:
            return None
        while until - since > _SECOND:
            middle = since + (until - since) // 2
            middle = middle.replace(microsecond=0)
            if self._offset(middle) == before:
                since = middle
            else:
                until = middle
        return until


@lru_cache(limits.CRON_RULES_KEPT_MAX)
def rule_of(cron: str, timezone: str) -> CronRule:
    """The rule, shared by all that have the same; InvalidInput."""
    return CronRule(cron, timezone)


def _expanded(cron: str) -> str:
    return NAMES.get(cron.strip().lower(), cron)


@lru_cache(limits.CRON_RULES_KEPT_MAX)
def _parsed(cron: str) -> CronSim:
    """A search of its own time is set each time that it is used; nothing else of it changes."""
    text = _expanded(cron)
    known = cron.isascii() and cron.isprintable() and len(cron) <= limits.CRON_CHARS_MAX
    if not known or text.startswith("@"):
        names = ", ".join(NAMES)
        raise InvalidInput(f"five fields, six with seconds in front, or one of {names}", "cron")
    try:
        return CronSim(text, _EPOCH)
    except CronSimError as error:
        raise InvalidInput(f"{str(error)[:1].lower()}{str(error)[1:]}", "cron") from None


@lru_cache(1)
def zone_names() -> frozenset[str]:
    """The names that the IANA database has."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("utf-8").split())


@lru_cache(limits.CRON_RULES_KEPT_MAX)
def _zone(name: str) -> ZoneInfo:
    if name not in zone_names():
        raise InvalidInput("not a name of the IANA time zone database", "timezone")
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)
