"""The tests of the pages notice what is wrong with a page."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.models import Job
from tests.docs.pages import Page, broken_links
from tests.docs.running import Run
from tests.docs.shell import commands_in, mistakes_in, other_programs_in, unknown_flags_in

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


def test_blocks_share_one_namespace_and_one_module(page):
    code = python("from pgonly_django import task\n\n@task\ndef add(a, b):\n    return a + b")
    with Run(page(code + python("add.enqueue(1, 2)"))) as run:
        run.all()
    assert Job.objects.get().task == "docs_page.add"


def test_an_excerpt_is_read_and_does_not_run(page):
    with Run(page(python("unknown.call(...)", "python excerpt"))) as run:
        run.all()
    with pytest.raises(SyntaxError), Run(page(python("unknown(", "python excerpt"))) as run:
        run.all()


def test_what_an_excerpt_imports_from_this_package_is_there(page):
    code = "from pgonly_django import no_such_name\n..."
    with pytest.raises(AttributeError), Run(page(python(code, "python excerpt"))) as run:
        run.all()


def test_await_runs_at_the_top_of_a_page_beside_queries(page):
    text = "from pgonly_django.models import Job\nawait Job.objects.acount()\nhow_many = Job.objects.count()"
    with Run(page(python(text))) as run:
        run.all()
        assert run.module.how_many == 0


def test_settings_that_a_check_refuses_fail(page):
    wrong = python('PGONLY = {"SESSION_TOUCH_SECONDS": -1}')
    with pytest.raises((AssertionError, ImproperlyConfigured)), Run(page(wrong)) as run:
        run.all()


def test_settings_hold_to_the_end_of_the_page_and_what_is_there_stays(page):
    code = 'INSTALLED_APPS = [..., "pgonly_django"]\nPGONLY = {"TICK_SECONDS": 7}'
    before = settings.PGONLY
    with Run(page(python(code))) as run:
        run.all()
        assert {**before, "TICK_SECONDS": 7} == settings.PGONLY
        assert len(settings.INSTALLED_APPS) == len(set(settings.INSTALLED_APPS))
    assert "TICK_SECONDS" not in settings.PGONLY


def test_a_wrong_flag_is_found_in_blocks_and_in_the_text(page):
    text = "Run `runworker --burts`.\n\n```sh\npython manage.py runworker --processes two  # x\n```\n"
    assert unknown_flags_in(page(text)) == ["runworker has no --burts: `runworker --burts`"]
    assert "invalid" in mistakes_in(page(text))[0]


def test_a_command_that_does_not_exist_is_found(page):
    assert mistakes_in(page("```sh\nmanage.py pgonly_nothing\n```\n")) == [
        "There is no command pgonly_nothing."
    ]


def test_a_line_of_shell_ends_where_the_next_command_begins():
    line = "cd site && python manage.py runworker \\\n  --burst 2>&1 | tee log  # done"
    assert commands_in(line) == [("runworker", ["--burst"])]
    assert other_programs_in("# a\n$ curl x\nrm -r /") == {"curl", "rm"}


def test_broken_links_are_found(page):
    there = page("# Some `code_name`: two\n\n# Same\n\n# Same\n", "there.md")
    text = "[a](there.md) [a](there.md#some-code_name-two) [a](there.md#same-1) [a](#me)\n\n# Me\n"
    here = page(f"{text}[b](none.md) [c](there.md#none) `[d](no_link.md)`\n", "here.md")
    assert broken_links(here, [here, there]) == ["none.md", "there.md#none"]
