"""What a run has emitted and readers do not see yet: the rows that the worker writes next."""

from __future__ import annotations

from dataclasses import replace
from os.path import commonprefix

from pgonly_django.context.output import RunOutput
from pgonly_django.queue.output import SEEN, RowsSize, SeenRow


class UnwrittenOutput:
    """The text that readers do not see yet. One thread at a time uses it, mostly the worker's main loop. `take()` gives
    the next row; then call `note_written()`, or `put_back()` where it may not have been written.

    A resumed run repeats what an earlier one has emitted: as long as it is the same, nothing is written, and readers
    keep what they have. The first difference cuts it. A run that succeeds cuts what it has not emitted itself.
    """

    def __init__(self, output: RunOutput, job_id: str, lease_epoch: int) -> None:
        self.output = output
        self._id, self._lease_epoch = job_id, lease_epoch
        seen = output.earlier.get(SEEN)
        self._in_table = replace(seen.size) if seen else RowsSize()
        self._seen = [seen.text] if seen else []  # by readers, for sure, in pieces
        self._seen_length = len(seen.text) if seen else 0  # at most
        self._repeats = bool(seen)  # the run has not said anything else yet
        self._looked_at = (0, 0)  # the number of chunks, and of changes
        # The row; its text comes after this number of pieces of `_seen`.
        self._taken: tuple[SeenRow, int, list[str]] | None = None

    @property
    def has_news(self) -> bool:
        """Whether the job has emitted something since the last look."""
        return self._looked_at != (len(self.output.chunks), self.output.changes)

    def take(self, *, has_succeeded: bool = False) -> SeenRow | None:
        """Returns the row to write; None when readers see all."""
        self.put_back()
        begin, pieces = self._look()
        text = "".join(pieces)
        start, length = begin or self._length_in_common(text), begin + len(text)
        cuts = length < self._seen_length and (has_succeeded or not self._repeats)
        if start == length and not cuts:
            return None
        self._repeats = False
        if self._in_table.is_too_much(start):
            start = 0
        starts_over = start == 0 and self._seen_length > 0
        new = text[start - begin :]
        row = SeenRow(self._id, self._lease_epoch, self.output.next_place(), start, new, starts_over)
        self._taken = row, len(self._seen) if begin else 0, pieces
        self._seen_length = max(self._seen_length, length)
        return row

    def note_written(self) -> None:
        if self._taken is not None:
            row, kept, pieces = self._taken
            self._seen[kept:] = pieces
            self._taken, self._seen_length = None, row.start + len(row.text)
            self._in_table.add(row)

    def put_back(self) -> None:
        """Called when the row may not be in the table: the next row begins where it began, or before."""
        if self._taken is not None:
            self._seen = ["".join(self._seen)[: self._taken[0].start]]
            self._taken, self._looked_at = None, (-1, -1)

    def _look(self) -> tuple[int, list[str]]:
        """Returns what the run has emitted after this number of characters: all, or only the new text while it only
        adds to what readers have. A look costs no more than the new text: the worker's main loop takes four a second at
        each job that emits."""
        (known, changes), begin = self._looked_at, self._seen_length
        if self._repeats or changes != self.output.changes or self._in_table.is_too_much(begin):
            known, changes, begin = 0, self.output.changes, 0
        pieces = [chunk.text for chunk in self.output.chunks[known:]]
        self._looked_at = known + len(pieces), changes
        return begin, pieces

    def _length_in_common(self, text: str) -> int:
        seen = "".join(self._seen)
        if text.startswith(seen):
            return len(seen)
        return len(commonprefix([text, seen]))  # noqa: RUF071 - of texts, which are not paths
