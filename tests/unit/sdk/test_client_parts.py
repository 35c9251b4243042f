"""The clients' pure parts: requests, responses, batches, problems, retries."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge import (
    ApiError,
    Conflict,
    JobCancelled,
    JobFailed,
    JobSpec,
    Overloaded,
    ServerError,
    SubmitError,
    limits,
    settings,
    task,
)
from taskforge.client import Job, calls, models
from taskforge.client.http1 import JSON, ProtocolError, Requests, Response, ResponseParser

SERVER = settings.server("http://host:8040/base", "key")


@task(queue="mail", priority=3, timeout_s=5.0, max_attempts=2)
async def send(to: str, when: datetime | None = None) -> dict[str, datetime]:
    return {}


def response(status: int = 200, body: bytes = b"{}", **headers: str) -> Response:
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {JSON}"]
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
    return Response(status, "\r\n".join(lines).lower().encode(), body, True)


# --- HTTP/1.1


def parse(data: bytes, cuts: list[int] | None = None) -> Response | None:
    parser = ResponseParser()
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    for start, end in pairwise(places):
        found = parser.feed(data[start:end]) if start < end else None
        if found is not None:
            assert end == len(data)
            return found
    return parser.feed_eof()


def test_a_request() -> None:
    made = Requests(SERVER).make("POST", "/v1/x", b"{}", JSON, "k1")
    head, _, body = made.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /base/v1/x HTTP/1.1"
    assert body == b"{}"
    assert {"Host: host:8040", "Authorization: Bearer key", "Idempotency-Key: k1"} < set(lines)
    assert {"Content-Type: application/json", "Content-Length: 2"} < set(lines)
    made = Requests(settings.server("https://host", "key")).make("GET", "/v1/x", None, JSON, None)
    assert b"\r\nHost: host\r\n" in made
    assert b"Content-Length" not in made
    assert b"Idempotency-Key" not in made


CUTS = st.lists(st.integers(0, 10_000), max_size=6)


@given(body=st.binary(max_size=60), cuts=CUTS, interim=st.booleans())
def test_a_response_by_length_however_it_is_cut(
    body: bytes, cuts: list[int], interim: bool
) -> None:
    head = b"HTTP/1.1 201 Created\r\nX-Y:  z \r\nContent-Length: %d\r\n\r\n" % len(body)
    before = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" if interim else b""
    found = parse(before + head + body, cuts)
    assert found is not None
    assert (found.status, found.body, found.header("x-y")) == (201, body, "z")
    assert found.keep_alive


@given(chunks=st.lists(st.binary(min_size=1, max_size=30), max_size=4), cuts=CUTS)
def test_a_response_in_chunks_however_it_is_cut(chunks: list[bytes], cuts: list[int]) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"".join(b"%x;a=b\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    found = parse(data + b"0\r\nTrailer: x\r\n\r\n", cuts)
    assert found is not None
    assert found.body == b"".join(chunks)


def test_a_response_until_the_end_of_the_connection() -> None:
    found = parse(b"HTTP/1.0 200 OK\r\n\r\nbody")
    assert found is not None
    assert (found.body, found.keep_alive) == (b"body", False)


def test_keeping_the_connection() -> None:
    one = parse(b"HTTP/1.1 204 No Content\r\nConnection: Close\r\n\r\n")
    other = parse(b"HTTP/1.0 204 No Content\r\nConnection: keep-alive\r\n\r\n")
    assert one is not None
    assert other is not None
    assert (one.keep_alive, other.keep_alive) == (False, True)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200",
        b"",
    ],
)
def test_a_response_that_ends_too_early_is_none(data: bytes) -> None:
    assert parse(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2xx OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * limits.RESPONSE_HEAD_BYTES_MAX,
    ],
)
def test_bytes_that_are_no_response(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(data)


# --- submits


def body_of(call: calls.Call[Any]) -> Any:
    assert call.body is not None
    return msgspec.json.decode(call.body)


def test_a_submit_carries_the_options_of_its_task() -> None:
    call = calls.submit(JobSpec(send, {"to": "Ada"}), "k")
    assert (call.method, call.path, call.key) == ("POST", "/v1/queues/mail/jobs", "k")
    assert body_of(call) == {
        "job_type": "send",
        "payload": {"to": "Ada"},
        "priority": 3,
        "timeout_s": 5.0,
        "max_attempts": 2,
    }


def test_a_submit_overrides_the_options_of_its_task() -> None:
    when = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    spec = JobSpec(send, {"to": "A"}, queue="a/b c", priority=0, scheduled_for=when, timeout_s=1.0)
    call = calls.submit(spec, None)
    assert call.path == "/v1/queues/a%2Fb%20c/jobs"
    assert not call.repeatable
    assert body_of(call) == {
        "job_type": "send",
        "payload": {"to": "A"},
        "scheduled_for": "2026-01-01T00:00:00+00:00",
        "timeout_s": 1.0,
        "max_attempts": 2,
    }


class Mail(msgspec.Struct):
    to: str


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        (None, None),
        (b'{"to": [1]}', {"to": [1]}),
        (Mail("Ada"), {"to": "Ada"}),
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, {"when": "2026-01-01T00:00:00Z"}),
    ],
)
def test_payloads_of_jobs_that_are_only_names(payload: Any, sent: Any) -> None:
    call = calls.submit(JobSpec("send", payload, queue="q", delay_s=1.5), "k")
    assert body_of(call) == {"job_type": "send", "payload": sent, "delay_s": 1.5}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (JobSpec("send"), "which queue"),
        (JobSpec(send, {}), "needs to"),
        (JobSpec(send), "needs to"),
        (JobSpec(send, {"to": "A", "cc": "B"}), "no parameter cc"),
        (JobSpec("s", queue="q", scheduled_for=datetime(2026, 1, 1)), "time zone"),  # noqa: DTZ001
        (
            JobSpec("s", queue="q", delay_s=1, scheduled_for=datetime(2026, 1, 1, tzinfo=UTC)),
            "exclude",
        ),
        (JobSpec("s", {"x": object()}, queue="q"), "object"),
    ],
)
def test_submits_that_cannot_be_sent(spec: JobSpec[Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        calls.submit(spec, None)


def test_batches_are_by_queue_and_within_the_bounds() -> None:
    small = [JobSpec("a", b"1", queue=f"q{number % 2}") for number in range(5)]
    found = calls.batches(small)
    assert [(queue, places) for queue, places, _ in found] == [("q0", [0, 2, 4]), ("q1", [1, 3])]
    many = [JobSpec("a", b"1", queue="q")] * (limits.BATCH_JOBS_MAX + 1)
    assert [len(places) for _, places, _ in calls.batches(many)] == [limits.BATCH_JOBS_MAX, 1]
    heavy = [JobSpec("a", b"1" * (limits.BATCH_BYTES_MAX // 2), queue="q")] * 3
    assert [places for _, places, _ in calls.batches(heavy)] == [[0, 1], [2]]
    assert calls.batches([]) == []


def test_a_batch_is_messagepack_with_payloads_as_bytes() -> None:
    (_, places, items) = calls.batches([JobSpec(send, {"to": "Ada"})])[0]
    call = calls.batch("mail", items, "k")
    assert call.body is not None
    sent = msgspec.msgpack.decode(call.body)
    assert sent["jobs"][0]["payload"] == b'{"to":"Ada"}'
    body = msgspec.msgpack.encode({"ids": bytes(15) + b"\1", "errors": {}})
    reply = call.read(response(body=body))
    assert calls.batch_results(reply, places) == [(0, "00000000-0000-0000-0000-000000000001")]
    with pytest.raises(ValueError, match="ids"):
        calls.batch_results(reply, [0, 1])


def test_items_that_are_refused_have_their_own_errors() -> None:
    problem = models.Problem("invalid_input", 422, "", "0 to 9", "jobs[1].priority")
    reply = models.BatchReply(bytes(32), {1: problem})
    (_, error) = calls.batch_results(reply, [5, 7])[1]
    assert isinstance(error, SubmitError)
    assert (error.index, error.code, error.status, error.field) == (
        7,
        "invalid_input",
        422,
        "priority",
    )
    assert str(error) == "0 to 9 (field priority) [invalid_input]"


# --- other calls


def test_paths_of_jobs() -> None:
    job_id = "0190a000-0000-7000-8000-000000000001"
    assert calls.get(job_id).path == f"/v1/jobs/{job_id}"
    assert calls.get(job_id, 1.5).path == f"/v1/jobs/{job_id}?wait=1500ms"
    assert calls.cancel(job_id).path == f"/v1/jobs/{job_id}/cancel"
    assert calls.retry(job_id, None).path == f"/v1/jobs/{job_id}/retry"
    with pytest.raises(ValueError, match="not the id"):
        calls.get("../queues")


def test_queue_settings_that_are_not_given_are_not_sent() -> None:
    made = models.QueueSettings(retry_policy=models.RetryPolicy(max_attempts=3), history="none")
    assert body_of(calls.update_queue("q", settings=made)) == {
        "settings": {"retry_policy": {"max_attempts": 3}, "history": "none"}
    }
    assert body_of(calls.create_queue("q", 5, None, None)) == {"name": "q", "priority": 5}


# --- errors and retries


def test_problems_become_errors() -> None:
    body = b'{"code":"conflict","detail":"is running","field":"id","new":1}'
    with pytest.raises(Conflict, match=r"is running \(field id\) \[conflict\]") as caught:
        calls.checked(response(409, body, retry_after="7"))
    assert (caught.value.status, caught.value.retry_after_s) == (409, 7.0)
    with pytest.raises(ServerError, match="answered 500"):
        calls.checked(response(500, b"<html>"))
    with pytest.raises(Overloaded):
        calls.checked(response(503))
    with pytest.raises(ApiError):
        calls.checked(response(302))


SAFE = calls.get("0190a000-0000-7000-8000-000000000001")
UNSAFE = calls.retry("0190a000-0000-7000-8000-000000000001", None)
ONCE = calls.retry("0190a000-0000-7000-8000-000000000001", "key")
KEYED = calls.submit(JobSpec("mail", queue="default"), "key")
KEYLESS = calls.submit(JobSpec("mail", queue="default"), None)
KEYLESS_BATCH = calls.batch("default", [calls.item(JobSpec("mail", queue="default"))], None)


@pytest.mark.parametrize(
    ("call", "outcome", "again"),
    [
        (SAFE, response(200), False),
        (SAFE, response(404), False),
        (SAFE, response(500), False),
        (SAFE, response(429), True),
        (SAFE, response(502), True),
        (SAFE, OSError(), True),
        (UNSAFE, response(503), True),
        (UNSAFE, response(502), False),
        (UNSAFE, response(504), False),
        (KEYLESS, response(503), True),
        (KEYLESS, response(504), False),
        (KEYLESS, OSError(), False),
        (KEYLESS_BATCH, response(504), False),
        (KEYLESS_BATCH, OSError(), False),
        (ONCE, response(504), True),
        (KEYED, response(504), True),
        (KEYED, OSError(), True),
        (UNSAFE, OSError(), False),
        (SAFE, response(503, retry_after="61"), False),
    ],
)
def test_what_is_tried_again(call: Any, outcome: Any, again: bool) -> None:
    assert (calls.next_delay_s(call, 0, outcome, 0.5) is not None) is again


@given(attempt=st.integers(0, 10_000), chance=st.floats(0, 1))
def test_pauses_are_bounded_and_never_shorter_than_asked(attempt: int, chance: float) -> None:
    delay_s = calls.next_delay_s(SAFE, attempt, OSError(), chance)
    assert delay_s is not None
    assert 0 < delay_s <= limits.RETRY_DELAY_MAX_S
    delay_s = calls.next_delay_s(SAFE, attempt, response(429, retry_after="3"), chance)
    assert delay_s is not None
    assert 3 < delay_s <= 3 + limits.RETRY_DELAY_MAX_S


def test_results() -> None:
    def job(**fields: Any) -> Job:
        return Job(id="j", queue="q", job_type="send", **fields)

    kind = calls.result_type_of(send)
    when = {"at": "2026-01-01T00:00:00Z"}
    done = job(status="succeeded", result=when)
    assert calls.result_of(done, kind) == {"at": datetime(2026, 1, 1, tzinfo=UTC)}
    assert calls.result_of(done, calls.result_type_of("send")) == when
    with pytest.raises(JobCancelled):
        calls.result_of(job(status="cancelled"), kind)
    error = {"type": "ValueError", "message": "no"}
    with pytest.raises(JobFailed, match=r"job j failed \(error\): ValueError: no") as caught:
        calls.result_of(job(status="failed", failed_reason="error", last_error=error), kind)
    assert caught.value.error == error
    by_number = task(_by_number)
    found = calls.result_of(
        job(status="succeeded", result={"1": "a"}), calls.result_type_of(by_number)
    )
    assert found == {1: "a"}


def _by_number() -> dict[int, str]:
    return {}
