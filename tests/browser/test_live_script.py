"""live.js in Chromium, on pages that the test makes: what a refresh changes, and what it leaves to the reader."""

from __future__ import annotations

import pytest

from tests.browser.conftest import ScriptPage

pytestmark = pytest.mark.slow

SWITCH = """<div data-live-switch data-offline="offline since %s" data-stopped="stopped" hidden>
<label><input type="checkbox">Live</label><span role="status"></span></div>"""
STATUS, BOX = "[role=status]", "[data-live-switch] input"


class LivePage(ScriptPage):
    """A page whose content is `content`, which a refresh fetches again."""

    script = "live.js"

    def __init__(self, chromium) -> None:
        super().__init__(chromium)
        self.content, self.seconds, self.title = "", "0.1", "page"
        self.is_down, self.is_logged_out, self.fetched = False, False, 0

    def answers(self, route) -> None:
        is_fetch = route.request.resource_type == "fetch"
        assert ("x-pgonly-live" in route.request.headers) == is_fetch
        self.fetched += is_fetch
        if self.is_down and route.request.resource_type == "fetch":
            route.abort()
        else:
            route.fulfill(body=self.html, content_type="text/html")

    @property
    def html(self) -> str:
        if self.is_logged_out:
            return '<form id="login-form"></form>'
        refresh = f' data-refresh-seconds="{self.seconds}"' if self.seconds else ""
        head = f'<!doctype html><title>{self.title}</title><script src="/live.js"></script>'
        return f"{head}<div data-live-root{refresh}>{SWITCH}{self.content}</div>"

    def opens(self, content: str):
        self.content = content
        self.page.goto("http://live.test/")
        return self.page

    def shows_next(self, content: str, **facts) -> None:
        """Until a refresh has brought the new content."""
        mark = f"{self.fetched + 1} seen"
        self.content = f'{content}<i data-live="mark">{mark}</i>'
        vars(self).update(facts)
        self.page.get_by_text(mark).wait_for()


@pytest.fixture
def live(chromium):
    page = LivePage(chromium)
    yield page
    page.context.close()


def rows(*keys, more="") -> str:
    cells = "".join(
        f'<tr><td><input class="action-select" type="checkbox" value="{key}"></td>'
        f'<td><a href="/job/{key}">{key}{more}</a></td></tr>'
        for key in keys
    )
    head = '<thead><tr><th><input type="checkbox" id="action-toggle"></th></tr></thead>'
    actions = '<div class="actions"><span class="action-counter" data-actions-icnt="2">none</span></div>'
    return f'{actions}<section data-live="list"><table id="result_list">{head}<tbody>{cells}</tbody></table></section>'


CHECKED = "boxes => boxes.filter(box => box.checked).map(box => box.value)"
ORDER = "rows => rows.map(row => row.querySelector('input').value + ('gone' in row.dataset ? ' gone' : ''))"


def test_new_rows_appear_and_a_selected_one_stays_selected_though_it_is_gone(live):
    page = live.opens(rows("a", "b", "c"))
    page.check("input[value=a]"), page.check("input[value=c]")
    live.shows_next(rows("d", "b", "c"))
    assert page.eval_on_selector_all("tbody tr", ORDER) == ["a gone", "d", "b", "c"]
    assert page.eval_on_selector_all("tbody input", CHECKED) == ["a", "c"]
    live.shows_next(rows("a", "b", "c"))
    assert sorted(page.eval_on_selector_all("tbody tr", ORDER)) == ["a", "b", "c"]


def test_rows_that_came_later_are_selected_with_all(live):
    page = live.opens(rows("a"))
    live.shows_next(rows("b", "a"))
    page.click("#action-toggle")
    assert page.eval_on_selector_all("tbody input", CHECKED) == ["b", "a"]
    page.uncheck("input[value=b]")
    assert not page.is_checked("#action-toggle")


def test_the_focus_stays_on_its_link_when_a_row_comes_before_it(live):
    page = live.opens(rows("a", "b"))
    page.focus("a[href='/job/b']")
    live.shows_next(rows("c", "b", "a", more="!"), title="new")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "/job/b"
    assert page.inner_text("a[href='/job/b']") == "b!"
    assert page.title() == "new"


PART = """<section data-live="part">{before}<details id="d"><summary>{text}</summary>
<form action="/f"><input name="t"><textarea name="u"></textarea></form></details>
<div id="box" tabindex="-1"><p id="tall">{text}</p></div></section>"""
STATE = """[document.querySelector('#d').open, document.querySelector('#box').scrollTop,
    document.querySelector('input[name=t]').value, document.querySelector('textarea').value,
    document.activeElement.name]"""


def test_opened_details_scroll_positions_and_typed_text_stay(live):
    page = live.opens(PART.format(before="", text="old"))
    page.add_style_tag(content="#box { height: 30px; overflow: auto } #tall { height: 300px }")
    page.evaluate("document.querySelector('#d').open = true")
    page.evaluate("document.querySelector('#box').scrollTop = 50")
    page.fill("input[name=t]", "typed"), page.fill("textarea", "more")
    live.shows_next(PART.format(before="<p>first</p>", text="new"))
    assert page.inner_text("summary") == "new"
    assert page.evaluate(STATE) == [True, 50, "typed", "more", "u"]


def test_a_site_that_does_not_answer_is_said_until_it_does(live):
    page = live.opens('<p data-live="p">old</p>')
    live.is_down = True
    page.wait_for_function(f"document.querySelector('{STATUS}').textContent.startsWith('offline since')")
    live.is_down = False
    live.shows_next('<p data-live="p">new</p>')
    assert page.inner_text(STATUS) == ""


def test_the_switch_ends_the_refresh_and_is_remembered(live):
    page = live.opens('<p data-live="p">old</p>')
    live.shows_next('<p data-live="p">new</p>')
    page.uncheck(BOX)
    page.reload()
    fetched = live.fetched
    assert not page.is_checked(BOX)
    page.check(BOX)
    live.shows_next('<p data-live="p">newer</p>')
    assert live.fetched > fetched


def test_a_login_page_ends_the_refresh(live):
    page = live.opens('<p data-live="p">old</p>')
    live.is_logged_out = True
    page.wait_for_function(f"document.querySelector('{STATUS}').textContent === 'stopped'")
    assert page.is_disabled(BOX)
    assert page.inner_text("p") == "old"


def test_a_page_that_will_not_change_any_more_hides_the_switch(live):
    page = live.opens('<p data-live="p">old</p>')
    live.content, live.seconds = '<p data-live="p">the end</p>', ""
    page.get_by_text("the end").wait_for()
    page.wait_for_selector("[data-live-switch]", state="hidden")
