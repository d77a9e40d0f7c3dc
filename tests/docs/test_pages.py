"""README.md and docs/: their code runs, their commands parse, and their links lead somewhere.

A block of Python runs unless its fence says `python excerpt`. What a page assumes that its reader has is in
`before/<page>.py` here, which runs first in the page's namespace. Its function `after(page)`, if it has one, runs last
and checks what the blocks have made. The tutorial is a project: test_tutorial.py.
"""

from __future__ import annotations

import json
import subprocess
import tomllib

import pytest
import yaml
from django.template import engines

from tests.docs.pages import PAGES, ROOT, Page, broken_links
from tests.docs.running import Run
from tests.docs.shell import OTHER_PROGRAMS, mistakes_in, other_programs_in, unknown_flags_in

# What reads a block of another language, and raises for one that is none.
READERS = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
    "html": engines["django"].from_string,
    "django": engines["django"].from_string,
}

of_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "page", [page for page in PAGES if not page.name.startswith("tutorial/")], ids=lambda page: page.name
)
def test_the_python_of_a_page_runs(page: Page):
    with Run(page) as run:
        run.all()


def test_each_file_before_belongs_to_a_page():
    folder = ROOT / "tests" / "docs" / "before"
    assert set(folder.rglob("*.py")) <= {page.before for page in PAGES}


@of_each_page
def test_the_commands_of_a_page_take_these_arguments(page: Page):
    assert mistakes_in(page) + unknown_flags_in(page) == []


@of_each_page
def test_other_lines_of_shell_run_programs_that_are_known(page: Page):
    blocks = [block.code for block in page.blocks if block.language == "sh"]
    assert {word for code in blocks for word in other_programs_in(code)} - OTHER_PROGRAMS == set()


def test_all_shell_can_be_parsed():
    blocks = [block.code for page in PAGES for block in page.blocks if block.language == "sh"]
    done = subprocess.run(
        ["bash", "-n"], input="\n".join(blocks), capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@of_each_page
def test_blocks_of_other_languages_can_be_read(page: Page):
    for block in page.blocks:
        if (read := READERS.get(block.language)) and not block.is_excerpt:
            read(block.code)


@of_each_page
def test_links_lead_to_files_and_headings_that_exist(page: Page):
    assert broken_links(page, PAGES) == []
