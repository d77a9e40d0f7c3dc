"""People answer the questions of jobs: in the admin, and by a link."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry

from pgonly_django import answer_url
from pgonly_django.models import Event
from tests.browser.conftest import PHONE
from tests.browser.pages import APP
from tests.queue.rows import make_waiting

pytestmark = pytest.mark.slow
ASKED = {"question": "Include paper 7?", "choices": ["include", "exclude"]}


@pytest.mark.parametrize("place", ["", "wait/", "job/{}/change/"])
def test_an_operator_answers_where_the_question_stands(person, expect, place):
    wait = make_waiting(**ASKED)
    operator = person("operator")
    page = operator.goes_to(APP + place.format(wait.job_id))
    expect(page.get_by_text("Include paper 7?").first).to_be_visible()
    address = page.url
    operator.presses("include: Include paper 7?")
    expect(page.get_by_text("Answered “approve:7”: include.")).to_be_visible()
    assert page.url == address
    assert Event.objects.get().payload == "include"
    assert LogEntry.objects.get().user == operator.user


def test_a_double_click_is_one_answer(person, expect):
    wait = make_waiting(**ASKED)
    page = person("operator").goes_to(f"{APP}job/{wait.job_id}/change/")
    page.get_by_role("button", name="exclude: Include paper 7?").dblclick()
    expect(page.get_by_text("“approve:7” is answered")).to_be_visible()
    assert LogEntry.objects.count() == 1
    assert Event.objects.get().payload == "exclude"


def test_an_answer_in_json_is_typed_on_a_page_of_its_own(person, expect):
    wait = make_waiting()
    operator = person("operator")
    page = operator.goes_to(f"{APP}job/{wait.job_id}/change/")
    page.get_by_role("link", name="Send an answer").click()
    page.get_by_role("textbox", name="Answer").fill('{"by": 3}')
    operator.presses("Send an answer")
    expect(page.get_by_text("Answered “approve:7”.")).to_be_visible()
    assert Event.objects.get().payload == {"by": 3}


def test_a_reader_sees_what_is_waited_for_and_no_button(person, expect):
    wait = make_waiting(**ASKED)
    page = person("reader").goes_to(f"{APP}job/{wait.job_id}/change/")
    expect(page.get_by_text("for “approve:7”")).to_be_visible()
    expect(page.get_by_role("button", name="include: Include paper 7?")).to_have_count(0)


def test_a_visitor_answers_by_a_link_on_a_phone_without_scripts_once(person, expect):
    make_waiting(**ASKED)
    visitor = person(None, java_script_enabled=False)
    visitor.page.set_viewport_size(PHONE)
    page = visitor.goes_to(answer_url("approve:7"))
    expect(page.get_by_role("heading", name="Include paper 7?")).to_be_visible()
    visitor.presses("include")
    visitor.presses("Send “include”")
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    assert Event.objects.get().payload == "include"
    visitor.goes_to(answer_url("approve:7"), status=410)
    expect(page.get_by_role("heading", name="Already answered")).to_be_visible()
    assert [complaint for complaint in visitor.complaints if "410" not in complaint] == []
    visitor.complaints.clear()
