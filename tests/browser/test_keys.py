"""The keys of the lists and of a job's page."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job, State
from tests.browser.pages import APP
from tests.browser.test_jobs import ERROR, FAILED, LIST, page_of
from tests.queue.rows import make
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

FOCUSED = "document.activeElement.closest('tr')?.querySelector('input.action-select')?.value"
SEARCH_HAS_FOCUS = "document.activeElement.id === 'searchbar'"


@pytest.fixture
def jobs(transactional_db):
    """Three failed ones, in the order of the list."""
    return [make(state=State.FAILED, errors=[ERROR]) for _ in range(3)][::-1]


def presses(page, *keys):
    for key in keys:
        page.keyboard.press(key)
    return page


def test_j_and_k_go_from_row_to_row_and_stay_in_the_list(person, jobs):
    page = person().goes_to(LIST)
    for keys, place in (("j", 0), ("jj", 2), ("j", 2), ("k", 1), ("kkk", 0)):
        assert presses(page, *keys).evaluate(FOCUSED) == str(jobs[place].pk), keys


@pytest.mark.parametrize("key", ["o", "Enter"])
def test_o_and_enter_open_the_row_with_the_focus(person, jobs, key):
    page = presses(person().goes_to(LIST), "j", "j", key)
    page.wait_for_url(f"**{page_of(jobs[1])}*")


def test_slash_goes_to_the_search_where_the_keys_are_letters(person, jobs):
    page = presses(person().goes_to(LIST), "/")
    assert page.evaluate(SEARCH_HAS_FOCUS)
    presses(page, "j", "k", "/", "r")
    assert page.locator("#searchbar").input_value() == "jk/r"


def test_r_asks_about_the_row_with_the_focus(person, jobs, expect):
    operator = person("operator")
    page = presses(operator.goes_to(FAILED), "j", "j", "r")
    expect(page.get_by_role("button", name="Retry 1 job")).to_be_visible()
    assert not Job.objects.filter(state=State.READY).exists()
    operator.presses("Retry 1 job")
    assert Job.objects.get(state=State.READY) == jobs[1]


def test_r_asks_about_the_selected_rows_wherever_the_focus_is(person, jobs, expect):
    page = person("operator").goes_to(FAILED)
    for job in jobs[1:]:
        page.locator(f"input.action-select[value='{job.pk}']").check()
    presses(page, "r")
    expect(page.get_by_role("button", name="Retry 2 jobs")).to_be_visible()


def test_on_a_jobs_page_r_goes_to_retry_and_enter_presses_it(person, jobs):
    page = presses(person("operator").goes_to(page_of(jobs[0])), "r")
    assert "Retry" in page.evaluate("document.activeElement.textContent")
    assert Job.objects.get(pk=jobs[0].pk).state == State.FAILED
    presses(page, "Enter")
    wait_for(lambda: Job.objects.get(pk=jobs[0].pk).state == State.READY)


def test_a_reader_without_the_permission_retries_nothing(person, jobs):
    page = presses(person("reader").goes_to(FAILED), "j", "r")
    assert page.url.endswith(FAILED)
    assert page.evaluate("document.activeElement.closest('tr') !== null")


def test_with_a_modifier_and_without_rows_the_keys_are_the_browsers(person):
    page = person().goes_to(LIST)
    page.evaluate("addEventListener('keydown', (event) => { window.isLeft = !event.defaultPrevented })")
    for key in ("j", "k", "o", "r", "Control+/", "Alt+/", "Meta+/"):
        assert presses(page, key).evaluate("window.isLeft"), key
        assert not page.evaluate(SEARCH_HAS_FOCUS)


def test_keys_that_are_switched_off_stay_so_on_the_next_page(person, jobs):
    page = person().goes_to(LIST)
    page.get_by_label("Keys").uncheck()
    assert presses(page, "j").evaluate(FOCUSED) is None
    page.goto(page.url)
    assert not page.get_by_label("Keys").is_checked()
    page.locator("body").click()
    assert presses(page, "j").evaluate(FOCUSED) is None


def test_other_lists_have_the_same_keys(person):
    page = presses(person().goes_to(f"{APP}cacheentry/"), "/")
    assert page.evaluate(SEARCH_HAS_FOCUS)
