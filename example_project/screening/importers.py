"""Reads papers from a CSV file: all of them or none."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from django.db import transaction

from example_project.screening.columns import ABSTRACT, LABEL, TITLE, find_columns
from example_project.screening.models import Paper, Project

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

BATCH = 500
SHORT_FIELDS = {"source_id": 200, "journal": 300, "year": 20}  # the lengths of their columns
LABELS: dict[str, bool | None] = {
    **dict.fromkeys(("1", "1.0", "yes", "true", "y", "include", "included", "relevant"), True),
    **dict.fromkeys(("0", "0.0", "no", "false", "n", "exclude", "excluded", "irrelevant"), False),
    **dict.fromkeys(("", "-1", "maybe", "nan", "none"), None),
}


class RowError(ValueError):
    """A row that is no valid paper. `line` counts from 1 and includes the header."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        super().__init__(f"Line {line}: {reason}. Nothing was imported.")


def read_papers(content: bytes) -> list[Paper]:
    """The papers in a UTF-8 CSV file, not yet saved and without a project.

    Raises ColumnError or RowError, which name the column or the line.
    """
    papers = list(_papers(_decoded(content)))
    if not papers:
        raise RowError(2, "no paper follows the header")
    return papers


def new_project(
    name: str, question: str, criteria: str, papers: list[Paper], budget_usd: Decimal | None = None
) -> Project:
    """Write a project and its papers in one transaction. Without a budget it gets the usual one."""
    budget = {} if budget_usd is None else {"budget_usd": budget_usd}
    with transaction.atomic():
        project = Project.objects.create(name=name, question=question, criteria=criteria, **budget)
        for paper in papers:
            paper.project = project
        Paper.objects.bulk_create(papers, batch_size=BATCH)
    return project


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RowError(line, "the text is not UTF-8; save the file as UTF-8 CSV") from error


def _papers(text: str) -> Iterator[Paper]:
    rows = _rows(text)
    _, header = next(rows, (1, []))
    columns = find_columns(header)
    for position, (line, row) in enumerate(rows, start=1):
        _check(line, row, header)
        fields = {name: row[place].strip() for name, place in columns.items()}
        yield _paper(position, fields, line)


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not empty, with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise RowError(line, f"not readable as CSV ({error})") from error
        if any(cell.strip() for cell in row):
            yield line, row


def _check(line: int, row: Sequence[str], header: Sequence[str]) -> None:
    if len(row) != len(header):
        raise RowError(line, f"{len(row)} cells where the header has {len(header)}")
    if any("\x00" in cell for cell in row):
        raise RowError(line, "a NUL character, which PostgreSQL cannot hold")


def _paper(position: int, fields: dict[str, str], line: int) -> Paper:
    if not fields[TITLE]:
        raise RowError(line, "the title is empty")
    return Paper(
        position=position,
        title=fields[TITLE],
        abstract=fields[ABSTRACT],
        source_id=_short(fields, "source_id"),
        journal=_short(fields, "journal"),
        year=_short(fields, "year"),
        label=_label(fields.get(LABEL, ""), line),
    )


def _short(fields: dict[str, str], name: str) -> str:
    """A field that is only displayed, cut to the length of its column."""
    return fields.get(name, "")[: SHORT_FIELDS[name]]


def _label(text: str, line: int) -> bool | None:
    try:
        return LABELS[text.lower()]
    except KeyError as error:
        raise RowError(line, f"the label is {text!r}; use 1 or 0, or leave it empty") from error
