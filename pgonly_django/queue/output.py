"""The text that jobs emit. It is kept in rows that are applied in the order of their places: cut the text to its first
`start` characters, and append `text`. So a row that is written twice does no harm, and one that comes late changes
nothing that was written after it.

Each job has several such texts, called parts. Part "" is what readers see: workers write it while the job runs, outside
of its transaction. The others are the texts that a later run repeats instead of doing something again: that of a
finished step, of the items that a loop has finished, and all that stood when the checkpoint was saved. They are written
with the step or the position, in one transaction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from django.db import connections

from pgonly_django.database.on_django import all_rows
from pgonly_django.models.checkpoint import PART_LENGTH
from pgonly_django.tables import qualified

SEEN = ""  # the part that readers see
CHECKPOINT = "checkpoint"
STEP_PREFIX = "step "
# The rows of a job are replaced by one that has it all above these numbers of rows, and of characters beyond that.
ROWS_AT_MOST = 5000
CHARACTERS_AT_MOST = 2_000_000


def part_of_step(name: str) -> str:
    return STEP_PREFIX + name


def part_of_loop(name: str) -> str:
    """Returns the part of a loop, whose name may have any length."""
    part = f"loop {name}"
    return part if len(part) <= PART_LENGTH else f"loop {hashlib.sha256(name.encode()).hexdigest()}"


def place(lease_epoch: int, number: int) -> int:
    """Returns the place of a row: rows of a later run come after all rows of an earlier one."""
    return lease_epoch << 32 | number


def epoch_of(place: int) -> int:
    """Returns the lease_epoch of the run that has written a row at this place."""
    return place >> 32


class PartRow(NamedTuple):
    """One row of a part that later runs need. `starts_over`: it takes the place of all earlier rows of its part."""

    part: str
    place: int
    start: int
    text: str
    starts_over: bool = False


@dataclass(frozen=True, slots=True)
class SeenRow:
    """One row of what readers see, on its way from a running job to the table."""

    id: str
    lease_epoch: int
    place: int
    start: int
    text: str
    starts_over: bool = False


@dataclass(slots=True)
class RowsSize:
    """The size of the rows of one part in the table."""

    rows: int = 0
    characters: int = 0

    def is_too_much(self, length: int) -> bool:
        """Returns whether the rows are too much for a text of this number of characters."""
        return self.rows >= ROWS_AT_MOST or self.characters > CHARACTERS_AT_MOST + length

    def add(self, row: SeenRow) -> None:
        if row.starts_over:
            self.rows = self.characters = 0
        self.rows += 1
        self.characters += len(row.text)


# Index: the primary key (for "state || ''" see queue/finish.py), then pgonly_job_output_once. The answer has the jobs
# whose row was written, and those that belong to another run by now: nothing of them can ever be written. The others
# are locked. FOR KEY SHARE: a job's own transaction may have changed its row.
WRITE_OUTPUT = qualified("""
WITH said AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(lease_epochs)s::int[], %(places)s::int8[], %(starts)s::int[],
        %(texts)s::text[], %(start_over)s::bool[]) AS s(id, lease_epoch, place, start, text, starts_over)
),
free AS MATERIALIZED (
    SELECT job.id FROM pgonly_job AS job JOIN said ON job.id = said.id AND job.lease_epoch = said.lease_epoch
    WHERE job.state || '' = 'running' FOR KEY SHARE OF job SKIP LOCKED
),
replaced AS (
    DELETE FROM pgonly_job_output AS output USING said WHERE output.job_id = said.id AND output.part = ''
        AND output.place < said.place AND said.starts_over AND said.id IN (SELECT id FROM free)
),
written AS (
    INSERT INTO pgonly_job_output (job_id, part, place, start, text)
    SELECT said.id, '', said.place, said.start, said.text FROM said WHERE said.id IN (SELECT id FROM free)
)
SELECT said.id::text FROM said WHERE said.id IN (SELECT id FROM free) OR NOT EXISTS (
    SELECT FROM pgonly_job AS job
    WHERE job.id = said.id AND job.lease_epoch = said.lease_epoch AND job.state || '' = 'running')
""")


def write_output(connection: psycopg.Connection[Any], rows: Sequence[SeenRow]) -> set[str]:
    """Writes the rows, of one job each. Returns the ids of the jobs with nothing left to write; see above."""
    parameters = {
        "ids": [row.id for row in rows],
        "lease_epochs": [row.lease_epoch for row in rows],
        "places": [row.place for row in rows],
        "starts": [row.start for row in rows],
        "texts": [row.text for row in rows],
        "start_over": [row.starts_over for row in rows],
    }
    return {job_id for (job_id,) in connection.execute(WRITE_OUTPUT, parameters, prepare=True)}


# Index: pgonly_job_output_once, here and below. A statement may be repeated whose answer got lost.
KEEP_OUTPUT = qualified("""
INSERT INTO pgonly_job_output (job_id, part, place, start, text)
SELECT %(id)s::uuid, kept.*
FROM unnest(%(parts)s::text[], %(places)s::int8[], %(starts)s::int[], %(texts)s::text[]) AS kept
ON CONFLICT (job_id, part, place) DO NOTHING
""")
START_OVER = qualified(
    "DELETE FROM pgonly_job_output WHERE job_id = %(id)s AND part = ANY (%(parts)s::text[])"
)


def keep(alias: str, job_id: str, rows: Sequence[PartRow]) -> None:
    """Writes the rows on Django's connection, in the transaction of the statement that has checked the lease."""
    with connections[alias].cursor() as cursor:
        if restarted := [row.part for row in rows if row.starts_over]:
            cursor.execute(START_OVER, {"id": job_id, "parts": restarted})
        names = ("part", "place", "start", "text")
        columns = {f"{name}s": [getattr(row, name) for row in rows] for name in names}
        cursor.execute(KEEP_OUTPUT, {"id": job_id, **columns})


class Text:
    """A text that its rows make."""

    __slots__ = ("_length", "_pieces", "keep")

    def __init__(self, keep: int = 0) -> None:
        self.keep = keep  # this many characters before it stay as they were
        self._pieces: list[str] = []
        self._length = 0

    def apply(self, start: int, text: str) -> None:
        """Cuts the text to `start` characters, and appends `text`."""
        if start < self.keep + self._length:
            kept = str(self)[: max(start - self.keep, 0)]
            self._pieces, self._length = [kept], len(kept)
            self.keep = min(self.keep, start)
        self._pieces.append(text)
        self._length += len(text)

    def __str__(self) -> str:
        return "".join(self._pieces)


@dataclass(frozen=True, slots=True)
class StoredPart:
    """The text that the rows of one part make. `start` is where it begins in all that the run had emitted."""

    start: int
    text: str
    first_place: int
    text_place: int  # of the last row with text; 0: none has
    last_place: int
    size: RowsSize

    @property
    def bounds(self) -> tuple[int, int]:
        return self.start, self.start + len(self.text)


LOAD_OUTPUT = qualified(
    "SELECT part, place, start, text FROM pgonly_job_output WHERE job_id = %(id)s ORDER BY part, place"
)


def load_output(alias: str, job_id: str) -> dict[str, StoredPart]:
    """Returns all that earlier runs of a job have emitted, by part, for the run that resumes it."""
    stored = groupby(all_rows(alias, LOAD_OUTPUT, {"id": job_id}), itemgetter(0))
    return {name: _part(name, list(rows)) for name, rows in stored}


def _part(name: str, rows: Sequence[tuple[str, int, int, str]]) -> StoredPart:
    text = Text(keep=0 if name == SEEN else rows[0][2])
    for _, _, start, appended in rows:
        text.apply(start, appended)
    text_place = max((row[1] for row in rows if row[3]), default=0)
    size = RowsSize(len(rows), sum(len(row[3]) for row in rows))
    return StoredPart(text.keep, str(text), rows[0][1], text_place, rows[-1][1], size)


@dataclass(frozen=True, slots=True)
class Output:
    """What a job has emitted since an offset. Of the text that you have from there, keep the first `keep` characters
    (None: all) and append `text`. `offset` is where the next call continues."""

    text: str
    keep: int | None
    offset: int

    def applied_to(self, text: str) -> str:
        """Returns the whole text, made of the text that you have."""
        return text[: self.keep] + self.text


ALL_CHARACTERS = 2**31 - 1
CURSOR = re.compile("([0-9]{1,18})(?::([0-9]{1,18}):([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place of a reader: it has all rows up to `after`, and `given` characters of the row at `place` after it."""

    after: int = 0
    place: int = 0
    given: int = 0

    def __str__(self) -> str:
        return f"{self.after}:{self.place}:{self.given}" if self.given else str(self.after)

    @classmethod
    def of(cls, text: str) -> Cursor:
        """Returns the cursor of a text. Any text that is not str() of a cursor gives the beginning."""
        found = CURSOR.fullmatch(text)
        return cls(*(int(number or 0) for number in found.groups())) if found else cls()


class PieceWanted(NamedTuple):
    """A question for one piece of what a job has emitted."""

    job_id: str
    cursor: Cursor
    size: int  # in characters


class Piece(NamedTuple):
    output: Output
    next: Cursor
    has_more: bool  # there may be more after it


# Index: pgonly_job_output_once. octet_length() reads no text that is stored out of line. A row that is cut is the last
# one of its piece, and the rest of it is read alone: it is as long as a piece.
READ_PIECES = qualified("""
SELECT asked.number, piece.place, piece.start, piece.text, piece.bytes
FROM unnest(%(ids)s::uuid[], %(afters)s::int8[], %(places)s::int8[], %(given)s::int[], %(sizes)s::int[])
    WITH ORDINALITY AS asked(job_id, after, place, given, size, number)
CROSS JOIN LATERAL (
    SELECT place, start, bytes,
        substr(text, CASE WHEN place = asked.place THEN asked.given ELSE 0 END + 1, asked.size) AS text
    FROM (
        SELECT place, start, text, octet_length(text) AS bytes, sum(octet_length(text)) OVER (ORDER BY place) AS until
        FROM pgonly_job_output WHERE job_id = asked.job_id AND part = '' AND place > asked.after
    ) AS behind WHERE until - bytes < asked.size
) AS piece ORDER BY asked.number, piece.place
""")


def read_pieces(alias: str, questions: Sequence[PieceWanted]) -> dict[PieceWanted, Piece]:
    """Returns the next piece for each question: not much more than `size` characters, however much there is."""
    asked = list(dict.fromkeys(questions))
    parameters = {
        "ids": [each.job_id for each in asked],
        "afters": [each.cursor.after for each in asked],
        "places": [each.cursor.place for each in asked],
        "given": [each.cursor.given for each in asked],
        "sizes": [each.size for each in asked],
    }
    stored = groupby(all_rows(alias, READ_PIECES, parameters), itemgetter(0))
    rows = {number: list(of) for number, of in stored}
    return {each: _piece(each, rows.get(number, [])) for number, each in enumerate(asked, 1)}


def read_output(alias: str, job_id: str | UUID, after: int = 0) -> Output:
    """Returns what readers see; see JobResult.output()."""
    question = PieceWanted(str(job_id), Cursor(after), ALL_CHARACTERS)
    return read_pieces(alias, [question])[question].output


def _piece(question: PieceWanted, rows: Sequence[tuple[int, int, int, str, int]]) -> Piece:
    at, size = question.cursor, question.size
    if not rows:
        return Piece(Output("", None, at.after), Cursor(at.after), False)
    _, place, start, _, _ = rows[0]
    given = at.given if place == at.place else 0
    had = start + given
    text = Text(keep=had if at.after or given else 0)
    for number, row in enumerate(rows):
        text.apply(row[2] if number else had, row[3])
    keep = None if given and text.keep == had else text.keep
    _, last, _, end, _ = rows[-1]
    if len(end) < size:
        after = Cursor(last)
    else:
        after = Cursor(rows[-2][1] if rows[1:] else at.after, last, (given if last == place else 0) + size)
    has_more = bool(after.given) or sum(row[4] for row in rows) >= size
    return Piece(Output(str(text), keep, after.after), after, has_more)
