"""The action that redrives failed jobs, and its page."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from pgonly_django.admin.jobs import bulk as redrive
from pgonly_django.models import Job, State
from tests.admin.conftest import LIST, act, make_job, refusals, said
from tests.jobs import redriving

pytestmark = pytest.mark.django_db


def make_failed(**fields):
    return make_job(State.FAILED, **{"task": "tests.jobs.redriving.screen", "args": [1], **fields})


def post(client, jobs, query="", **more):
    return act(client, "redrive_jobs", jobs, LIST + query, **more)


def states(*jobs):
    return [Job.objects.get(pk=job.pk).state for job in jobs]


def test_the_page_counts_the_failed_ones_and_changes_nothing(admin_client):
    failed, other = make_failed(), make_job(State.SUCCEEDED)
    page = post(admin_client, [failed, other])
    assert "1 failed job runs again, with all its attempts, from its steps and checkpoints." in page.text
    assert re.search(r"<textarea[^>]*>\s*</textarea>", page.text)
    assert states(failed, other) == [State.FAILED, State.SUCCEEDED]


def test_what_the_page_sends_back_does_it(admin_client):
    failed, other = [make_failed(), make_failed()], make_job(State.SUCCEEDED)
    page = post(admin_client, [*failed, other])
    assert all(str(job.pk) in page.text for job in failed)
    how = {"apply": "Redrive", "per_minute": "60", "arguments": '{"model": "new"}'}
    answer = post(admin_client, [*failed, other], **how)
    assert said(answer) == ["Redriven: 2 jobs."]
    assert states(*failed, other) == [State.READY, State.SCHEDULED, State.SUCCEEDED]
    calls = [(job.args, job.kwargs) for job in Job.objects.filter(pk__in=[job.pk for job in failed])]
    assert calls == [([1], {"model": "new"})] * 2
    wait = Job.objects.get(pk=failed[1].pk).run_at - timezone.now()
    assert timedelta(0) < wait <= timedelta(seconds=1)
    (entry,) = LogEntry.objects.all()
    assert (entry.object_repr, entry.change_message) == ("2 jobs", "Redriven with another model.")


def test_all_jobs_that_the_list_shows_can_be_chosen(admin_client):
    jobs = [make_failed(queue="ai") for _ in range(60)]
    other = make_failed(queue="mail")
    more = {"select_across": "1", "apply": "Redrive", "query": "?queue=ai"}
    assert said(post(admin_client, jobs[:1], **more)) == ["Redriven: 60 jobs."]
    assert states(other) == [State.FAILED]


def test_a_large_number_is_done_in_parts(admin_client, monkeypatch):
    monkeypatch.setattr(redrive, "AT_ONCE", 2)
    jobs = [make_failed() for _ in range(3)]
    assert "There are more; do it again" in post(admin_client, jobs).text
    assert said(post(admin_client, jobs, apply="Redrive")) == ["Redriven: 2 jobs."]
    assert states(*jobs) == [State.READY, State.READY, State.FAILED]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"per_minute": "0"}, "min_value"),
        ({"per_minute": "nan"}, "invalid"),
        ({"arguments": "{"}, "invalid"),
        ({"arguments": "[1]"}, "It must be an object of names and values"),
        ({"arguments": '{"modle": 1}'}, "did you mean 'model'?"),
        ({"arguments": '{"model": "\\u0000"}'}, "NUL"),
    ],
)
def test_what_does_not_fit_is_said_on_the_page_and_changes_nothing(admin_client, fields, says):
    job = make_failed()
    page = post(admin_client, [job], apply="Redrive", **fields)
    assert any(says in why for why in refusals(page.context["form"]))
    assert states(job) == [State.FAILED]
    assert not LogEntry.objects.exists()


def test_a_task_that_is_gone_takes_no_new_arguments(admin_client):
    job = make_failed(task="tests.jobs.gone")
    page = post(admin_client, [job], apply="Redrive", arguments='{"model": 1}')
    assert "Cannot import the task tests.jobs.gone" in page.text
    assert said(post(admin_client, [job], apply="Redrive")) == ["Redriven: 1 job."]


def test_a_job_that_is_left_alone_is_named(admin_client):
    old = redriving.unique.enqueue(1).job
    Job.objects.filter(pk=old.pk).update(state=State.FAILED, finished_at=timezone.now())
    redriving.unique.enqueue(1)
    answer = post(admin_client, [old], apply="Redrive")
    assert said(answer) == [f"1 was left alone. {old.pk}: Another job has its unique_key by now."]


def test_without_a_failed_job_the_page_says_so(admin_client):
    job = make_job(State.SUCCEEDED)
    assert "None of the selected jobs has failed." in post(admin_client, [job]).text
    assert said(post(admin_client, [job], apply="Redrive")) == ["None of them has failed."]


def test_without_the_permission_for_data_no_arguments_are_asked_for_or_taken(client, person):
    person("view_job", "operate_job")
    job = make_failed()
    assert "New arguments" not in post(client, [job]).text
    post(client, [job], apply="Redrive", arguments='{"model": "mine"}')
    assert (Job.objects.get().state, Job.objects.get().args) == (State.READY, [1])


def test_without_the_permission_for_data_no_reason_is_told(client, person):
    person("view_job", "operate_job")
    taken = make_job(unique_key="x", unique_while="unfinished")
    answer = post(client, [make_failed(unique_key="x", unique_while="unfinished")], apply="Redrive")
    assert said(answer) == ["1 was left alone."]
    assert Job.objects.get(pk=taken.pk).state == State.READY
