"""The line of a job's page that says why it waits."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.utils import timezone

from pgonly_django.admin.jobs import waits as waits_module
from pgonly_django.models import Budget, Job, Limiter, Queue, QueueTokens, State
from pgonly_django.monitoring.waiting import why_it_waits
from tests.admin.conftest import make_job, page_of, said
from tests.admin.jobs.test_page import text_of
from tests.queue.rows import make_gathering, make_keyed, make_running, make_waiting, make_worker

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)
ADMIN = "/admin/pgonly_django/"
BY_ANNA = {"outcome": "held", "reason": "Held by anna."}


@pytest.fixture
def line(page):
    def line(job):
        found = re.search(r'<div class="pgonly-waits.*?</div>', page(job), re.DOTALL)
        text = unescape(re.sub(r"<[^>]+>", " ", found[0])) if found else ""
        return re.sub(r"\s+(?=[.;])", "", re.sub(r"\s+", " ", text)).strip()

    return line


def test_nobody_serves_its_queue(line, page):
    job = make_job(queue="ai", ready_at=timezone.now() - 7 * MINUTE)
    assert line(job) == "Waiting 7 min: no live worker serves “ai”."
    assert f'href="{ADMIN}worker/"' in page(job)
    assert "pgonly-waits-bad" in page(job)


def test_a_job_that_no_free_worker_takes_is_not_said_to_be_taken_soon(line, page):
    make_worker(threads=2)
    assert line(make_job(args=[1])).endswith(": a worker is about to take it.")
    job = make_job(args=[1], queue="ai", ready_at=timezone.now() - timedelta(seconds=16))
    assert re.match(r"Waiting \d+ s: the live workers of “ai” have not taken it yet", line(job))
    assert f'href="{ADMIN}worker/"' in page(job)
    assert "pgonly-waits-bad" not in page(job)  # they may be busy with other queues


def test_a_pause_names_the_person_who_did_it(line, page, admin_client, admin_user):
    make_worker()
    Queue.objects.create(name="default")
    admin_client.post(f"{ADMIN}queue/default/operate/pause/")
    job = make_job()
    assert f", by {admin_user}." in line(job)
    assert "the queue “default” has been paused since" in line(job)
    assert f'href="{ADMIN}queue/default/change/"' in page(job)
    assert "pgonly-waits-bad" not in page(job)


def test_a_pause_from_elsewhere_names_nobody(line):
    make_worker()
    Queue.objects.named("default").pause()
    assert ", by" not in line(make_job())


def test_each_limit_is_said_with_what_is_in_use(line):
    make_worker(threads=2)
    limiter = Limiter.objects.create(name="api", blocked_until=timezone.now() + MINUTE)
    Queue.objects.create(name="default", limiter=limiter.name, max_running=1, rate_count=5, rate_seconds=60)
    QueueTokens.objects.create(queue="default", tokens=0, refilled_at=timezone.now() + MINUTE)
    make_running(concurrency_key="account:7", slots=1)
    make_keyed("account:7", args=[1])
    text = line(make_keyed("account:7", args=[1], crashes=2))
    assert "the limiter “api” cools down until 20" in text
    assert "the queue “default” is full: 1 of 1 run" in text
    assert "its concurrency key “account:7” is full: 1 of 1 run" in text
    assert "it is a suspect: its worker died 2 times" in text
    assert "1 job comes first" in text


def test_a_key_that_was_made_of_a_secret_is_masked(line):
    make_worker()
    task = "tests.jobs.editing.named_by_a_secret"
    make_running(concurrency_key="hunter2", slots=1)
    text = line(make_keyed("hunter2", task=task, args=["hunter2"]))
    assert "its concurrency key “••••••” is full" in text


def test_a_scheduled_job_says_when_it_is_due_and_why(line):
    later = timezone.now() + 7 * MINUTE + timedelta(seconds=30)
    said = line(make_job(State.SCHEDULED, run_at=later))
    assert re.match(r"Scheduled: due in 7 min( 2\d s)?, at 20\S+ \S+\.$", said)
    errors = [{"outcome": "failed", "message": "x"}]
    assert "its next attempt after an error" in line(make_job(State.SCHEDULED, run_at=later, errors=errors))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"held_by": "a person", "errors": [BY_ANNA]}, "Held: by anna."),
        ({"held_by": "a person"}, "Held: by a person, until a person resumes it."),
        ({"held_by": "shop.Refused"}, "Held: by shop.Refused, until a person resumes it."),
        ({"held_by": "budget:p"}, "Held: by the budget “p”: $4.00 of $5.00 is spent."),
        ({"held_by": "budget:gone"}, "Held: by the budget “gone”, which does not exist any more."),
    ],
)
def test_a_held_job_says_what_holds_it(line, fields, says):
    Budget.objects.create(name="p", usd=5, spent=4)
    assert line(make_job(State.HELD, **fields)) == says


def test_a_budget_that_is_not_there_any_more_has_no_page_to_lead_to(page):
    Budget.objects.create(name="p", usd=5, spent=4)
    assert f'href="{ADMIN}budget/p/change/"' in page(make_job(State.HELD, held_by="budget:p"))
    assert f'href="{ADMIN}budget/gone' not in page(make_job(State.HELD, held_by="budget:gone"))


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_job_that_does_not_wait_has_no_such_line(line, state):
    assert line(make_job(state)) == ""


@pytest.mark.slow
def test_where_finding_out_takes_too_long_the_rest_of_the_page_is_there(page, monkeypatch):
    def slow(*args):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(2)")
        return why_it_waits(*args)

    monkeypatch.setattr(waits_module, "why_it_waits", slow)
    job = make_job()
    assert "pgonly-waits" in page(job)
    monkeypatch.setattr(waits_module, "TIME_LIMIT", timedelta(milliseconds=100))
    text = page(job)
    assert "pgonly-waits" not in text
    assert "Arguments and result" in text


def test_a_job_that_its_budget_holds_is_resumed_from_its_own_page(admin_client, admin_user):
    budget = Budget.objects.create(name="p", usd=5, spent=5)
    job, other = (make_job(State.HELD, held_by="budget:p") for _ in range(2))
    html = admin_client.get(page_of(job)).text
    (address,) = re.findall(r'<form method="post" action="(\S*/operate/raise/)"', html)
    here = page_of(job)
    assert f'name="next" value="{here}"' in html
    answer = admin_client.post(address, {"usd": "7.5", "next": here}, follow=True)
    assert answer.redirect_chain == [(here, 302)]
    assert said(answer)[0] == "2 held jobs continue."
    assert Budget.objects.get().usd == Decimal("7.5")
    assert {row.state for row in Job.objects.filter(pk__in=[job.pk, other.pk])} == {State.READY}
    assert LogEntry.objects.get(object_id=str(budget.pk)).user == admin_user
    assert "operate/raise" not in admin_client.get(here).text


@pytest.mark.parametrize("usd", ["4", "-1", "much"])
def test_a_refused_amount_is_said_on_the_page_of_the_job(admin_client, usd):
    budget = Budget.objects.create(name="p", usd=5, spent=5)
    job = make_job(State.HELD, held_by="budget:p")
    data = {"usd": usd, "next": page_of(job)}
    answer = admin_client.post(f"{ADMIN}budget/{budget.pk}/operate/raise/", data, follow=True)
    assert answer.redirect_chain == [(page_of(job), 302)]
    assert len(said(answer)) == 1
    assert Job.objects.get().state == State.HELD


@pytest.mark.parametrize("permissions", [{"operate_job"}, {"operate_job", "view_budget"}, {"operate_budget"}])
def test_who_may_not_raise_the_budget_has_no_such_button(client, person, permissions):
    Budget.objects.create(name="p", usd=5, spent=5)
    person("view_job", *permissions)
    assert "operate/raise" not in client.get(page_of(make_job(State.HELD, held_by="budget:p"))).text
    person("view_job", "view_budget", "operate_budget", "view_queue")
    assert "operate/raise" in client.get(page_of(make_job(State.HELD, held_by="budget:p"))).text


def test_a_job_that_gathers_says_what_its_jobs_wait_for_and_lists_them(page, admin_client):
    batch = make_gathering(ready=3, succeeded=4)
    make_running(batch_id=batch.pk)
    for number in range(2):
        asking = make_waiting(f"paper {number}", question="Include it?", choices=["yes"]).job
        Job.objects.filter(pk=asking.pk).update(batch_id=batch.pk, args=[number])
    text = text_of(page(batch.parent))
    assert re.search(
        "for the jobs that it gathers, since [^;.]*: 2 wait for a person, 3 are ready, 1 runs", text
    )
    members = admin_client.get(page_of(batch.parent)).context["members"]
    assert [text_of(member["badge"]).strip() for member in members[:2]] == ["Asks a person"] * 2
    assert "Asks a person" in text
    assert "for Include it?" in text
