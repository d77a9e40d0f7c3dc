from __future__ import annotations

import pytest

from example_project.screening.columns import ColumnError
from example_project.screening.importers import RowError, new_project, read_papers
from example_project.screening.models import Paper, Project

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "header",
    [
        "PMID,Title,Abstract,Journal/Book,Publication Year",
        "key,title,abstract,journal,year",
        "record_id,primary_title,notes_abstract,secondary_title,PY",
    ],
)
def test_pubmed_rayyan_and_asreview_names_are_understood(header):
    (paper,) = read_papers(f"{header}\n17,A title,An abstract,A journal,1977\n".encode())
    assert (paper.source_id, paper.title, paper.abstract) == ("17", "A title", "An abstract")
    assert (paper.journal, paper.year, paper.label) == ("A journal", "1977", None)


def test_a_missing_column_is_named_with_the_known_names_and_those_found():
    with pytest.raises(
        ColumnError, match=r"no column for the abstract.*notes_abstract.*are: PMID, Title, DOI"
    ):
        read_papers(b"PMID,Title,DOI\n1,A,B\n")


@pytest.mark.parametrize(
    ("row", "reason"),
    [("only one cell", "1 cells where the header has 3"), (",no title,1", "the title is empty"),
     ("a,b,perhaps", "label is 'perhaps'"), ("a,nul\x00,1", "NUL"), ('a,"b"c,1', "not readable as CSV")],
)  # fmt: skip
def test_a_bad_row_is_named_by_the_line_it_begins_on(row, reason):
    text = f'title,abstract,included\nGood,"two\nlines",1\n\n{row}\n'
    with pytest.raises(RowError, match=reason) as raised:
        read_papers(text.encode())
    assert raised.value.line == 5


def test_a_paper_that_the_database_refuses_leaves_no_half_project(db):
    papers = read_papers(b"title,abstract\na,b\nc,d\n")
    papers[1].position = papers[0].position
    with pytest.raises(Exception, match="screening_paper_position"):
        new_project("name", "question", "criteria", papers)
    assert not Project.objects.exists()
    assert not Paper.objects.exists()
