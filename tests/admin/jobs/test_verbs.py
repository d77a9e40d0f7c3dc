"""Retry, cancel and discard: in the list and on a job's page."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.messages import WARNING
from django.db import connection
from django.test import Client
from django.utils import timezone
from psycopg.errors import LockNotAvailable

from pgonly_django.admin import verbs
from pgonly_django.admin.jobs.verbs import CANCEL, DISCARD, RETRY
from pgonly_django.admin.verbs import Done
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, State, Step
from tests.admin.conftest import LIST, act, make_job, page_of, said
from tests.queue.rows import make_waiting

pytestmark = pytest.mark.django_db

# What each verb makes of each state; a state that is missing is left alone.
OUTCOMES = {
    "retry": dict.fromkeys((State.FAILED, State.CANCELLED, State.SCHEDULED, State.HELD), State.READY),
    "cancel": {
        **dict.fromkeys((State.READY, State.SCHEDULED, State.HELD), State.CANCELLED),
        State.RUNNING: State.RUNNING,  # its worker is asked
    },
    "discard": dict.fromkeys((State.READY, State.SCHEDULED, State.HELD), State.FAILED),
    "hold": {State.READY: State.HELD, State.SCHEDULED: State.HELD},
    "resume": {State.HELD: State.READY},
    "run_now": {State.SCHEDULED: State.READY},
}
LOGGED = {
    "retry": "Retried.", "cancel": "Cancelled.", "discard": "Discarded.", "hold": "Held.", "resume": "Resumed.",
    "run_now": "Made ready before its time.",
}  # fmt: skip


def button(job, verb):
    return f"{LIST}{job.pk}/operate/{verb}/"


def select(client, verb, jobs):
    """Choose the action, and confirm it on the page that asks."""
    return act(client, f"{verb}_jobs", jobs, confirmed="yes")


@pytest.fixture
def by_admin(rf, admin_user):
    """A request of the administrator's."""
    request = rf.post("/")
    request.user = admin_user
    return request


def perform(verb, request):
    return verb.perform(request, Job, list(verb.keys_of(Job.objects.all())))


@pytest.mark.sample(2)
@pytest.mark.parametrize("verb", OUTCOMES)
@pytest.mark.parametrize("state", State)
def test_a_button_is_there_and_works_exactly_where_its_verb_is_allowed(admin_client, verb, state):
    job = make_job(state)
    allowed = state in OUTCOMES[verb]
    assert (button(job, verb) in admin_client.get(page_of(job)).text) is allowed
    admin_client.post(button(job, verb))
    job.refresh_from_db()
    assert job.state == OUTCOMES[verb].get(state, state)
    assert LogEntry.objects.filter(object_id=str(job.pk)).exists() is allowed


@pytest.mark.parametrize(
    ("state", "beside", "menu"),
    [
        (State.READY, "cancel edit", "again hold discard delete"),
        (State.SCHEDULED, "run_now cancel", "edit retry again hold discard delete"),
        (State.HELD, "resume cancel", "edit retry again discard delete"),
        (State.RUNNING, "cancel again", ""),
        (State.FAILED, "retry again", "delete"),
        (State.SUCCEEDED, "again", "delete"),
    ],
)
def test_one_button_is_primary_one_stands_beside_it_and_the_rest_is_in_a_menu(
    admin_client, state, beside, menu
):
    answer = admin_client.get(page_of(make_job(state)))
    shown, _, in_menu = re.search(r'<div class="pgonly-actions">(.*)</header>', answer.text, re.DOTALL)[
        1
    ].partition("<details")
    names = [re.findall(r'data-key="(.*?)"', part) for part in (shown, in_menu)]
    assert names == [beside.split(), menu.split()]


@pytest.mark.parametrize(
    ("job", "hint"),
    [
        (make_job, "It does not run unless a person retries it."),
        (lambda: make_job(started_at=timezone.now()), "It does not run again."),
        (lambda: make_job(State.RUNNING), "Its worker is asked to stop it."),
        (lambda: make_job(State.SCHEDULED), "Ready now instead of at its time"),
        (lambda: make_waiting().job, "Looks again for what it waits for."),
    ],
)
def test_the_hint_of_a_button_says_what_it_does_to_this_job(admin_client, job, hint):
    assert hint in admin_client.get(page_of(job())).text


def test_who_may_only_delete_has_that_button_alone_and_a_reader_has_none(client, person):
    person("view_job", "delete_job")
    page = client.get(page_of(make_job(State.FAILED))).text
    assert re.findall(r'<div data-key="(\w+)"', page) == ["delete"]
    person("view_job")
    assert "pgonly-actions" not in client.get(page_of(make_job(State.FAILED))).text


@pytest.mark.parametrize("verb", OUTCOMES)
def test_an_action_of_the_list_changes_and_logs_those_that_allow_it(admin_client, admin_user, verb):
    jobs = {state: make_job(state) for state in State}
    response = select(admin_client, verb, jobs.values())
    for state, job in jobs.items():
        job.refresh_from_db()
        assert job.state == OUTCOMES[verb].get(state, state)
    logged = LogEntry.objects.filter(user=admin_user, action_flag=CHANGE)
    assert {entry.object_id for entry in logged} == {str(jobs[state].pk) for state in OUTCOMES[verb]}
    assert {entry.change_message for entry in logged} == {LOGGED[verb]}
    moved = sum(state != after for state, after in OUTCOMES[verb].items())
    assert f": {moved} job{'s' * (moved != 1)}." in said(response)[0]


def test_running_jobs_are_said_to_be_asked_to_stop_not_to_be_cancelled(admin_client):
    running = [make_job(State.RUNNING) for _ in range(3)]
    assert said(select(admin_client, "cancel", running[:1])) == ["1 job was asked to stop."]
    both = [*running[1:], make_job()]
    assert said(select(admin_client, "cancel", both)) == ["Cancel: 1 job. 2 jobs were asked to stop."]


def test_large_numbers_of_jobs_are_told_as_the_list_tells_them():
    text, level = CANCEL.outcome(Job._meta, Done(changed=1234, asked=5678, more=True))
    assert text.startswith("Cancel: 1,234 jobs. 5,678 jobs were asked to stop. There are more")
    assert level == WARNING


def test_a_cancelled_running_job_is_asked_once_and_loses_its_button(admin_client):
    job = make_job(State.RUNNING)
    response = admin_client.post(button(job, "cancel"), follow=True)
    job.refresh_from_db()
    assert job.cancel_requested_at is not None
    page = response.text
    assert "Cancelling" in page
    assert button(job, "cancel") not in page


def test_nothing_to_do_is_said_and_not_logged(admin_client):
    response = select(admin_client, "retry", [make_job(State.SUCCEEDED)])
    assert "nothing to do" in said(response)[0]
    assert not LogEntry.objects.exists()


def test_a_button_needs_post_and_the_csrf_token(admin_user):
    job = make_job()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin_user)
    assert strict.get(button(job, "cancel")).status_code == 405
    assert strict.post(button(job, "cancel")).status_code == 403
    token = strict.get(page_of(job)).context["csrf_token"]
    assert strict.post(button(job, "cancel"), {"csrfmiddlewaretoken": str(token)}).status_code == 302
    job.refresh_from_db()
    assert job.state == State.CANCELLED


def test_a_limit_takes_the_newest_in_batches_and_says_that_more_are_left(by_admin, monkeypatch):
    monkeypatch.setattr(verbs, "AT_ONCE", verbs.BATCH + 5)
    oldest = make_job(State.FAILED)
    Job.objects.bulk_create(Job(task="tests.jobs.add", state=State.FAILED) for _ in range(verbs.AT_ONCE))
    assert perform(RETRY, by_admin) == Done(changed=verbs.AT_ONCE, more=True)
    assert Job.objects.get(state=State.FAILED) == oldest
    assert perform(RETRY, by_admin) == Done(changed=1)


def test_what_changed_meanwhile_is_neither_changed_nor_logged(by_admin):
    """Between the search for ids and the locks, a worker may have finished the job."""
    job, other = make_job(), make_job()

    def overtake(execute, sql, params, many, context):
        if "FOR NO KEY UPDATE" in sql:
            Job.objects.filter(pk=job.pk).update(state=State.SUCCEEDED)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(overtake):
        assert perform(CANCEL, by_admin) == Done(changed=1, missed=1)
    assert LogEntry.objects.get().object_id == str(other.pk)
    job.refresh_from_db()
    assert job.state == State.SUCCEEDED


@pytest.mark.django_db(transaction=True)
def test_the_jobs_are_locked_while_the_verb_works_but_not_for_those_who_refer_to_them(by_admin):
    job = make_job()
    errors = []

    def method(_request, jobs):
        with connect("default", application_name="test") as other:
            other.execute("SET lock_timeout = '50ms'")
            other.execute(
                "SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [job.pk]
            )  # as a checkpoint does
            try:
                other.execute("UPDATE pgonly_job SET state = 'succeeded' WHERE id = %s", [job.pk])
            except LockNotAvailable as error:
                errors.append(error)
        return len(jobs)

    assert perform(replace(CANCEL, method=method), by_admin) == Done(changed=1)
    assert len(errors) == 1


@pytest.mark.django_db(transaction=True)
def test_a_retry_wakes_the_workers_after_the_commit(admin_client):
    job = make_job(State.FAILED)
    with connect("default", application_name="test") as listener:
        listener.execute("LISTEN pgonly_jobs")
        admin_client.post(button(job, "retry"))
        (notice,) = listener.notifies(timeout=5, stop_after=1)
    assert notice.payload.startswith("ready")


def test_discarded_jobs_keep_who_decided_it_in_their_attempts(admin_client):
    job = make_job()
    admin_client.post(button(job, "discard"))
    assert "Discarded by a person." in admin_client.get(page_of(job)).text
    assert DISCARD.allows(make_job(cancel_requested_at=timezone.now()))


def test_a_retry_of_a_job_whose_key_another_one_has_changes_nothing_and_says_why(admin_client):
    unique = {"unique_key": "add {} #1", "unique_while": "unfinished"}
    failed, plain = make_job(State.FAILED, **unique), make_job(State.FAILED)
    make_job(State.READY, **unique)
    page = admin_client.post(button(failed, "retry"), follow=True).text
    assert "nothing to do" in page
    assert "whose unique key another job has is left alone" in page
    assert not LogEntry.objects.exists()
    page = select(admin_client, "retry", [failed, plain]).text
    assert "Retry: 1 job." in page
    assert [entry.object_id for entry in LogEntry.objects.all()] == [str(plain.pk)]
    assert Job.objects.get(pk=failed.pk).state == State.FAILED


def test_a_person_lets_a_job_that_is_retried_forget_steps(admin_client):
    job = make_job(State.FAILED)
    for name in ("ask", "event <k>"):
        Step.objects.create(job=job, name=name)
    page = admin_client.get(page_of(job)).text
    assert '<input type="checkbox" form="of-retry" name="forget" value="event &lt;k&gt;">' in page
    response = admin_client.post(button(job, "retry"), {"forget": ["event <k>", "unknown"]}, follow=True)
    assert "has a step or a wait 'unknown' to forget" in said(response)[0]
    admin_client.post(button(job, "retry"), {"forget": ["event <k>"]})
    job.refresh_from_db()
    assert job.state == State.READY
    assert [step.name for step in job.steps.all()] == ["ask"]
