"""The tests of the pages notice what is wrong with a page."""

from __future__ import annotations

import pytest

from tests.docs.pages import Page, broken_links
from tests.docs.running import Run
from tests.docs.shell import mistakes_in, unknown_flags_in

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.fixture
def page(tmp_path):
    def make(text, name="page.md"):
        path = tmp_path / name
        path.write_text(text)
        return Page(path, tmp_path)

    return make


def python(code, info="python"):
    return f"Text.\n\n```{info}\n{code}\n```\n"


def test_an_error_names_the_line_of_the_page(page):
    with pytest.raises(ZeroDivisionError) as caught, Run(page(python("a = 1\n1 / 0"))) as run:
        run.all()
    assert (caught.traceback[-1].path.name, caught.traceback[-1].lineno + 1) == ("page.md", 5)


def test_a_wrong_flag_is_found_in_blocks_and_in_the_text(page):
    text = "Run `runworker --burts`.\n\n```sh\npython manage.py runworker --processes two  # x\n```\n"
    assert unknown_flags_in(page(text)) == ["runworker has no --burts: `runworker --burts`"]
    assert "invalid" in mistakes_in(page(text))[0]


def test_broken_links_are_found(page):
    there = page("# Some `code_name`: two\n\n# Same\n\n# Same\n", "there.md")
    text = "[a](there.md) [a](there.md#some-code_name-two) [a](there.md#same-1) [a](#me)\n\n# Me\n"
    here = page(f"{text}[b](none.md) [c](there.md#none) `[d](no_link.md)`\n", "here.md")
    assert broken_links(here, [here, there]) == ["none.md", "there.md#none"]
