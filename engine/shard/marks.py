"""What a shard knows beside its table of the jobs that were told something special.

    submitted, changed, replayed, loaded ──► the table marks it ──drain──► each book sees it

A book is an index over such jobs: when they expire, what they wait for, which keys they hold. It is
fed by `see` alone and decides nothing by itself, so it is rebuilt by every takeover and needs no
events: it is a pure function of the live jobs. It is not told when a job ends: whoever asks a book
looks whether the job still lives, and forgets it then. Plain jobs never come here.

A job is seen again whenever it is told something new: a book must take that for the whole truth.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.model.joboptions import Told, read_told
from taskforge_server.ext.table import ShardTable


class Book(Protocol):
    """An index over the jobs of one shard that have `more` among their options."""

    def see(self, job_id: bytes, told: Told) -> None:
        """This is what the unfinished job is told from now on."""
        ...


class PrunedBook(Book, Protocol):
    """A book that would grow with jobs that ended."""

    crowded: int
    """A book that is longer is looked through; it is twice what was left the last time, so that
    this costs the same for each job, however many there are."""

    def __len__(self) -> int: ...

    def prune(self, table: ShardTable, seen: int) -> None:
        """Go on looking through it if it is crowded, and forget the jobs that it is no longer
        about: some, as many were just `seen`, since others wait for this turn to end."""
        ...


class Marks:
    """The books of one shard."""

    __slots__ = ("_kept", "_pruned", "books")

    def __init__(self, books: Iterable[Book] = (), pruned: Iterable[PrunedBook] = ()) -> None:
        """`pruned` are books that forget by themselves what ended long before they look at it."""
        self._pruned = [*pruned]
        self.books: list[Book] = [*self._pruned, *books]
        # Not as they were read: of a hundred thousand the garbage collector has 40 ms to look at.
        self._kept: deque[tuple[bytes, bytes]] = deque()

    def read(self, table: ShardTable) -> Iterator[None]:
        """Show the books all that a takeover has marked, some at each step: others have their turn
        in between, but nobody uses the table yet. Children are kept for `read_children`."""
        while portion := table.take_marked(limits.MARKS_READ):
            for job_id, options, told in _read_each(portion):
                for book in self.books:
                    book.see(job_id, told)
                if told.more.parents is not None:
                    self._kept.append((job_id, options))
            for pruned in self._pruned:
                pruned.prune(table, len(portion))
            yield

    def read_children(self, book: Book) -> Iterator[None]:
        """Show the book the jobs with parents that were kept, as `read` does: some jobs and edges
        at each step."""
        shown = 0
        while self._kept:
            job_id, options = self._kept.popleft()
            told = read_told(options)
            book.see(job_id, told)
            shown += 1 if told.more.parents is None else 1 + told.more.parents.count
            if shown >= limits.PARENTS_LOOK_MAX:
                shown = 0
                yield

    def add_children(self, book: Book) -> None:
        """One more book, about jobs with parents alone: it sees what is still kept for it, and all
        that comes."""
        self.books.append(book)
        for _ in self.read_children(book):
            pass

    def drain(self, table: ShardTable) -> None:
        """Show the books what the table has marked; called after each turn that decides, after a
        takeover, and after each chunk of jobs that was loaded."""
        marked = table.take_marked()
        for job_id, _, told in _read_each(marked):
            for book in self.books:
                book.see(job_id, told)
        for pruned in self._pruned:
            pruned.prune(table, len(marked))


def _read_each(marked: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes, Told]]:
    """Each job with its options, as they stand and read: those of one request are often alike."""
    before, told = b"", read_told(None)
    for job_id, options in marked:
        if options != before:
            before, told = options, read_told(options)
        yield job_id, options, told
