"""The pages that edit a waiting job, and run one again as a new job."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from pgonly_django.masking import MASK
from pgonly_django.models import Job, State
from tests.admin.conftest import LIST, make_job, page_of, refusals, said

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
PLAIN = {"task": "tests.jobs.editing.plain", "args": [1]}
SECRET = {"task": "tests.jobs.editing.pay", "args": ["7", "hunter2"], "kwargs": {"api_key": "hunter2"}}


def url(job, page):
    return f"{LIST}{job.pk}/{page}/"


def form_of(client, job, page):
    """What a browser would send back without any change."""
    html = client.get(url(job, page)).text
    inputs = re.findall(
        r'<input type="(?:text|number|hidden|datetime-local)" name="(\w+)"(?: value="([^"]*)")?', html
    )
    texts = re.findall(r'<textarea name="(\w+)"[^>]*>\n?(.*?)</textarea>', html, re.DOTALL)
    return {name: unescape(value) for name, value in [*inputs, *texts] if name != "csrfmiddlewaretoken"}


def send(client, job, page, **changes):
    return client.post(url(job, page), {**form_of(client, job, page), **changes}, follow=True)


def entries():
    return [entry.change_message for entry in LogEntry.objects.order_by("pk")]


def test_a_job_is_edited_and_the_log_says_by_whom_and_what(admin_client):
    job = make_job(**PLAIN)
    answer = send(admin_client, job, "edit", queue="ai", priority="5", args="[2]", kwargs='{"flag": true}')
    assert said(answer) == ["Edited: queue, priority, positional arguments, keyword arguments."]
    row = Job.objects.get()
    assert (row.queue, row.priority, row.args, row.kwargs) == ("ai", 5, [2], {"flag": True})
    assert entries() == said(answer)
    send(admin_client, row, "edit", args="[1]"), send(admin_client, row, "edit", args="[true]")
    assert Job.objects.get().args[0] is True


def test_what_is_sent_back_unchanged_changes_nothing(admin_client):
    job = make_job(State.SCHEDULED, **SECRET, run_at=timezone.now() + HOUR)
    assert said(send(admin_client, job, "edit")) == ["Nothing was changed."]
    assert Job.objects.values().get() == Job.objects.filter(pk=job.pk).values().get()
    assert Job.objects.get().run_at == job.run_at, "its microseconds stay"
    assert entries() == []


def test_the_form_says_in_which_time_zone_its_time_is(admin_client):
    with timezone.override("Asia/Shanghai"):
        html = admin_client.get(url(make_job(**PLAIN), "edit")).text
    assert "In the time zone Asia/Shanghai." in html


def test_an_empty_time_makes_a_scheduled_job_ready(admin_client):
    job = make_job(State.SCHEDULED, **PLAIN)
    assert said(send(admin_client, job, "edit", run_at="")) == ["Edited: not before."]
    assert Job.objects.get().state == State.READY


def test_a_masked_value_that_is_left_keeps_what_is_stored_and_may_be_replaced(admin_client):
    job = make_job(**SECRET)
    form = form_of(admin_client, job, "edit")
    assert "hunter2" not in str(form)
    assert form["args"].count(MASK) == form["kwargs"].count(MASK) == 1
    send(admin_client, job, "edit", args=form["args"].replace('"7"', '"8"'))
    assert (Job.objects.get().args, Job.objects.get().kwargs) == (["8", "hunter2"], SECRET["kwargs"])
    send(admin_client, job, "edit", args='["7", "new"]')
    assert Job.objects.get().args == ["7", "new"]


@pytest.mark.parametrize(
    "args", [f'["{MASK}", "{MASK}"]', f'["7", "{MASK}", "{MASK}"]', f'["7", {{"a": "{MASK}"}}]']
)
def test_a_mask_that_stands_elsewhere_is_refused(admin_client, args):
    job = make_job(**SECRET)
    answer = send(admin_client, job, "edit", args=args)
    assert refusals(answer.context["form"]) == [
        f"{MASK} stands where nothing was masked. Write the value itself."
    ]
    assert Job.objects.get().args == SECRET["args"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"args": "[1"}, "It is not JSON:"),
        ({"args": "{}"}, "It must be a list in JSON."),
        ({"kwargs": "[]"}, "It must be an object in JSON."),
        ({"args": "[1, 2, 3]"}, "cannot be called with these arguments"),
        ({"args": "[1e400]"}, "cannot be stored as JSON"),
        ({"priority": "101"}, "max_value"),
        ({"queue": ""}, "required"),
        ({"queue": "a\x00"}, "null_characters_not_allowed"),
        ({"run_at": "9999-12-31T23:59:59"}, "It must lie in the years"),
        ({"run_at": "soon"}, "invalid"),
        ({"version": "x", "priority": "5"}, "The job was changed since this page was made."),
        ({"version": "", "priority": "5"}, "The job was changed since this page was made."),
    ],
)
def test_what_cannot_be_saved_is_said_in_words_and_the_typed_text_stays(admin_client, changes, says):
    job = make_job(**PLAIN)
    answer = send(admin_client, job, "edit", **changes)
    assert answer.status_code == 200
    assert any(says in text for text in refusals(answer.context["form"])), refusals(answer.context["form"])
    assert Job.objects.get().args == [1]
    assert entries() == []


def test_a_job_that_a_worker_has_taken_meanwhile_is_not_changed(admin_client):
    job = make_job(**PLAIN)
    form = form_of(admin_client, job, "edit")
    Job.objects.update(state=State.RUNNING, worker_id=job.pk, lease_expires_at=timezone.now(), lease_epoch=1)
    answer = admin_client.post(url(job, "edit"), {**form, "priority": "5"}, follow=True)
    assert said(answer) == ["Only a job that waits can be edited; this one is running."]
    assert Job.objects.get().priority == 0


def test_without_the_permission_for_data_the_arguments_stay_and_the_rest_can_change(client, person):
    person("view_job", "operate_job")
    job = make_job(**SECRET)
    form = form_of(client, job, "edit")
    assert set(form) == {"queue", "priority", "run_at", "version"}
    answer = client.post(url(job, "edit"), {**form, "priority": "3", "args": "[]"}, follow=True)
    assert said(answer) == ["Edited: priority."]
    assert (Job.objects.get().args, Job.objects.get().priority) == (SECRET["args"], 3)


@pytest.mark.parametrize(
    ("page", "changes", "columns"),
    [
        ("edit", {"queue": "ai"}, {"task": "tests.jobs.editing.plain", "args": [1, 2, "hunter2"]}),
        (
            "again",
            {},
            {"task": "tests.jobs.editing.of_no_account", "args": ["hunter2"], "state": State.FAILED},
        ),
    ],
)
def test_without_the_permission_for_data_a_refusal_tells_no_argument(client, person, page, changes, columns):
    person("view_job", "operate_job")
    answer = send(client, make_job(**columns), page, **changes)
    assert "hunter2" not in answer.text
    unseen = "The task or the queue refuses this job. A person who may see its arguments sees why."
    assert refusals(answer.context["form"]) == [unseen]


@pytest.mark.parametrize("page", ["edit", "again"])
def test_a_job_that_is_not_there_is_not_found(admin_client, page):
    assert admin_client.get(f"{LIST}{'00' * 16}/{page}/").status_code == 404


def test_arguments_that_are_too_long_stay_as_they_are(admin_client):
    job = make_job(task="tests.jobs.editing.plain", args=[1, "x" * 100_000])
    assert "args" not in form_of(admin_client, job, "edit")
    assert said(send(admin_client, job, "edit", priority="5")) == ["Edited: priority."]


def test_a_job_runs_again_as_a_new_one(admin_client):
    job = make_job(State.FAILED, **SECRET, queue="ai", attempt=4)
    answer = send(admin_client, job, "again")
    assert said(answer) == ["This is the new job."]
    new = Job.objects.exclude(pk=job.pk).get()
    assert (new.args, new.kwargs, new.queue, new.attempt) == (SECRET["args"], SECRET["kwargs"], "ai", 0)
    assert entries() == [f"Run again as {new.pk}."]
    assert answer.redirect_chain[-1][0] == page_of(new)


def test_it_runs_again_with_other_arguments_and_later(admin_client):
    job = make_job(State.SUCCEEDED, **PLAIN)
    later = (timezone.localtime() + HOUR).strftime("%Y-%m-%dT%H:%M:%S")
    send(admin_client, job, "again", args='[2, "y"]', run_at=later, priority="9")
    new = Job.objects.exclude(pk=job.pk).get()
    assert (new.args, new.state, new.priority) == ([2, "y"], State.SCHEDULED, 9)


def test_a_unique_job_that_is_there_is_shown_instead(admin_client):
    from tests.jobs.editing import keyed

    job = Job.objects.get(pk=keyed.enqueue("7").id)
    (message,) = said(send(admin_client, job, "again"))
    assert message.startswith("No new job: ")
    assert Job.objects.count() == 1
    assert entries() == [f"Run again: the job {job.pk} has its unique key."]


def test_what_cannot_run_again_is_said_in_words(admin_client):
    job = make_job(State.FAILED, task="shop.gone", args=[1])
    assert "Cannot import the task shop.gone" in refusals(send(admin_client, job, "again").context["form"])[0]
    assert Job.objects.count() == 1


def test_without_the_permission_for_data_it_runs_again_with_the_same_arguments(client, person):
    person("view_job", "operate_job")
    job = make_job(State.FAILED, **SECRET)
    send(client, job, "again", args='["other"]')
    assert Job.objects.exclude(pk=job.pk).get().args == SECRET["args"]


@pytest.mark.parametrize("state", [State.READY, State.FAILED])
def test_an_unfinished_job_that_runs_again_says_that_both_run(admin_client, state):
    page = admin_client.get(url(make_job(state, **PLAIN), "again")).text
    assert ("Both will run." in page) == (state == State.READY)


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (State.SCHEDULED, ["run_now", "cancel", "edit", "retry", "again", "hold", "discard", "delete"]),
        (State.READY, ["cancel", "edit", "again", "hold", "discard", "delete"]),
        (State.HELD, ["resume", "cancel", "edit", "retry", "again", "discard", "delete"]),
        (State.RUNNING, ["cancel", "again"]),
        (State.FAILED, ["retry", "again", "delete"]),
    ],
)
def test_the_page_offers_what_the_state_allows_and_says_what_each_does(admin_client, state, shown):
    html = admin_client.get(page_of(make_job(state))).text
    assert re.findall(r'pgonly-button-(\w+)"[^>]* aria-describedby="about-\1"', html) == shown
    assert all(re.search(rf'<p id="about-{name}">[^<]+</p>', html) for name in shown)
