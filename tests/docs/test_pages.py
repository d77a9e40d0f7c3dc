"""README.md and docs/: their code runs, their commands parse, and their links lead somewhere.

A block of Python runs unless its fence says `python excerpt`. What a page assumes that its reader has is in
`before/<page>.py` here, which runs first in the page's namespace. Its function `after(page)`, if it has one, runs last
and checks what the blocks have made. The tutorial is a project: test_tutorial.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator

import pytest
import yaml
from django.template import engines

from tests.docs.pages import PAGES, ROOT, Page, broken_links
from tests.docs.running import Run
from tests.docs.shell import OTHER_PROGRAMS, mistakes_in, other_programs_in, unknown_flags_in
from tests.guards import line_of, place, refuse

pytestmark = pytest.mark.slow

# What reads a block of another language, and raises for one that is none.
READERS = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
    "html": engines["django"].from_string,
    "django": engines["django"].from_string,
}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "page", [page for page in PAGES if not page.name.startswith("tutorial/")], ids=lambda page: page.name
)
def test_the_python_of_a_page_runs(page: Page):
    with Run(page) as run:
        run.all()


def test_each_file_before_belongs_to_a_page():
    folder = ROOT / "tests" / "docs" / "before"
    strays = set(folder.rglob("*.py")) - {page.before for page in PAGES}
    refuse(
        [f"{place(file)} has no page" for file in sorted(strays)],
        "Its name is that of a page of docs/ with `_` for `-`: how_to/queue.py for docs/how-to/queue.md. Rename it, or "
        "delete it if the page is gone.",
    )


def test_the_commands_of_the_pages_take_these_arguments():
    refuse(
        [
            f"{place(page.path)}: {mistake}"
            for page in PAGES
            for mistake in mistakes_in(page) + unknown_flags_in(page)
        ],
        "The page shows a command that ends with an error: correct the page, or the command in "
        "pgonly_django/management/commands/.",
    )


def test_other_lines_of_shell_run_programs_that_are_known():
    refuse(
        [
            f"{place(page.path, block.line)}: {word}"
            for page in PAGES
            for block in page.blocks
            if block.language == "sh"
            for word in sorted(other_programs_in(block.code) - OTHER_PROGRAMS)
        ],
        "A line of a `sh` block begins with this word. If a reader has such a program, add it to OTHER_PROGRAMS of "
        "tests/docs/shell.py; if it is no command, give the block another language.",
    )


def test_all_shell_can_be_parsed():
    blocks = [block.code for page in PAGES for block in page.blocks if block.language == "sh"]
    done = subprocess.run(
        ["bash", "-n"], input="\n".join(blocks), capture_output=True, text=True, check=False
    )
    lines = "\n".join(blocks).splitlines()
    numbers = [int(number) for number in re.findall(r"line (\d+)", done.stderr)]
    around = [f"    {line}" for number in numbers[:1] for line in lines[max(number - 3, 0) : number]]
    refuse(
        [*done.stderr.splitlines(), *around],
        "bash cannot read the last of these lines, which stands in a `sh` block of README.md or docs/: correct it.",
    )


def reading_errors(page: Page) -> Iterator[str]:
    for block in page.blocks:
        if (read := READERS.get(block.language)) and not block.is_excerpt:
            try:
                read(block.code)
            except Exception as error:  # each reader has errors of its own
                yield f"{place(page.path, block.line)}: no {block.language}: {error}"


def test_blocks_of_other_languages_can_be_read():
    refuse(
        [error for page in PAGES for error in reading_errors(page)],
        "Correct the block that begins there. One that is not whole says so: ```json excerpt",
    )


def test_links_lead_to_files_and_headings_that_exist():
    refuse(
        [
            f"{place(page.path, line_of(page.text, f']({link}'))}: {link}"
            for page in PAGES
            for link in broken_links(page, PAGES)
        ],
        "No such file, or it has no such heading. A heading's link is its words in lower case with `-` between them.",
    )
