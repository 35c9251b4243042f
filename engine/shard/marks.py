"""What a shard knows beside its table of the jobs that were told something special.

    submitted, changed, replayed, loaded ──► the table marks it ──drain──► each book sees it

A book is an index over such jobs: when they expire, what they wait for, which keys they hold. It is
fed by `see` alone and decides nothing by itself, so it is rebuilt by every takeover and needs no
events: it is a pure function of the live jobs. It is not told when a job ends: whoever asks a book
looks whether the job still lives, and forgets it then. Plain jobs never come here.

A job is seen again whenever it is told something new: a book must take that for the whole truth.
"""

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
        self._kept: list[tuple[bytes, Told]] = []

    def read(self, table: ShardTable) -> Iterator[None]:
        """Show the books all that a takeover has marked, some at each step: others have their turn
        in between, but nobody uses the table yet. Children are kept for the book that comes last.
        """
        while portion := table.take_marked(limits.MARKS_READ):
            for job_id, options in portion:
                told = read_told(options)
                for book in self.books:
                    book.see(job_id, told)
                if told.more.parents is not None:
                    self._kept.append((job_id, told))
            for pruned in self._pruned:
                pruned.prune(table, len(portion))
            yield

    def add_children(self, book: Book) -> None:
        """One more book, about jobs with parents alone: it sees what was kept for it, and all that
        comes."""
        self.books.append(book)
        kept, self._kept = self._kept, []
        for job_id, told in kept:
            book.see(job_id, told)

    def drain(self, table: ShardTable) -> None:
        """Show the books what the table has marked; called after each turn that decides, after a
        takeover, and after each chunk of jobs that was loaded."""
        marked = table.take_marked()
        for job_id, options in marked:
            told = read_told(options)
            for book in self.books:
                book.see(job_id, told)
        for pruned in self._pruned:
            pruned.prune(table, len(marked))
