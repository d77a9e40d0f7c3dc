"""progress.js in Chromium, on a page and with answers that the test makes."""

from __future__ import annotations

import json

import pytest

from tests.browser.chromium import Remote
from tests.browser.conftest import ScriptPage
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

PAGE = """<!doctype html><title>page</title><script src="/progress.js" defer></script>
<div data-pgonly-progress="/progress/" data-events="" data-token="t" data-offset="0">
<span data-part="label"></span><progress data-part="bar"></progress><pre data-part="output"></pre>
<form class="pgonly-progress-cancel" action="/cancel/"><input name="token"><button>Cancel</button></form>
<p data-part="note" hidden>Trying again.</p></div>"""
JOB = {
    "state": "running", "label": "Running", "percent": 5, "token": "t", "may_cancel": True, "is_over": False,
}  # fmt: skip


class ProgressPage(ScriptPage):
    """`asked` has the requests for progress that wait for their answers."""

    script = "progress.js"

    def __init__(self, chromium) -> None:
        super().__init__(chromium)
        self.asked, self._thread = [], chromium._thread
        self.page.goto("http://progress.test/")

    def answers(self, route) -> None:
        if "/progress/" in route.request.url:
            self.asked.append(Remote(route, self._thread))
        else:
            route.fulfill(body=PAGE, content_type="text/html")

    def is_asked(self, times: int) -> None:
        """Until so many requests wait."""

        def asked() -> bool:
            self.page.evaluate("0")  # events of the browser come in meanwhile
            return len(self.asked) == times

        wait_for(asked, what="the requests")

    def gives(self, status: int = 200, **answer) -> None:
        """The request that has waited for longest."""
        self.asked.pop(0).fulfill(status=status, body=json.dumps(answer), content_type="application/json")


@pytest.fixture
def progress(chromium):
    page = ProgressPage(chromium)
    yield page
    page.context.close()


def test_output_that_two_answers_bring_is_shown_once(progress, expect):
    progress.is_asked(1)
    progress.page.get_by_role("button").click()  # asks at once, while the first request is under way
    progress.is_asked(2)
    for _ in range(2):
        progress.gives(jobs=[{**JOB, "output": {"text": "Hello", "keep": None, "offset": "7"}}])
    progress.is_asked(1)
    assert "after=7" in progress.asked[0].request.url
    assert progress.page.locator("[data-part=output]").inner_text() == "Hello"


def test_a_long_output_is_asked_for_piece_by_piece_without_a_pause(progress, expect):
    progress.is_asked(1)
    progress.gives(jobs=[{**JOB, "output": {"text": "Hel", "keep": 0, "offset": "0", "next": "0:7:3"}}])
    progress.is_asked(1)
    assert "after=0%3A7%3A3" in progress.asked[0].request.url
    progress.gives(jobs=[{**JOB, "output": {"text": "lo", "keep": None, "offset": "7"}}])
    expect(progress.page.locator("[data-part=output]")).to_have_text("Hello")
    progress.is_asked(1)
    assert "after=7" in progress.asked[0].request.url


def test_text_that_is_said_again_replaces_what_followed_and_an_emoji_is_one_character(progress, expect):
    progress.is_asked(1)
    progress.gives(jobs=[{**JOB, "output": {"text": "Both \U0001f600 agree", "keep": 0, "offset": "1"}}])
    progress.is_asked(1)
    progress.gives(jobs=[{**JOB, "output": {"text": "disagree", "keep": 7, "offset": "2"}}])
    expect(progress.page.locator("[data-part=output]")).to_have_text("Both \U0001f600 disagree")


def test_two_boxes_of_one_job_ask_once_and_both_show_it(progress, expect):
    progress.is_asked(1)
    box = "document.querySelector('[data-pgonly-progress]')"
    progress.page.evaluate(f"{box}.after({box}.cloneNode(true))")
    progress.gives(jobs=[JOB])
    progress.is_asked(1)
    assert progress.asked[0].request.url.count("token=") == 1
    progress.gives(jobs=[{**JOB, "label": "Stopping"}])
    labels = progress.page.locator("[data-part=label]")
    expect(labels).to_have_text(["Stopping", "Stopping"])


def test_a_site_that_cannot_be_reached_is_asked_again(progress, expect):
    progress.is_asked(1)
    progress.gives(502)
    expect(progress.page.locator("[data-part=note]")).to_be_visible()
    progress.is_asked(1)
    progress.gives(jobs=[JOB])
    expect(progress.page.locator("[data-part=note]")).to_be_hidden()
    expect(progress.page.locator("[data-part=label]")).to_have_text("Running")
