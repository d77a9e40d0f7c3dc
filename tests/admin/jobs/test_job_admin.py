"""How jobs are deleted by hand."""

from __future__ import annotations

import pytest
from django.contrib.admin.sites import site
from django.core.exceptions import PermissionDenied

from pgonly_django.admin.base import DELETED_AT_ONCE
from pgonly_django.admin.jobs.job_admin import delete_jobs
from pgonly_django.models import Checkpoint, Job, State, Step
from tests.admin.conftest import LIST, act, make_job, page_of

pytestmark = pytest.mark.django_db


def delete_page(job):
    return f"{LIST}{job.pk}/delete/"


def test_a_resting_job_goes_with_its_checkpoint_and_steps(admin_client):
    job = make_job(State.FAILED)
    Checkpoint.objects.create(job=job)
    Step.objects.create(job=job, name="one")
    assert "Steps: 1" in admin_client.get(delete_page(job)).text.replace("steps", "Steps")
    admin_client.post(delete_page(job), {"post": "yes"})
    assert (Job.objects.count(), Checkpoint.objects.count(), Step.objects.count()) == (0, 0, 0)


@pytest.mark.parametrize("name", ["delete", "history"])
def test_the_pages_around_a_job_call_its_task_by_its_short_name(admin_client, name):
    job = make_job(State.FAILED)
    html = admin_client.get(page_of(job).replace("change", name)).text
    assert f"add {job.pk}" in html
    assert "tests.jobs.add" not in html


def test_the_count_of_a_jobs_steps_ends_at_the_cap(admin_client, monkeypatch):
    monkeypatch.setattr("pgonly_django.admin.jobs.job_admin.COUNTED_AT_MOST", 2)
    job = make_job(State.FAILED)
    Step.objects.bulk_create(Step(job=job, name=f"step {number}") for number in range(5))
    assert "steps: 3" in admin_client.get(delete_page(job)).text.lower()


def test_the_delete_permission_is_enough(client, person):
    job = make_job()
    person("view_job", "delete_job")
    assert delete_page(job) in client.get(page_of(job)).text
    client.post(delete_page(job), {"post": "yes"})
    assert not Job.objects.filter(pk=job.pk).exists()


def test_a_running_job_stays_and_has_no_delete_link(admin_client):
    job = make_job(State.RUNNING)
    assert delete_page(job) not in admin_client.get(page_of(job)).text
    assert admin_client.post(delete_page(job), {"post": "yes"}).status_code == 403
    assert Job.objects.filter(pk=job.pk).exists()


def test_a_selection_with_a_running_job_is_refused_and_names_it(admin_client):
    running, resting = make_job(State.RUNNING), make_job()
    page = act(admin_client, "delete_selected", [running, resting]).text
    assert f"{running.pk}, which runs: cancel it first" in page
    act(admin_client, "delete_selected", [running, resting], post="yes")
    assert Job.objects.count() == 2


def test_a_job_that_began_to_run_meanwhile_is_left_alone():
    running, resting = make_job(State.RUNNING), make_job()
    assert delete_jobs(Job.objects.all()) == 1
    assert list(Job.objects.all()) == [running]
    assert not Job.objects.filter(pk=resting.pk).exists()


def test_a_page_that_was_overtaken_by_the_worker_is_refused(rf):
    with pytest.raises(PermissionDenied):
        site.get_model_admin(Job).delete_model(rf.post("/"), make_job(State.RUNNING))
    assert Job.objects.exists()


def test_everything_at_once_takes_the_newest_only(admin_client):
    oldest = make_job()
    Job.objects.bulk_create(Job(task="tests.jobs.add") for _ in range(DELETED_AT_ONCE))
    act(admin_client, "delete_selected", [oldest], select_across="1", post="yes")
    assert list(Job.objects.all()) == [oldest]
