"""manage.py pgonly_jobs list and show, as a person and as a program read them."""

from __future__ import annotations

import json
import re

import pytest
from django.core.management import call_command
from django.utils import timezone

from pgonly_django.masking import MASK
from pgonly_django.models import Checkpoint, Job, State, Step
from tests.jobs import editing
from tests.management.calling import ERROR, HOUR, as_json, failed
from tests.queue.rows import MINUTE, SECOND, ago, make, make_gathering, make_waiting

pytestmark = pytest.mark.django_db(transaction=True)


def test_keys_with_masked_values_are_masked_in_a_list(jobs):
    editing.named_by_a_secret.enqueue(password="hunter2")
    odd = make(task="gone.task", args=["hunter2"], unique_key="hunter2 #2", unique_while="unfinished")
    make(task="tests.jobs.add", args=[1, 2], unique_key="open #1", unique_while="unfinished")
    assert "hunter2" not in jobs("list", "--json")
    keys = {
        each["task"].rpartition(".")[2]: each["unique_key"] for each in json.loads(jobs("list", "--json"))
    }
    assert keys == {"named_by_a_secret": MASK, "task": MASK, "add": "open #1"}
    assert json.loads(jobs("show", str(odd.pk), "--json"))["unique_key"] == "hunter2 #2"


def test_the_newest_jobs_stand_first_with_what_is_wrong(jobs):
    make(queue="mail")
    failed(queue="ai")
    heads, first, second = jobs("list").splitlines()
    assert heads.split()[:6] == ["id", "state", "queue", "task", "attempts", "age"]
    assert heads.endswith("  waits for, or last error")
    assert first.split()[1:5] == ["failed", "ai", "screen", "4/8"]
    assert first.endswith("ValueError: why")
    assert second.split()[1:5] == ["ready", "mail", "add", "0/8"]


def test_what_a_job_waits_for_is_said_and_never_that_it_is_due_in_a_hundred_years(jobs):
    wait = make_waiting(question="Include paper 7?", choices=["include", "exclude"])
    assert jobs("list").splitlines()[1].endswith("  asks a person: Include paper 7?")
    shown = json.loads(jobs("show", wait.job_id, "--json"))
    for each in (*as_json(jobs, "list"), shown):
        assert each["run_at"] is None
        waits_for = each["waits_for"]
        assert waits_for.pop("began_at")[:4] == str(timezone.now().year)
        assert waits_for == {
            "key": "approve:7", "question": "Include paper 7?", "choices": ["include", "exclude"], "until": None,
        }  # fmt: skip
    text = jobs("show", wait.job_id)
    assert "Include paper 7?" in text
    assert not re.search(r"\b21\d\d-", text)


def test_a_line_says_what_a_scheduled_job_waits_for(jobs):
    soon = timezone.now() + HOUR + SECOND
    error = {"outcome": "failed", "attempt": 1, "exception": "httpx.ConnectError", "message": "refused"}
    tried = {"attempt": 1, "errors": [error]}
    said = {
        make_waiting("paid").job: "waits for paid",
        make_waiting("asked", choices=["yes"]).job: "asks a person: asked",
        make_waiting(None, until=soon).job: f"sleeps until {soon.isoformat()[:19]}",
        make_gathering(ready=1).parent: "waits for the jobs that it gathers",
        make(state=State.SCHEDULED, run_at=soon): "starts in 1 h",
        make(state=State.SCHEDULED, run_at=soon, **tried): "next attempt in 1 h: ConnectError: refused",
        make(state=State.SCHEDULED, run_at=ago(MINUTE)): "starts in 0 s",
    }  # fmt: skip
    lines = {line.split()[0]: line for line in jobs("list", "--state", "scheduled").splitlines()[1:]}
    for job, text in said.items():
        assert lines[str(job.pk)].endswith(f"  {text}")


def test_a_wait_with_a_deadline_is_due_then(jobs):
    until = timezone.now() + HOUR
    wait = make_waiting(until=until)
    assert json.loads(jobs("show", wait.job_id, "--json"))["run_at"] == until.isoformat()
    Job.objects.filter(pk=wait.job_id).update(lease_epoch=2)
    assert json.loads(jobs("show", wait.job_id, "--json"))["waits_for"] is None


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--queue", "ai", "--queue", "mail"], {"a", "b", "c"}),
        (["--limit", "2"], {"b", "c"}),
        (["--limit", "0"], {"a", "b", "c"}),
        (["--state", "failed", "--state", "ready", "--queue", "ai"], {"a", "b"}),
        (["--task", "screen"], {"b"}),
        (["--error", "builtins.ValueError", "--error", "KeyError"], {"b"}),
        (["--since", "2h"], {"a", "c"}),
        (["--until", "2h"], {"b"}),
        (["--until", "2020-01-01T10:00+02:00"], set()),
    ],
)
def test_flags_choose(jobs, flags, found):
    rows = {
        "a": make(queue="ai"),
        "b": failed(queue="ai", finished_at=ago(3 * HOUR)),
        "c": make(queue="mail"),
    }
    names = {str(row.pk): name for name, row in rows.items()}
    assert {names[each["id"]] for each in as_json(jobs, "list", *flags)} == found


def test_a_list_is_bounded_by_itself_and_an_empty_one_says_so(jobs):
    assert (jobs("list"), as_json(jobs, "list")) == ("No jobs.\n", [])
    Job.objects.bulk_create(Job(task="tests.jobs.add") for _ in range(51))
    assert len(as_json(jobs, "list")) == 50


def test_the_keys_for_programs_stay_the_same(jobs):
    failed()
    (job,) = as_json(jobs, "list")
    assert list(job) == [
        "id", "state", "queue", "task", "priority", "attempt", "max_attempts", "interruptions", "crashes",
        "enqueued_at", "run_at", "started_at", "attempted_at", "finished_at", "delete_after", "cancel_requested_at",
        "worker_id", "enqueued_by", "held_by", "unique_key", "concurrency_key", "dead_letter_queue", "dead_lettered_at",
        "progress", "last_error", "waits_for",
    ]  # fmt: skip
    assert job["last_error"] == {
        "outcome": "failed",
        "exception": "builtins.ValueError",
        "message": "why",
        "reason": None,
    }


def test_one_job_is_shown_with_all_that_is_known(jobs):
    job = failed(args=[1], kwargs={"model": "x"}, log=[{"at": "2026", "text": "hello"}])
    Checkpoint.objects.create(job=job, value={"page": 3})
    Step.objects.create(job=job, name="first", result="paid")
    shown = jobs("show", job.pk)
    for part in (
        str(job.pk),
        '"model": "x"',
        '"page": 3',
        '"paid"',
        "hello",
        "builtins.ValueError, why",
        "Traceback X",
    ):
        assert part in shown
    found = as_json(jobs, "show", job.pk)
    assert (found["args"], found["kwargs"], found["checkpoint"]["value"]) == (
        [1],
        {"model": "x"},
        {"page": 3},
    )
    assert found["steps"][0]["name"] == "first"
    assert found["errors"] == [ERROR]


def test_the_end_of_an_attempt_is_one_line_with_the_step_that_raised(jobs):
    crash = {"outcome": "crashed", "reason": "It died (1 of 3 allowed).", "worker": "w"}
    job = failed(
        errors=[{**crash, "attempt": 1}, {**ERROR, "message": "why...", "step": "ask", "attempt": 2}]
    )
    shown = jobs("show", job.pk).splitlines()
    assert "attempt 1: crashed, It died (1 of 3 allowed), w" in shown
    assert "attempt 2: failed, builtins.ValueError, why..., in the step 'ask'" in shown


def test_crashes_are_shown_until_progress_resets_them(jobs):
    assert "crashes              2\n" in jobs("show", make(crashes=2).pk)
    shown, found = (jobs("show", make().pk), as_json(jobs, "show", make().pk))
    assert "crashes" not in shown
    assert found["crashes"] == 0


def test_what_a_job_has_written_does_not_steer_the_terminal(jobs):
    job = failed(errors=[{**ERROR, "message": "\x1b[2Jgone\r\nnext", "traceback": "a\n\x1b]0;x\x07b"}])
    assert "\x1b" not in jobs("list") + jobs("show", job.pk)
    assert "\\x1b[2Jgone" in jobs("list")


def test_a_list_says_that_there_are_more_jobs(capsys):
    make()
    make()
    for flags, says in ((["--limit", "1"], True), (["--limit", "2"], False), (["--limit", "0"], False)):
        call_command("pgonly_jobs", "list", *flags)
        assert ("There are more jobs: --limit 0 lists all." in capsys.readouterr().err) is says
