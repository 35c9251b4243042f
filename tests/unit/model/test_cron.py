"""Ticks against the clocks of real zones, and against what the rule says, minute by minute."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model import cron
from taskforge_server.engine.model.cron import NEVER_US, CronRule, rule_of, zone_names

MINUTE = timedelta(minutes=1)


def us(moment: datetime) -> int:
    return round(moment.timestamp()) * 1_000_000


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next ticks after a moment of UTC, as the clock of the zone shows them."""
    found = islice(CronRule(expression, zone).ticks_us(us(utc(after))), count)
    times = [datetime.fromtimestamp(tick / 1e6, ZoneInfo(zone)) for tick in found]
    return [shown(time) for time in times]


def shown(time: datetime) -> str:
    """Without the zeros of seconds, and of minutes of an offset."""
    text = time.strftime("%d %H:%M:%S").removesuffix(":00")
    return text + time.strftime("%z").removesuffix("00")


# An expression, a moment of UTC, and the ticks that follow it as the clock of the zone shows them:
# day, time and offset.
TABLE = """
Europe/Berlin   # Berlin, 29 March 2026: 02:00 to 03:00 does not exist.
30 2 * * *     | 2026-03-28 00:00 | 28 02:30+01, 29 03:00+02, 30 02:30+02
15,45 2 * * *  | 2026-03-28 12:00 | 29 03:00+02, 30 02:15+02
0 3 * * *      | 2026-03-28 12:00 | 29 03:00+02, 30 03:00+02
*/30 * * * *   | 2026-03-29 00:01 | 29 01:30+01, 29 03:00+02, 29 03:30+02
0 */2 * * *    | 2026-03-28 22:30 | 29 00:00+01, 29 04:00+02, 29 06:00+02
*/20 2 * * *   | 2026-03-28 12:00 | 30 02:00+02
30 30 2 * * *  | 2026-03-28 12:00 | 29 03:00+02, 30 02:30:30+02
# Berlin, 25 October 2026: 02:00 to 03:00 comes twice.
30 2 * * *     | 2026-10-24 12:00 | 25 02:30+02, 26 02:30+01
0 3 * * *      | 2026-10-24 12:00 | 25 03:00+01, 26 03:00+01
*/30 * * * *   | 2026-10-24 23:45 | 25 02:00+02, 25 02:30+02, 25 02:00+01, 25 02:30+01, 25 03:00+01
@daily         | 2026-10-24 12:00 | 25 00:00+02, 26 00:00+01
0 */2 * * *    | 2026-10-24 23:45 | 25 02:00+02, 25 02:00+01, 25 04:00+01

America/New_York   # New York, 8 March and 1 November 2026.
30 2 * * *     | 2026-03-08 00:00 | 08 03:00-04, 09 02:30-04
@hourly        | 2026-11-01 04:30 | 01 01:00-04, 01 01:00-05, 01 02:00-05
30 1 * * *     | 2026-11-01 00:00 | 01 01:30-04, 02 01:30-05

Australia/Lord_Howe   # Lord Howe moves its clocks by half an hour: 4 October and 5 April 2026.
15 2 * * *     | 2026-10-03 12:00 | 04 02:30+11, 05 02:15+11
45 2 * * *     | 2026-10-03 12:00 | 04 02:45+11, 05 02:45+11
0 */3 * * *    | 2026-10-03 13:00 | 04 00:00+1030, 04 03:00+11
45 1 * * *     | 2026-04-04 12:00 | 05 01:45+11, 06 01:45+1030
0 */2 * * *    | 2026-04-04 13:30 | 05 02:00+1030, 05 04:00+1030
*/15 * * * *   | 2026-04-04 14:31 | 05 01:45+11, 05 01:30+1030, 05 01:45+1030, 05 02:00+1030

Asia/Kolkata   # India's clocks stay, half an hour beside the others.
30 2 * * *     | 2026-03-28 00:00 | 29 02:30+0530, 30 02:30+0530

Pacific/Apia   # Samoa had no 30 December 2011.
0 12 * * *     | 2011-12-29 00:00 | 29 12:00-10, 31 00:00+14, 31 12:00+14
0 */12 * * *   | 2011-12-29 12:00 | 29 12:00-10, 31 00:00+14, 31 12:00+14
0 0 30 12 *    | 2011-01-01 00:00 | 31 00:00+14, 30 00:00+14

Africa/Casablanca   # Back for Ramadan on 15 February 2026, and forward on 22 March.
30 2 * * *     | 2026-02-14 12:00 | 15 02:30+01, 16 02:30+00
30 2 * * *     | 2026-03-21 12:00 | 22 03:00+01, 23 02:30+01
"""


def rows(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Zone, expression, moment, ticks."""
    zone = ""
    for line in text.strip().splitlines():
        parts = [part.strip() for part in line.partition("#")[0].split("|")]
        if len(parts) == 1:
            zone = parts[0] or zone
        else:
            yield zone, parts[0], parts[1], parts[2]


@pytest.mark.parametrize(("zone", "expression", "after", "expected"), list(rows(TABLE)))
def test_changes_of_clocks(zone: str, expression: str, after: str, expected: str) -> None:
    wanted = expected.split(", ")
    assert ticks(expression, zone, after, len(wanted)) == wanted


def _changes(zone: str, year: int) -> list[datetime]:
    """The days of a year on which the zone's clocks are changed."""
    place, days = ZoneInfo(zone), []
    for number in range(365):
        day = datetime(year, 1, 1, 12, tzinfo=UTC) + timedelta(days=number)
        if (
            day.astimezone(place).utcoffset()
            != (day - timedelta(days=1)).astimezone(place).utcoffset()
        ):
            days.append(day)
    return days


CHANGED_BACK, CHANGED_FORWARD = _changes("Africa/Casablanca", 2026)


def test_seconds_and_names() -> None:
    assert ticks("*/20 * * * * *", "UTC", "2026-01-01 00:00", 3) == [
        "01 00:00:20+00",
        "01 00:00:40+00",
        "01 00:01+00",
    ]
    for name, expression in cron.NAMES.items():
        named, spelled = CronRule(name), CronRule(expression)
        assert list(islice(named.ticks_us(0), 5)) == list(islice(spelled.ticks_us(0), 5)), name
    assert CronRule("@Daily").next_us(0) == 86_400_000_000
    assert CronRule(" 0 0 * * * ").next_us(0) == 86_400_000_000


def test_days_of_month_and_week() -> None:
    assert [t[:2] for t in ticks("0 0 13 * FRI", "UTC", "2026-02-01 00:00", 4)] == [
        "06",
        "13",
        "20",
        "27",
    ]
    assert [t[:2] for t in ticks("0 0 */2 * MON", "UTC", "2026-02-01 00:00", 2)] == ["09", "23"]
    assert [t[:2] for t in ticks("0 0 L * *", "UTC", "2026-02-01 00:00", 3)] == ["28", "31", "30"]
    assert [t[:2] for t in ticks("0 0 * * MON#2", "UTC", "2026-02-01 00:00", 2)] == ["09", "09"]


def test_a_moment_within_a_second_is_before_the_next() -> None:
    rule = CronRule("* * * * * *")
    assert rule.next_us(10_999_999) == 11_000_000
    assert rule.next_us(11_000_000) == 12_000_000


def test_what_never_comes() -> None:
    rule = CronRule("0 0 */20 * 1L")  # a last Monday on the 1st or the 21st
    assert rule.next_us(0) == NEVER_US
    assert list(rule.ticks_us(0)) == []
    assert rule.last_us(0, us(utc("2026-01-01"))) == NEVER_US


@pytest.mark.parametrize(
    "expression",
    ["", "x", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "*/0 * * * *",
     "5-1 * * * *", "@reboot", "@every 5m", "0 0 30 2 *", "0\t0 * * *", "٣ * * * *", "1,,2 * * * *",
     "* * * * 1#6", "* * * FOO *", "0 0 * * " + "1," * 300 + "1"],
)  # fmt: skip
def test_wrong_expressions_are_refused(expression: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        CronRule(expression)
    assert refusal.value.field == "cron"


@given(st.text(alphabet="0123456789*/,-#LW@ MONJAN", max_size=40))
def test_any_text_is_refused_or_understood(expression: str) -> None:
    try:
        rule = CronRule(expression, "Europe/Berlin")
    except InvalidInput:
        return
    assert rule.next_us(0) >= 0


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "../etc/passwd", "Europe", "europe/berlin", "/"]
)
def test_wrong_zones_are_refused(zone: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        rule_of("@daily", zone)
    assert refusal.value.field == "timezone"


def test_every_zone_is_there_whatever_the_system_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONTZPATH", "")
    assert len(zone_names()) > 500
    for name in sorted(zone_names()):
        assert CronRule("@daily", name).next_us(us(utc("2026-01-01"))) != NEVER_US, name


# What the rule says, moment by moment.

CHANGES = [
    ("Europe/Berlin", utc("2026-03-29 01:00")),
    ("Europe/Berlin", utc("2026-10-25 01:00")),
    ("America/New_York", utc("2026-03-08 07:00")),
    ("America/New_York", utc("2026-11-01 06:00")),
    ("Australia/Lord_Howe", utc("2026-10-03 15:30")),
    ("Australia/Lord_Howe", utc("2026-04-04 15:00")),
    ("Pacific/Apia", utc("2011-12-30 10:00")),
    ("Africa/Casablanca", CHANGED_BACK),
    ("Africa/Casablanca", CHANGED_FORWARD),
    ("Asia/Kolkata", utc("2026-03-29 01:00")),
]


def field(low: int, high: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """The text of a field, and what it matches."""
    whole = range(low, high + 1)
    lists = st.frozensets(st.sampled_from(whole), min_size=1, max_size=4)
    return st.one_of(
        st.just(("*", frozenset(whole))),
        st.integers(1, 7).map(lambda step: (f"*/{step}", frozenset(whole[::step]))),
        lists.map(lambda some: (",".join(map(str, sorted(some))), some)),
    )


def said(
    minutes: frozenset[int], hours: frozenset[int], at_times: bool, zone: str, around: datetime
) -> list[int]:
    """All ticks of two days and a half, by the words of the rule."""
    start, place = around - timedelta(hours=30), ZoneInfo(zone)
    moments = [start + n * MINUTE for n in range(60 * 60)]
    shown = [moment.astimezone(place).replace(tzinfo=None, fold=0) for moment in moments]

    def matches(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour in hours

    if not at_times:
        return [us(m) for m, wall in zip(moments, shown, strict=True) if matches(wall)]
    first: dict[datetime, datetime] = {}
    for moment, wall in zip(moments, shown, strict=True):
        first.setdefault(wall, moment)
    found, wall = set(), shown[0]
    while wall <= shown[-1]:
        if matches(wall):
            passed = (
                next(m for m, seen in zip(moments, shown, strict=True) if seen > wall)
                if wall not in first
                else None
            )
            found.add(us(passed or first[wall]))
        wall += MINUTE
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(place=st.sampled_from(CHANGES), minute=field(0, 59), hour=field(0, 23))
@example(place=CHANGES[4], minute=("0", frozenset({0})), hour=("*/3", frozenset(range(0, 24, 3))))
@example(place=CHANGES[5], minute=("0", frozenset({0})), hour=("*/2", frozenset(range(0, 24, 2))))
def test_ticks_are_what_the_rule_says(
    place: tuple[str, datetime],
    minute: tuple[str, frozenset[int]],
    hour: tuple[str, frozenset[int]],
) -> None:
    zone, around = place
    at_times = not (minute[0].startswith("*") or hour[0].startswith("*"))
    expected = said(minute[1], hour[1], at_times, zone, around)
    rule = CronRule(f"{minute[0]} {hour[0]} * * *", zone)
    start = us(around - timedelta(hours=30)) - 1_000_000
    found = []
    for tick in rule.ticks_us(start):
        if tick > start + 60 * 3_600_000_000:
            break
        found.append(tick)
    assert found == expected
    for until in (us(around), us(around + timedelta(hours=5, minutes=7))):
        last = max((tick for tick in expected if tick <= until), default=NEVER_US)
        assert rule.last_us(start, until) == last
