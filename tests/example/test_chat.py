"""The chat reviewer against a real HTTP server on this machine."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from example_project.screening.calls import PaidCalls
from example_project.screening.models import Paper, ReviewerCall
from example_project.screening.reviewers import build_reviewer
from pgonly_django import Discard, Retry, Snooze
from tests.example.conftest import VERDICT

pytestmark = pytest.mark.slow


class Job:
    should_stop = False


@pytest.fixture
def judge(project, api):
    paper = Paper.objects.of(project)[0]

    def judge(job=Job):
        reviewer = build_reviewer("chat:small-model")
        return reviewer.judge(paper.assignment(), PaidCalls(reviewer.name, paper, job))

    return judge


def outcomes():
    return list(ReviewerCall.objects.order_by("pk").values_list("outcome", flat=True))


def test_the_model_gets_the_key_question_criteria_and_paper(api, judge):
    api.says(VERDICT)
    opinion = judge()
    (path, key, body) = api.requests[0]
    assert (opinion.decision, opinion.reason) == ("include", "Patients were randomised.")
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "small-model")
    asked = body["messages"][1]["content"]
    assert all(
        part in asked for part in ("Is it a trial?", "Trials in people.", "Aspirin against placebo", "300 mg")
    )
    assert "label" not in json.dumps(body)


def test_after_an_unreadable_answer_the_model_is_asked_once_more(api, judge):
    api.says("I would include it.")
    api.says(VERDICT)
    assert judge().decision == "include"
    assert api.requests[1][2]["messages"][2]["content"] == "I would include it."
    assert outcomes() == ["answered", "answered"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_api_is_waited_for_as_long_as_it_asks(api, judge, status):
    api.says("slow down", status, **{"Retry-After": "0"})
    api.says(VERDICT)
    assert judge().decision == "include"
    assert outcomes() == ["BusyError", "answered"]


@pytest.mark.parametrize(("status", "kind"), [(503, Retry), (429, Snooze)])
def test_an_api_that_stays_busy_too_long_makes_the_job_come_again_after_that_time(api, judge, status, kind):
    """What asks to wait costs no attempt."""
    api.says("slow down", status, **{"Retry-After": "120"})
    with pytest.raises(kind) as raised:
        judge()
    assert raised.value.delay == timedelta(seconds=120)
    assert "slow down" in str(raised.value.__cause__)
    if kind is Retry:
        assert str(raised.value) == "chat:small-model is busy: 503 slow down"


def test_a_stop_ends_the_wait_and_the_rest_of_it_delays_the_next_run(api, judge):
    class StoppingJob:
        should_stop = True

    api.says("slow down", 429, **{"Retry-After": "2"})
    with pytest.raises(Snooze) as raised:
        judge(StoppingJob)
    assert timedelta(seconds=1) < raised.value.delay <= timedelta(seconds=2)


@pytest.mark.parametrize(
    ("status", "text"), [(401, "bad key"), (404, "nothing here"), (400, "Model Not Exist")]
)
def test_a_refused_key_address_or_model_ends_the_job(api, judge, status, text):
    api.says(text, status)
    with pytest.raises(Discard, match=f"refused chat:small-model: {status} {text}"):
        judge()


def test_a_refused_paper_is_unsure_and_the_screening_goes_on(api, judge):
    api.says("content filter", 400)
    opinion = judge()
    assert opinion.decision == "unsure"
    assert "400 content filter" in opinion.reason
