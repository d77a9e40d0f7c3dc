"""How jobs are searched, and deleted by hand."""

from __future__ import annotations

from urllib.parse import urlencode
from uuid import uuid4

import pytest
from django.contrib.admin.sites import site
from django.core.exceptions import PermissionDenied

from pgonly_django.admin.base import DELETED_AT_ONCE
from pgonly_django.admin.jobs.job_admin import delete_jobs
from pgonly_django.models import Checkpoint, Job, State, Step
from tests.admin.conftest import LIST, act, make_job, page_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def found(admin_client):
    """The ids that the search box finds."""

    def search(term):
        response = admin_client.get(f"{LIST}?{urlencode({'q': term})}")
        assert response.status_code == 200
        return {job.pk for job in response.context["cl"].result_list}

    return search


def test_an_id_finds_its_job_alone(found):
    job, _ = make_job(), make_job()
    assert found(str(job.pk)) == {job.pk}
    assert found(f"  {job.pk.hex.upper()} ") == {job.pk}
    assert found(str(uuid4())) == set()


def test_a_part_of_the_task_finds_it_in_any_case(found):
    job = make_job(task="shop.mail.send_receipt")
    make_job(task="shop.mail.other")
    assert found("Send_Rec") == {job.pk}


@pytest.mark.parametrize("arguments", [{"args": ["Statins study"]}, {"kwargs": {"title": "Statins study"}}])
def test_text_in_the_arguments_is_found(found, arguments):
    job = make_job(**arguments)
    make_job(kwargs={"title": "Other"})
    assert found("statins st") == {job.pk}


@pytest.mark.parametrize("text", ['say "hi"', "C:\\temp", "日本", "100% <b>"])
def test_text_that_json_or_like_would_escape_is_found(found, text):
    job = make_job(args=[text])
    make_job(args=["say hi C:temp 100 b"])
    assert found(text) == {job.pk}


def test_name_equals_value_means_that_keyword_argument_exactly(found):
    number, text = make_job(kwargs={"project_id": 5}), make_job(kwargs={"project_id": "5"})
    make_job(kwargs={"project_id": 55})
    make_job(kwargs={"other": 5})
    assert found("project_id=5") == {number.pk, text.pk}


@pytest.mark.parametrize("term", ["a=NaN", "'; DROP TABLE pgonly_job; --", "=", "a=[1,", "\\", "x" * 5000])
def test_odd_terms_find_nothing_and_break_nothing(found, term):
    make_job()
    assert found(term) == set()


def test_a_part_of_the_unique_key_finds_its_job(found):
    job = make_job(State.SUCCEEDED, unique_key="charge evt_1NG8Du #0123")
    make_job(State.SUCCEEDED, unique_key="charge evt_2 #4567")
    assert found("evt_1ng8") == {job.pk}


def test_text_in_the_metadata_is_found_such_as_the_id_of_a_trace(found):
    job = make_job(
        metadata={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "n": 7}
    )
    make_job(metadata={"n": 77})
    assert found("0AF7651916cd43dd8448eb211c80319c") == {job.pk}
    assert found("n=7") == {job.pk}


def delete_page(job):
    return f"{LIST}{job.pk}/delete/"


def test_a_resting_job_goes_with_its_checkpoint_and_steps(admin_client):
    job = make_job(State.FAILED)
    Checkpoint.objects.create(job=job)
    Step.objects.create(job=job, name="one")
    assert "Steps: 1" in admin_client.get(delete_page(job)).text.replace("steps", "Steps")
    admin_client.post(delete_page(job), {"post": "yes"})
    assert (Job.objects.count(), Checkpoint.objects.count(), Step.objects.count()) == (0, 0, 0)


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
