"""The animation of README in Chromium: what it shows at which time, and without motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.animation import SPEED, Moment, Recording, drawing
from tests.browser.site import ROOT

pytestmark = pytest.mark.slow

COMMITTED = ROOT / "docs" / "pictures" / "killed_and_resumed.svg"
RECORDING = Recording(
    [
        Moment(0, "running", 0, 4, 0),
        Moment(2, "running", 2, 4, 5),
        Moment(6, "silent", 2, 4, 5),
        Moment(8, "orphaned", 2, 4, 5),
        Moment(10, "running", 2, 4, 5),
        Moment(12, "running", 3, 4, 7),
        Moment(14, "succeeded", 4, 4, 9),
    ],
    killed_at=2.5,
    lease_seconds=12,
)
# The texts that lie inside the window in which they are.
SHOWN = """() => [...document.querySelectorAll('#pill text, #count text')].filter(text => {
    const {y, height} = text.closest('svg'), box = text.getBoundingClientRect();
    const top = y.baseVal.value;
    return box.top >= top && box.bottom <= top + height.baseVal.value;
}).map(text => text.textContent)"""
STOP_AT = "time => document.getAnimations().forEach(each => { each.pause(); each.currentTime = time; })"
COVER_AT = "() => document.querySelector('#cover path').getBoundingClientRect().left"


@pytest.fixture
def opened(chromium, tmp_path):
    contexts = []

    def open_file(file: Path | None = None, **options: Any) -> Any:
        if file is None:
            file = tmp_path / "drawn.svg"
            file.write_text(drawing(RECORDING))
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.goto(file.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (1.9, ["Running", "0 of 4 papers", "0 model calls"]),
        (2.1, ["Running", "2 of 4 papers", "5 model calls"]),
        (9, ["Worker silent", "2 of 4 papers", "5 model calls"]),
        (11, ["Running", "2 of 4 papers", "5 model calls"]),
        (12.5, ["Running", "3 of 4 papers", "7 model calls"]),
        (15, ["Finished", "4 of 4 papers", "9 model calls"]),
    ],
)
def test_it_shows_what_the_page_said_at_each_moment(opened, seconds, shown):
    page = opened()
    page.evaluate(STOP_AT, 1000 * seconds / SPEED)
    assert page.evaluate(SHOWN) == shown


def test_time_uncovers_the_lanes_of_the_workers(opened):
    page = opened()
    at = []
    for seconds in (0, 7, 14):
        page.evaluate(STOP_AT, 1000 * seconds / SPEED)
        at.append(page.evaluate(COVER_AT))
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=1)
    assert at[1] - at[0] > 200


def test_without_motion_it_stands_still_at_the_end(opened):
    page = opened(reduced_motion="reduce")
    assert page.evaluate("document.getAnimations().length") == 0
    assert page.evaluate(SHOWN) == ["Finished", "4 of 4 papers", "9 model calls"]


def test_the_committed_one_ends_with_all_papers_and_has_nothing_that_an_image_may_not_have(opened):
    page = opened(COMMITTED, reduced_motion="reduce")
    assert page.evaluate(SHOWN)[:2] == ["Finished", "40 of 40 papers"]
    text = COMMITTED.read_text()
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_its_description_tells_the_story_to_those_who_do_not_see_it():
    assert (
        "After 2 seconds kill -9 ends the worker at paper 2 of 4. After 10 seconds another worker resumes the job at "
        "paper 3. After 14 seconds all 4 are done, with 9 model calls."
    ) in drawing(RECORDING)
