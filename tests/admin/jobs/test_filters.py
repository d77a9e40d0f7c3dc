from __future__ import annotations

import pytest

from pgonly_django.models import Job, State
from tests.admin.conftest import LIST, make_job

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


@pytest.mark.parametrize("state", State.values)
def test_the_state_filter_shows_that_state_alone(admin_client, state):
    jobs = {value: make_job(value) for value in State.values}
    assert shown(admin_client.get(f"{LIST}?state__exact={state}")) == {jobs[state].pk}


def test_ready_suspects_are_ready_too(admin_client):
    jobs = {make_job(crashes=crashes).pk for crashes in range(3)}
    assert shown(admin_client.get(f"{LIST}?state__exact=ready")) == jobs


def test_queue_and_task_filters_narrow_together(admin_client):
    wanted = make_job(queue="mail", task="shop.send")
    make_job(queue="mail", task="shop.other")
    make_job(queue="llm", task="shop.send")
    assert shown(admin_client.get(f"{LIST}?queue=mail&task=shop.send")) == {wanted.pk}


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
    make_job(State.FAILED, errors="text of another program")
    page = admin_client.get(LIST)
    assert "?error=httpx.TimeoutException" in page.content.decode()
    assert "?error=builtins.KeyError" not in page.content.decode()
    shown = admin_client.get(LIST, {"error": "httpx.TimeoutException"}).context["cl"].queryset
    assert list(shown) == [failed]
