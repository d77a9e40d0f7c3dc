"""llms.txt names each page, with what the page says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import ndiff
from fnmatch import fnmatch

from docs import llms
from tests.docs.pages import PAGES, ROOT, Page
from tests.guards import place, refuse

INDEX = re.findall(r"^([\w-]+/[\w*-]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
OF_DOCS = [page for page in PAGES if "/" in page.name and page.path.is_relative_to(ROOT / "docs")]


def test_the_file_is_that_of_the_pages():
    lines = ndiff((ROOT / llms.FILE).read_text().splitlines(), llms.text().splitlines())
    refuse(
        [line for line in lines if line.startswith(("-", "+"))],
        "llms.txt is out of date (- what it says, + what the pages say). Run `python -m docs.llms`, and commit it.",
    )


def what_is_wrong(page: Page) -> Iterator[str]:
    title, paragraph, *_ = [*page.text.split("\n\n"), ""]
    if not title.startswith("# "):
        yield "the first line is no title, such as `# Schedules`"
    if not paragraph or paragraph[0] in "#|*-{<" or paragraph.rstrip()[-1] not in ".:":
        yield "no sentence that says what the page is for follows the title"
    if not any(fnmatch(page.name, entry) for entry in INDEX):
        yield "no toctree of docs/index.md names it"
    if f"({page.path.relative_to(ROOT)}): " not in llms.text():
        yield "its folder is not in SECTIONS of docs/llms.py"


def test_a_page_begins_with_what_it_is_for():
    refuse(
        [f"{place(page.path)}: {wrong}" for page in OF_DOCS for wrong in what_is_wrong(page)],
        "A page of docs/ begins with its title and a paragraph for the reader who looks for the right page, and a "
        "toctree of docs/index.md names it.",
    )
