"""Batches in the admin: how far each is, its members and callbacks, and Cancel."""

from __future__ import annotations

import re
from types import SimpleNamespace
from uuid import uuid4

import pytest

from pgonly_django import Batch
from pgonly_django.current_job import current_job
from pgonly_django.models import Job, JobBatch, State
from tests.admin.conftest import act, make_job
from tests.admin.jobs.test_cells import cells
from tests.admin.jobs.test_page import text_of
from tests.jobs import add, batching
from tests.queue.rows import HOUR, ago, make_gathering, make_running

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/pgonly_django/jobbatch/"


def page_of(batch):
    return f"{LIST}{batch.pk}/change/"


def make_batch(name="Papers of May", **states):
    """A batch by hand, with so many members of each state."""
    batch = JobBatch.objects.create(name=name)
    for state, count in states.items():
        for number in range(count):
            make_job(State(state), batch_id=batch.pk, args=[number])
    return batch


def texts(response, column):
    return [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in cells(response, column)]


def test_the_list_has_the_newest_first_with_name_state_and_progress(admin_client):
    make_batch("first", succeeded=2), make_batch(failed=1, ready=3)
    JobBatch.objects.filter(name="first").update(finished_at=ago(HOUR))
    response = admin_client.get(LIST)
    assert texts(response, "name") == ["Papers of May", "first"]
    assert texts(response, "state_badge") == ["Open", "Succeeded"]
    assert texts(response, "progress") == ["25% 1 of 4 ended, 1 failed", "100% 2 of 2 ended"]
    address = re.search('href="([^"]*)"', cells(response, "progress")[0])[1]
    assert admin_client.get(address).context["cl"].result_count == 4
    found = {"batches=open": ["Papers of May"], "batches=ended": ["first"], "q=MAY": ["Papers of May"]}
    for query, names in found.items():
        assert texts(admin_client.get(f"{LIST}?{query}"), "name") == names


@pytest.mark.parametrize(
    ("states", "changes", "badge"),
    [
        ({"failed": 1}, {"finished_at": ago(HOUR)}, "With failures"),
        ({"cancelled": 1}, {"finished_at": ago(HOUR), "cancelled_at": ago(HOUR)}, "Cancelled"),
        ({"running": 1}, {"cancelled_at": ago(HOUR)}, "Stopping"),
        ({}, {}, "Open"),
    ],
)
def test_the_state_of_a_batch(admin_client, states, changes, badge):
    batch = make_batch(**states)
    JobBatch.objects.update(**changes)
    assert texts(admin_client.get(LIST), "state_badge") == [badge]
    assert badge in admin_client.get(page_of(batch)).text


def test_who_made_it_is_the_job_whose_code_did(admin_client):
    job = make_running(task="shop.tasks.plan")
    token = current_job.set(SimpleNamespace(job=SimpleNamespace(id=job.pk)))
    with Batch(name="made"):
        pass
    current_job.reset(token)
    gathered = make_gathering(ready=1)
    with Batch(name="outside"):
        pass
    shown = dict(
        zip(texts(response := admin_client.get(LIST), "name"), texts(response, "made_by"), strict=True)
    )
    parent = gathered.parent.task.rpartition(".")[2]
    assert shown == {"made": "plan", "papers": f"gathered by {parent}", "outside": "-"}
    assert f'href="/admin/pgonly_django/job/{job.pk}/change/"' in response.text


def test_the_page_has_the_failed_members_first_with_arguments_and_reason(admin_client, client, person):
    batch = make_batch(succeeded=2, ready=2)
    failed = make_job(State.FAILED, batch_id=batch.pk, args=[7], errors=[
        {"outcome": "failed", "exception": "shop.Refused", "message": "no", "started_at": "2026-12-01T00:00:00+00:00"},
    ])  # fmt: skip
    page = admin_client.get(page_of(batch))
    first, *others = page.context["members"]
    assert first["url"] == f"/admin/pgonly_django/job/{failed.pk}/change/"
    states = [text_of(member["badge"]).strip() for member in others]
    assert states == ["Ready", "Ready", "Succeeded", "Succeeded"]
    assert "add 7 Refused: no" in text_of(page.text)
    assert "Papers of May" in re.search("<h1>(.*?)<", page.text)[1]
    person("view_job")
    text = text_of(client.get(page_of(batch)).text)
    assert "Refused" in text
    assert "Refused: no" not in text


def test_nobody_reads_the_arguments_of_callbacks_by_filtering(client, person):
    JobBatch.objects.create(name="b", callbacks={"on_success": {"args": ["secret"]}})
    person("view_job")
    for query in ("callbacks__icontains=secret", "callbacks__on_success__args__0__startswith=s"):
        assert client.get(f"{LIST}?{query}").status_code == 400


def test_a_batch_whose_members_take_too_long_to_count_is_not_called_a_success(admin_client, monkeypatch):
    batch = make_batch(failed=1)
    JobBatch.objects.update(finished_at=ago(HOUR))
    monkeypatch.setattr("pgonly_django.admin.batches.progress_for_page", lambda alias, ids: {})
    assert texts(admin_client.get(LIST), "state_badge") == ["Ended"]
    assert texts(admin_client.get(LIST), "progress") == ["-"]
    assert "Succeeded" not in admin_client.get(page_of(batch)).text


def test_who_may_see_batches_alone_sees_none_of_their_jobs(client, person):
    batch = make_batch(failed=1)
    person("view_jobbatch")
    assert texts(client.get(LIST), "name") == ["Papers of May"]
    assert client.get(page_of(batch)).context["members"] is None
    assert "/job/" not in client.get(page_of(batch)).text


def test_the_page_names_the_callbacks_and_leads_to_the_jobs_that_they_became(admin_client, run_jobs):
    with Batch(on_success=batching.note.bind("a"), on_failure=batching.note.bind("b")) as batch:
        batch.enqueue(add, 1)
    page = text_of(admin_client.get(page_of(batch.row)).text)
    assert "When all have succeeded note" in page
    assert "on_success" not in page, "its arguments may be secret"
    assert "When one has failed or was cancelled note" in page
    run_jobs()
    sent = batch.row.sent["on_success"]
    assert (
        f'<a href="/admin/pgonly_django/job/{sent}/change/">note</a>'
        in admin_client.get(page_of(batch.row)).text
    )


@pytest.mark.parametrize("by", ["button", "action"])
def test_a_batch_is_cancelled_with_its_jobs(admin_client, by):
    batch = make_batch(ready=2, succeeded=1)
    if by == "button":
        admin_client.post(f"{LIST}{batch.pk}/operate/cancel/")
    else:
        act(admin_client, "cancel_batches", [batch], LIST)
    assert JobBatch.objects.get().cancelled_at is not None
    assert sorted(Job.objects.values_list("state", flat=True)) == ["cancelled", "cancelled", "succeeded"]


def test_a_batch_that_has_ended_has_no_button(admin_client):
    batch = make_batch(succeeded=1)
    JobBatch.objects.update(finished_at=ago(HOUR))
    assert "/operate/cancel/" not in admin_client.get(page_of(batch)).text
    assert "cannot be cancelled" in act(admin_client, "cancel_batches", [batch], LIST).text


def test_a_batch_that_is_gone_or_has_odd_callbacks_breaks_no_page(admin_client):
    batch = make_batch()
    callbacks = {"on_success": {}, "later": {"task": 5}}
    JobBatch.objects.update(callbacks=callbacks, sent={"on_success": str(uuid4())}, made_by="job:x")
    assert admin_client.get(LIST).status_code == admin_client.get(page_of(batch)).status_code == 200
