"""llms.txt names each page, with what the page says of itself."""

from __future__ import annotations

import pytest

from docs import llms
from tests.docs.pages import PAGES, ROOT, Page

OF_DOCS = [page for page in PAGES if "/" in page.name and page.path.is_relative_to(ROOT / "docs")]


def test_the_file_is_that_of_the_pages():
    assert (ROOT / "llms.txt").read_text() == llms.text(), "run: python -m docs.llms"


@pytest.mark.parametrize("page", OF_DOCS, ids=lambda page: page.name)
def test_a_page_begins_with_what_it_is_for(page: Page):
    title, paragraph, *_ = page.text.split("\n\n")
    assert title.startswith("# ")
    assert paragraph[0] not in "#|*-{<", "begin with a sentence that says what the page is for"
    assert paragraph.rstrip()[-1] in ".:"
    assert f"({page.path.relative_to(ROOT)}): " in llms.text()
