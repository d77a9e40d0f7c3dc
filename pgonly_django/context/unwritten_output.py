"""What a run has emitted and readers do not see yet. Used by one thread at a time, mostly the worker's main loop."""

from __future__ import annotations

from dataclasses import dataclass

from pgonly_django.context.output import RunOutput
from pgonly_django.queue.output import SEEN, Part, Said

NOTHING = Part(start=0, text="", first_place=0, text_place=0, last_place=0, characters=0, rows=0)
# The rows of a job are replaced by one that has it all where there are so many, or they hold so much more than that.
ROWS_AT_MOST = 5000
CHARACTERS_AT_MOST = 2_000_000


@dataclass(frozen=True, slots=True)
class Boundary:
    """What is before it in the output is in the table."""

    index: int  # in pieces
    offset: int  # in characters


class UnwrittenOutput:
    """`take()` gives the next row; then call `note_written()`, or `put_back()` where it may not have been written.

    A resumed run says again what an earlier one has said: as long as it is the same, nothing is written, and readers
    keep what they have. The first difference cuts it there. A run that succeeds cuts what it has not said itself.
    """

    def __init__(self, output: RunOutput, job_id: str, lease_epoch: int) -> None:
        self.output = output
        self._id, self._lease_epoch = job_id, lease_epoch
        seen = output.earlier.get(SEEN, NOTHING)
        self._earlier: str | None = seen.text or None  # as far as this run has not said anything else
        self._seen_length = len(seen.text)  # at most
        self._characters, self._rows = seen.characters, seen.rows
        self._boundaries = [Boundary(0, 0)]
        self._taken: tuple[Said, Boundary] | None = None

    @property
    def has_news(self) -> bool:
        """Whether the job has emitted something since the last look."""
        return bool(self.output.changed) or len(self.output.pieces) != self._boundaries[-1].index

    def take(self, *, has_succeeded: bool = False) -> Said | None:
        """The row to write. None: readers see all."""
        self._go_back()
        written = self._boundaries[-1]
        pieces = self.output.pieces[written.index :]
        text = "".join(piece.text for piece in pieces)
        end = Boundary(written.index + len(pieces), written.offset + len(text))
        start = written.offset
        if self._earlier is not None:
            same = _same_length(text, self._earlier, start)
            if same == len(text) and not (has_succeeded and end.offset < self._seen_length):
                if pieces:
                    self._boundaries.append(end)
                return None
            start, text = start + same, text[same:]
        elif not text and start >= self._seen_length:
            return None
        row = self._row(start, text)
        self._taken = row, end
        self._earlier, self._seen_length = None, max(self._seen_length, row.start + len(row.text))
        return row

    def note_written(self) -> None:
        if self._taken is not None:
            row, end = self._taken
            self._taken = None
            self._boundaries.append(end)
            self._seen_length = row.start + len(row.text)
            if row.starts_over:
                self._characters = self._rows = 0
            self._characters += len(row.text)
            self._rows += 1

    def put_back(self) -> None:
        """It may be in the table, or come there later: the next row begins where it began, or before."""
        self._taken = None

    def close(self) -> None:
        """The run is over: what its threads emit from now on is dropped."""
        self.output.is_closed = True

    def _row(self, start: int, text: str) -> Said:
        is_much = self._characters + len(text) > CHARACTERS_AT_MOST + start + len(text)
        starts_over = start > 0 and (is_much or self._rows >= ROWS_AT_MOST)
        if starts_over:
            start, text = 0, str(self.output)[:start] + text
        return Said(self._id, self._lease_epoch, self.output.next_place(), start, text, starts_over)

    def _go_back(self) -> None:
        """To before what the job has changed."""
        while self.output.changed:
            index = self.output.changed.popleft()
            while self._boundaries[-1].index > index:
                self._boundaries.pop()


def _same_length(text: str, other: str, start: int) -> int:
    """How many characters of `text` are what `other` has from `start` on."""
    if other.startswith(text, start):
        return len(text)
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if other.startswith(text[:middle], start) else (low, middle)
    return low
