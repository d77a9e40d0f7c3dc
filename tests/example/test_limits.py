"""What the calls of a screening may cost, and how many there may be: a limiter for each reviewer, a budget for each
project."""

from __future__ import annotations

import threading
from datetime import timedelta
from decimal import Decimal

import pytest
from django.conf import settings
from django.db import connections
from django.utils import timezone

from example_project.screening.calls import PaidCalls
from example_project.screening.importers import new_project, read_papers
from example_project.screening.models import Paper, ReviewerCall, Verdict
from example_project.screening.reviewers import build_reviewer
from example_project.screening.status import history, money, shown, status
from example_project.screening.tasks import start_screening
from pgonly_django.models import CostEntry, Job, Limiter
from pgonly_django.testing import drain, fake_limits, time_travel
from tests.example.conftest import CSV, VERDICT
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

LITTLE = Decimal("0.004")  # enough for the first call alone


class Patient:
    should_stop = False


@pytest.fixture
def poor(db):
    """A project whose budget is used up after its first call."""
    return new_project("Poor", "Is it a trial?", "In people.", read_papers(CSV.encode()), LITTLE)


def calls_of(project):
    return ReviewerCall.objects.filter(paper__project=project).count()


def test_a_screening_is_held_at_its_budget_and_goes_on_without_paying_twice(poor):
    start_screening(poor)
    drain()
    now = status(poor)
    assert (now.state, now.done, now.buttons) == ("unpaid", 0, ("raise", "cancel"))
    assert calls_of(poor) == 1
    assert 0 < now.money.spent <= LITTLE
    assert now.money.reserved == 0
    assert poor.job.attempt == 0  # being held costs none
    assert f"Budget 'project:{poor.pk}'" in history(poor)[-1].text
    drain()  # nothing is ready
    assert calls_of(poor) == 1
    poor.raise_budget(Decimal(1))
    drain()
    assert status(poor).state == "succeeded"
    assert calls_of(poor) == 6
    assert money(poor).cap == 1
    assert money(poor).spent == sum(CostEntry.objects.values_list("usd", flat=True))


def test_the_page_shows_what_is_spent_and_raises_the_budget(client, site, poor):
    page = f"/projects/{poor.pk}/"
    assert '<b data-fact="spent">$0.00</b> of <b data-fact="cap">$0.004</b> spent' in client.get(page).text
    start_screening(poor)
    drain()
    text = client.get(page).text
    assert "Held: the budget is used up" in text
    assert f'<b data-fact="spent">{shown(money(poor).spent)}</b> of <b data-fact="cap">$0.004</b>' in text
    assert "does not fit" in text
    assert 'name="usd" inputmode="decimal" value="0.008"' in text
    assert client.get(f"{page}progress.json").json()["facts"]["cap"] == "$0.004"
    assert client.post(f"{page}raise/", {"usd": "0.5"}).headers["Location"] == page
    assert Job.objects.get().state == "ready"
    poor.refresh_from_db()
    assert poor.budget_usd == Decimal("0.5")
    assert '<b data-fact="cap">$0.50</b>' in client.get(page).text


def test_a_call_costs_what_it_has_taken_and_the_answer_says_how_much(api, project):
    paper = Paper.objects.of(project).select_related("project")[0]
    reviewer = build_reviewer("chat:m")
    api.usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    api.says(VERDICT)
    reviewer.judge(paper.assignment(), PaidCalls("chat:m", paper, Patient))
    cost = CostEntry.objects.get()
    assert (cost.tokens_in, cost.tokens_out, cost.usd) == (1000, 100, Decimal("0.0045"))
    assert (cost.budget, cost.step) == (f"project:{project.pk}", "chat:m on paper 1")
    assert not cost.is_estimate


def test_a_429_to_one_stops_all_who_ask_the_same_reviewer_and_no_other(
    transactional_db, project, api, settings
):
    settings.CHAT_PATIENCE_SECONDS = 60  # also where the machine is slow, none of the threads gives up
    papers = list(Paper.objects.of(project).select_related("project"))
    api.says("slow down", 429, **{"Retry-After": "2"})
    api.says(VERDICT)
    api.says(VERDICT)
    first = threading.Thread(target=_judge, args=("chat:m", papers[0]))
    first.start()
    ends = Limiter.objects.filter(name="chat:m").values_list("blocked_until", flat=True)
    cool_until = wait_for(ends.first)
    _judge("points", papers[1])
    other_ended_at = timezone.now()
    _judge("chat:m", papers[1])
    same_ended_at = timezone.now()
    first.join(20)
    assert other_ended_at < cool_until <= same_ended_at
    assert len(api.requests) == 3


def _judge(reviewer, paper):
    try:
        build_reviewer(reviewer).judge(paper.assignment(), PaidCalls(reviewer, paper, Patient))
    finally:
        if threading.current_thread() is not threading.main_thread():
            connections.close_all()


def test_the_demo_s_reviewer_answers_429_once(project, settings):
    settings.SCREENING_BUSY_PAPER = Paper.objects.of(project)[1].pk
    start_screening(project)
    drain()
    assert status(project).state == "succeeded"
    busy = ReviewerCall.objects.get(outcome="BusyError")
    assert (busy.reviewer, busy.paper.position) == ("points", 2)
    assert Limiter.objects.get(name="points").blocked_until is not None
    assert Limiter.objects.get(name="pico").blocked_until is None
    assert Verdict.objects.of(project).count() == 6


def test_where_a_limiter_lets_nobody_in_the_screening_comes_again_later(project):
    start_screening(project)
    with fake_limits() as limits:
        limits.refuse("pico")
        drain()
        assert (status(project).state, project.job.attempt) == ("scheduled", 0)
        assert drain() == []
        limits.allow("pico")
        with time_travel(timedelta(seconds=settings.CHAT_PATIENCE_SECONDS)):
            drain()
    assert status(project).state == "succeeded"
    assert limits.requests("points") == limits.requests("pico") == 3
