"""Finds the columns of a file by the names that PubMed, Rayyan and ASReview exports use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

TITLE, ABSTRACT, LABEL = "title", "abstract", "label"

# Our name -> the names in files, the preferred one first. Compared in lower case, with underscores for spaces.
KNOWN: dict[str, tuple[str, ...]] = {
    "source_id": ("pmid", "key", "record_id", "id", "doi", "pubmed_id", "accession_number"),
    TITLE: ("title", "primary_title", "article_title", "document_title", "ti", "t1"),
    ABSTRACT: ("abstract", "abstract_note", "notes_abstract", "abstracts", "ab", "n2"),
    "journal": (
        "journal",
        "journal/book",
        "journal_book",
        "secondary_title",
        "publication_title",
        "source",
        "jt",
        "t2",
    ),
    "year": ("year", "publication_year", "year_published", "py", "dp"),
    LABEL: ("label_included", "included", "label", "final_included", "included_label", "asreview_label"),
}
REQUIRED = (TITLE, ABSTRACT)


class ColumnError(ValueError):
    """A file without a column that screening needs."""

    def __init__(self, missing: str, header: Sequence[str]) -> None:
        self.missing = missing
        names = ", ".join(KNOWN[missing])
        found = ", ".join(filter(None, header)) or "none"
        super().__init__(
            f"The file has no column for the {missing}. Known names are: {names}. Its columns are: {found}."
        )


def find_columns(header: Sequence[str]) -> dict[str, int]:
    """Our name -> its position in `header`, for each column found. Raises ColumnError without a required one."""
    places: dict[str, int] = {}
    for place, name in enumerate(header):
        places.setdefault(_plain(name), place)
    columns = {
        ours: next(places[name] for name in theirs if name in places)
        for ours, theirs in KNOWN.items()
        if any(name in places for name in theirs)
    }
    for name in REQUIRED:
        if name not in columns:
            raise ColumnError(name, header)
    return columns


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")
