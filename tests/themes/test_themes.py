"""Our pages under two themes of the admin, which bring templates, a base class and an AdminSite of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import zygote
from tests.children import environment

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent.parent
STYLES = ROOT / "pgonly_django" / "static" / "pgonly_django"
FOR_VISITORS = {"visitor.css", "progress.css"}  # pages of the site, not of the admin
LISTS = [
    "job/", "worker/", "session/", "cacheentry/", "durablecacheentry/", "budget/", "limiter/", "costentry/?days=90",
    "wait/",
]  # fmt: skip


@pytest.fixture(scope="module", params=["settings", "themes.unfold", "themes.jazzmin"])
def seen(request, django_db_setup):
    """What each page is made of, by its address."""
    done = zygote.run(["-m", "tests.themes.visit"], env=environment(f"tests.{request.param}"))
    done.check_returncode()
    return json.loads(done.stdout)


def test_every_page_opens_with_our_stylesheets_and_nothing_else_of_ours_is_missing(seen):
    assert {page: facts["status"] for page, facts in seen.items()} == dict.fromkeys(seen, 200)
    ours = [page for page in seen if page and not page.endswith(("delete/", "history/"))]
    assert [page for page in ours if seen[page]["stylesheets"][:2] != ["theme", "admin"]] == []


def test_every_cell_of_a_list_names_its_column_for_the_cards_of_a_narrow_screen(seen):
    assert [page for page in LISTS if not seen[page]["labels"]] == []
    assert "Heartbeat" in seen["worker/"]["labels"]


def test_the_styles_of_lists_find_them(seen):
    assert [
        page for page in LISTS if not {"app-pgonly_django", "change-list"} <= {*seen[page]["classes"]}
    ] == []


def test_the_page_of_a_row_has_its_buttons(seen):
    assert "resume" in seen["budget/p_3A1/change/"]["buttons"]
    jobs = [page for page in seen if page.startswith("job/") and page.endswith("change/")]
    assert any("retry" in seen[page]["buttons"] for page in jobs)


def test_the_overview_and_the_doctor_are_in_the_list_of_the_app(seen):
    assert {*seen["job/"]["listed"]} == {"overview", "doctor"}


def test_only_one_stylesheet_knows_the_colours_of_themes():
    others = [file for file in STYLES.glob("*.css") if file.name not in {"theme.css", *FOR_VISITORS}]
    of_themes = re.compile(r"var\(--(?!pgonly-|tone\b|face\b|face-hover\b)[\w-]+")
    found = {file.name: of_themes.findall(file.read_text()) for file in others}
    assert found == {file.name: [] for file in others}


def test_no_stylesheet_grows_beyond_300_lines():
    assert {file.name for file in STYLES.glob("*.css") if len(file.read_text().splitlines()) > 300} == set()
