"""Completions on their way to the server.

    gathering ──seal──► sealed (sequence number, kept) ──ack──► forgotten
                            └──connection lost: sent again, in order, without stale ones

Jobs that succeeded without a result are slices of the token bytes that came with them, so that a
run of a hundred such jobs is one append. A sealed frame stays until its ack: whether the server has
it is known only then. Tokens of completions that are not acknowledged count as held.

Invariant: every job that this worker finished is in exactly one of gathering and sealed, until the
server has acknowledged it or has refused its lease.
"""

from taskforge.limits import DONE_BYTES_MAX, TOKEN_BYTES
from taskforge.worker import frames
from taskforge.worker.outcome import understood


class Sealed:
    """One done frame that is not acknowledged yet."""

    __slots__ = ("jobs", "others", "seq", "tokens_ok")

    def __init__(self, seq: int, tokens_ok: bytes, others: list[frames.Outcome]) -> None:
        self.seq = seq
        self.tokens_ok = tokens_ok
        self.others = others
        self.jobs = len(tokens_ok) // TOKEN_BYTES + len(others)

    def encode(self, outcome_max: int = frames.CANCELLED) -> bytes:
        """The frame as it goes over the wire, to a server that knows no outcome beyond that."""
        others = [understood(other, outcome_max) for other in self.others]
        return frames.done(self.seq, self.tokens_ok, others)

    def without(self, stale: set[bytes]) -> None:
        """Forget completions whose lease the server has refused."""
        kept = [token for token in _each(self.tokens_ok) if token not in stale]
        self.tokens_ok = b"".join(kept)
        self.others = [other for other in self.others if other[0] not in stale]
        self.jobs = len(kept) + len(self.others)


class Completions:
    """Gathers completions, seals them into frames, keeps the frames until they are acknowledged."""

    def __init__(self) -> None:
        self.gathered_jobs = 0
        self.finished_jobs = 0  # ever
        self.unacked_jobs = 0
        self._ok: list[bytes] = []
        self._others: list[frames.Outcome] = []
        self._others_bytes = 0
        self._seq = 0
        self._sealed: dict[int, Sealed] = {}

    def succeeded(self, tokens: bytes, jobs: int) -> None:
        """These jobs succeeded without a result."""
        self._ok.append(tokens)
        self.gathered_jobs += jobs
        self.finished_jobs += jobs

    def add(self, token: bytes, outcome: int, data: bytes | None) -> None:
        """One job ended, with a result or an error in JSON."""
        self._others.append((token, outcome, data))
        if data is not None:
            self._others_bytes += len(data)
        self.gathered_jobs += 1
        self.finished_jobs += 1

    def seal(self) -> list[Sealed]:
        """Frames for all that was gathered; none is heavier than the bound if it can be split."""
        if not self.gathered_jobs:
            return []
        found = []
        tokens_ok, others = b"".join(self._ok), self._others
        if self._others_bytes <= DONE_BYTES_MAX:
            found.append(self._sealed_frame(tokens_ok, others))
        else:
            for part in _parts(others):
                found.append(self._sealed_frame(tokens_ok, part))
                tokens_ok = b""
        self._ok, self._others, self._others_bytes, self.gathered_jobs = [], [], 0, 0
        return found

    def _sealed_frame(self, tokens_ok: bytes, others: list[frames.Outcome]) -> Sealed:
        self._seq += 1
        frame = Sealed(self._seq, tokens_ok, others)
        self._sealed[frame.seq] = frame
        self.unacked_jobs += frame.jobs
        return frame

    def acknowledged(self, seq: int) -> None:
        """The server has made the frame durable; acks of unknown frames say nothing new."""
        frame = self._sealed.pop(seq, None)
        if frame is not None:
            self.unacked_jobs -= frame.jobs

    def resend(self, stale: set[bytes]) -> list[Sealed]:
        """The frames for a new connection, oldest first, without what the server has refused."""
        if stale:
            for frame in list(self._sealed.values()):
                jobs = frame.jobs
                frame.without(stale)
                self.unacked_jobs -= jobs - frame.jobs
                if not frame.jobs:
                    del self._sealed[frame.seq]
        return list(self._sealed.values())

    def tokens(self) -> bytes:
        """Every completion that is not acknowledged, as tokens."""
        parts = list(self._ok)
        parts.extend(other[0] for other in self._others)
        for frame in self._sealed.values():
            parts.append(frame.tokens_ok)
            parts.extend(other[0] for other in frame.others)
        return b"".join(parts)

    @property
    def empty(self) -> bool:
        """Everything is acknowledged."""
        return not self.gathered_jobs and not self._sealed


def _each(tokens: bytes) -> list[bytes]:
    return [tokens[start : start + TOKEN_BYTES] for start in range(0, len(tokens), TOKEN_BYTES)]


def _parts(others: list[frames.Outcome]) -> list[list[frames.Outcome]]:
    """The list cut so that each part stays within the bound, or is a single completion."""
    parts: list[list[frames.Outcome]] = [[]]
    weight = 0
    for other in others:
        size = len(other[2]) if other[2] is not None else 0
        if parts[-1] and weight + size > DONE_BYTES_MAX:
            parts.append([])
            weight = 0
        parts[-1].append(other)
        weight += size
    return parts
