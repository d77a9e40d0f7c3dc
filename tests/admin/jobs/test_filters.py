from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from pgonly_django.models import Checkpoint, Job, State, Step
from tests.admin.conftest import LIST, make_job
from tests.queue.rows import ago, make_worker

pytestmark = pytest.mark.django_db


def offered(response, parameter):
    """What the filter of this name offers besides "All"."""
    specs = response.context["cl"].filter_specs
    found = [spec for spec in specs if getattr(spec, "parameter_name", "") == parameter]
    return [value for spec in found for value, label in spec.lookup_choices]


def shown(response):
    return {job.pk for job in response.context["cl"].result_list}


def make_newer_jobs(count=1000):
    Job.objects.bulk_create(
        Job(task="noise.make", queue="noise", state=State.SUCCEEDED) for _ in range(count)
    )


def test_the_state_filter_shows_that_state_alone_and_suspects_among_the_ready_ones(admin_client):
    jobs = {state: {make_job(state).pk} for state in State.values}
    jobs["ready"] |= {make_job(crashes=crashes).pk for crashes in (1, 2)}
    assert jobs == {state: shown(admin_client.get(f"{LIST}?state__exact={state}")) for state in jobs}


def test_queue_and_task_filters_narrow_together(admin_client):
    wanted = make_job(queue="mail", task="shop.send")
    make_job(queue="mail", task="shop.other")
    make_job(queue="llm", task="shop.send")
    assert shown(admin_client.get(f"{LIST}?queue=mail&task=shop.send")) == {wanted.pk}


@pytest.mark.slow
@pytest.mark.parametrize(("state", "crashes"), [(State.READY, 0), (State.READY, 2), (State.RUNNING, 0)])
def test_queues_with_work_are_offered_however_old_the_work_is(admin_client, state, crashes):
    for queue in ("a", "b", "c"):
        make_job(state, queue=queue, crashes=crashes)
        make_job(state, queue=queue, crashes=crashes)
    make_newer_jobs()
    assert offered(admin_client.get(LIST), "queue") == ["a", "b", "c", "noise"]


def test_queues_of_finished_jobs_are_offered_while_they_are_among_the_newest(admin_client):
    make_job(State.SUCCEEDED, queue="forgotten")
    make_newer_jobs(999)
    assert "forgotten" in offered(admin_client.get(LIST), "queue")
    make_newer_jobs(1)
    assert "forgotten" not in offered(admin_client.get(LIST), "queue")


def test_a_running_task_is_offered_however_old_it_is(admin_client):
    make_job(State.RUNNING, task="shop.two_hours")
    make_newer_jobs()
    assert offered(admin_client.get(LIST), "task") == ["noise.make", "shop.two_hours"]


def test_what_is_chosen_is_offered_even_when_nothing_has_it(admin_client):
    make_job()
    assert "gone" in offered(admin_client.get(f"{LIST}?queue=gone"), "queue")


def test_the_error_filter_offers_the_errors_of_failed_jobs_and_shows_those_alone(admin_client):
    entry = {"outcome": "failed", "exception": "httpx.TimeoutException"}
    failed = make_job(State.FAILED, errors=[{"exception": "builtins.KeyError"}, entry])
    make_job(State.FAILED, errors=[{"outcome": "failed", "exception": "builtins.ValueError"}])
    make_job(State.SUCCEEDED, errors=[entry])
    page = admin_client.get(LIST)
    assert offered(page, "error") == ["builtins.ValueError", "httpx.TimeoutException"]
    shown = admin_client.get(LIST, {"error": "httpx.TimeoutException"}).context["cl"].queryset
    assert list(shown) == [failed]


def test_the_worker_filter_offers_those_that_have_not_stopped_and_shows_what_one_of_them_ran(admin_client):
    here, gone = make_worker(name="here"), make_worker(name="gone", stopped_at=timezone.now())
    wanted = {make_job(State.RUNNING, worker_id=here.pk).pk, make_job(State.FAILED, worker_id=here.pk).pk}
    job = make_job(State.SUCCEEDED, worker_id=gone.pk)
    assert offered(admin_client.get(LIST), "worker") == [str(here.pk)]
    assert shown(admin_client.get(LIST, {"worker": here.pk})) == wanted
    answer = admin_client.get(LIST, {"worker": gone.pk})
    assert shown(answer) == {job.pk}
    assert answer.context["title"] == "Jobs: worker gone"
    unknown = uuid4()
    assert str(unknown) in offered(admin_client.get(LIST, {"worker": unknown}), "worker")


def id_at(moment):
    return UUID(int=int(moment.timestamp() * 1000) << 80 | uuid4().int & (1 << 80) - 1)


@pytest.fixture
def by_age():
    """One job for each age in hours, enqueued and finished then."""
    ages = (0.5, 5, 100, 1000)
    moments = {hours: ago(timedelta(hours=hours)) for hours in ages}
    return {
        hours: make_job(State.SUCCEEDED, pk=id_at(at), enqueued_at=at, finished_at=at).pk
        for hours, at in moments.items()
    }


@pytest.mark.parametrize("event", ["enqueued", "finished"])
@pytest.mark.parametrize(("period", "hours"), [("hour", [0.5]), ("day", [0.5, 5]), ("week", [0.5, 5, 100])])
def test_the_time_filter_shows_what_was_enqueued_or_finished_within_a_period(
    admin_client, by_age, event, period, hours
):
    assert shown(admin_client.get(LIST, {"time": f"{event}-{period}"})) == {by_age[each] for each in hours}


@pytest.mark.parametrize("event", ["enqueued", "finished"])
def test_the_time_filter_takes_two_times_as_well(admin_client, by_age, event):
    start, end = (timezone.localtime(ago(timedelta(hours=hours))) for hours in (200, 1))
    texts = {"from": f"{start:%Y-%m-%dT%H:%M}", "until": f"{end:%Y-%m-%dT%H:%M}"}
    answer = admin_client.get(LIST, {"time": event, **texts})
    assert shown(answer) == {by_age[100], by_age[5]}
    assert f'value="{texts["from"]}"' in answer.text
    title = f"Jobs: {event} from {start:%Y-%m-%d %H:%M} until {end:%Y-%m-%d %H:%M}"
    assert answer.context["title"] == title
    only_until = admin_client.get(LIST, {"until": texts["until"]})
    assert shown(only_until) == {by_age[hours] for hours in (1000, 100, 5)}


def test_the_time_filter_finds_what_was_finished_long_after_it_was_enqueued(admin_client):
    month_ago = ago(timedelta(days=30))
    job = make_job(State.FAILED, pk=id_at(month_ago), enqueued_at=month_ago, finished_at=timezone.now())
    assert shown(admin_client.get(LIST, {"time": "finished-hour"})) == {job.pk}
    assert shown(admin_client.get(LIST, {"time": "enqueued-week"})) == set()


def test_late_jobs_are_ready_or_due_for_longer_than_that(admin_client):
    three_minutes, hours = ago(timedelta(minutes=3)), ago(timedelta(hours=2))
    few = {
        make_job(ready_at=three_minutes).pk,
        make_job(ready_at=three_minutes, crashes=2).pk,
        make_job(ready_at=three_minutes, slots=1, concurrency_key="a", concurrency_limit=1).pk,
        make_job(State.SCHEDULED, run_at=three_minutes).pk,
    }
    old = make_job(ready_at=hours).pk
    make_job()
    make_job(State.SCHEDULED)
    make_job(State.RUNNING, ready_at=hours)
    assert shown(admin_client.get(f"{LIST}?late=60")) == few | {old}
    assert shown(admin_client.get(f"{LIST}?late=3600")) == {old}


def test_stuck_jobs_are_past_their_lease_or_without_progress_for_ten_minutes(admin_client):
    quarter = ago(timedelta(minutes=15))
    lost = make_job(State.RUNNING, lease_expires_at=ago(timedelta(seconds=5))).pk
    silent = make_job(State.RUNNING, attempted_at=quarter)
    saved_long_ago = make_job(State.RUNNING, attempted_at=quarter)
    saves, has_steps = (make_job(State.RUNNING, attempted_at=quarter) for _ in range(2))
    now, long_ago = ago(timedelta(minutes=1)), ago(timedelta(minutes=11))
    make_job(State.RUNNING)
    make_job(State.RUNNING, attempted_at=quarter, reported_at=now)
    reported_long_ago = make_job(State.RUNNING, attempted_at=quarter, reported_at=long_ago)
    Checkpoint.objects.create(job=saves, saved_at=now)
    Checkpoint.objects.create(job=saved_long_ago, saved_at=long_ago)
    Step.objects.create(job=has_steps, name="a", finished_at=now)
    Step.objects.create(job=silent, name="a", finished_at=long_ago)
    without_progress = {silent.pk, saved_long_ago.pk, reported_long_ago.pk}
    assert shown(admin_client.get(f"{LIST}?stuck=lease")) == {lost}
    assert shown(admin_client.get(f"{LIST}?stuck=progress")) == without_progress
    assert shown(admin_client.get(f"{LIST}?stuck=any")) == {lost} | without_progress


ODD = ["x", "\x00", "-1", "9" * 400, "0001-01-01T00:00", "9999-12-31T23:59", "2026-02-30T00:00", "infinity"]


@pytest.mark.parametrize("name", ["worker", "time", "from", "until", "late", "stuck"])
def test_any_value_of_a_filter_has_an_answer(admin_client, name):
    make_job()
    for value in ODD:
        for others in ({}, {"time": "finished"}):
            assert admin_client.get(LIST, {**others, name: value}).status_code in (200, 302), value


def test_a_form_that_is_sent_with_empty_fields_leads_to_an_address_without_them(admin_client):
    fields = "q", "queue", "task", "error", "worker", "time", "from", "until", "late", "stuck"
    answer = admin_client.get(LIST, {**dict.fromkeys(fields, ""), "queue": "ai", "state__exact": "ready"})
    assert answer.status_code == 302
    assert answer.url == f"{LIST}?queue=ai&state__exact=ready"


def test_the_form_keeps_the_tab_and_what_only_an_address_can_say(admin_client):
    given = {"state__exact": "held", "held_by": "budget:p:1", "queue": "ai", "p": "1"}
    page = admin_client.get(LIST, given).text
    assert '<input type="hidden" name="state__exact" value="held">' in page
    assert '<input type="hidden" name="held_by" value="budget:p:1">' in page
    assert page.count('name="queue"') == 1
    assert 'name="p"' not in page
