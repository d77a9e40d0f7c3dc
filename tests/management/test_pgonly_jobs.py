"""manage.py pgonly_jobs, as a person and as a program call it."""

from __future__ import annotations

import io
import json
import re
import sys
from datetime import timedelta
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from pgonly_django.management.commands import pgonly_jobs as changes
from pgonly_django.masking import MASK
from pgonly_django.models import Checkpoint, Job, Queue, State, Step
from tests.jobs import editing, redriving
from tests.queue.rows import ago, fresh, make, make_running, make_waiting

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)
ERROR = {
    "outcome": "failed",
    "exception": "builtins.ValueError",
    "message": "why",
    "traceback": "Traceback X",
}


def failed(**facts):
    defaults = {"state": State.FAILED, "finished_at": timezone.now(), "attempt": 4, "errors": [ERROR]}
    return make(**{"task": "tests.jobs.redriving.screen", **defaults, **facts})


@pytest.fixture
def jobs(capsys):
    """`jobs("list", ...)`: what it printed."""

    def call(*arguments):
        call_command("pgonly_jobs", *map(str, arguments))
        return capsys.readouterr().out

    return call


def as_json(jobs, *arguments):
    return json.loads(jobs(*arguments, "--json"))


def refused(jobs, *arguments):
    with pytest.raises(CommandError) as caught:
        jobs(*arguments)
    return str(caught.value), caught.value.returncode


@pytest.fixture
def terminal(monkeypatch):
    """`terminal("y")`: a person at a terminal, who answers so."""

    def answers(text):
        stream = io.StringIO(f"{text}\n")
        stream.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", stream)

    return answers


# Reading.


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
    assert heads.split() == ["id", "state", "queue", "task", "attempts", "age", "last", "error"]
    assert first.split()[1:5] == ["failed", "ai", "screen", "4/8"]
    assert first.endswith("ValueError: why")
    assert second.split()[1:5] == ["ready", "mail", "add", "0/8"]


def test_what_a_job_waits_for_is_said_and_never_that_it_is_due_in_a_hundred_years(jobs):
    wait = make_waiting(question="Include paper 7?", choices=["include", "exclude"])
    assert jobs("list").splitlines()[1].endswith("  waits for approve:7")
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


# Changing.


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("retry", State.FAILED, State.READY),
        ("redrive", State.FAILED, State.READY),
        ("cancel", State.READY, State.CANCELLED),
        ("discard", State.READY, State.FAILED),
        ("hold", State.READY, State.HELD),
        ("resume", State.HELD, State.READY),
        ("run-now", State.SCHEDULED, State.READY),
    ],
)
def test_every_verb_changes_the_jobs_in_its_states(jobs, verb, before, after):
    run_at = timezone.now() + timedelta(hours=1) if before == State.SCHEDULED else None
    job = make(state=before, held_by="x" if before == State.HELD else None, run_at=run_at)
    other = make(state=State.SUCCEEDED)
    answer = as_json(jobs, verb, job.pk, other.pk)
    assert (answer["verb"], answer["matched"], answer["changed"]) == (verb, 1, 1)
    assert (fresh(job).state, fresh(other).state) == (after, State.SUCCEEDED)
    if verb == "cancel":
        running = make_running()
        assert jobs("cancel", running.pk) == "1 job was cancelled, or asked to stop.\n"
        assert fresh(running).cancel_requested_at is not None
    if verb in ("hold", "discard"):
        assert fresh(job).errors[-1]["reason"].endswith(" by pgonly_jobs.")
        told = make()
        jobs(verb, told.pk, "--reason", "Wait for Monday")
        assert fresh(told).errors[-1]["reason"] == "Wait for Monday"


def test_redrive_spreads_and_changes_arguments(jobs):
    for number in range(3):
        failed(args=[number])
    flags = ("--error", "ValueError", "--per-minute", 60, "--argument", 'model={"a": 1}')
    assert as_json(jobs, "redrive", *flags) == {
        "verb": "redrive", "matched": 3, "changed": 3, "dry_run": False, "left": 0, "reasons": {}
    }  # fmt: skip
    rows = list(Job.objects.order_by("pk"))
    assert [row.state for row in rows] == [State.READY, State.SCHEDULED, State.SCHEDULED]
    calls = [(row.args, row.kwargs) for row in rows]
    assert calls == [([number], {"model": {"a": 1}}) for number in range(3)]


def test_nothing_to_change_is_no_error(jobs):
    failed(queue="ai")
    assert jobs("cancel", "--queue", "ai") == "0 jobs were cancelled, or asked to stop.\n"


def test_what_redrive_leaves_alone_is_named_with_the_reason(jobs):
    old = redriving.unique.enqueue(1).job
    Job.objects.filter(pk=old.pk).update(state=State.FAILED, finished_at=timezone.now())
    redriving.unique.enqueue(1)
    said = jobs("redrive", old.pk)
    assert (
        said
        == f"0 jobs were redriven.\n1 were left alone:\n{old.pk}  Another job has its unique_key by now.\n"
    )


def test_an_argument_that_no_task_has_changes_nothing(jobs):
    job = failed()
    said, code = refused(jobs, "redrive", job.pk, "--argument", "modle=3")
    assert (code, "did you mean 'model'?" in said) == (1, True)
    assert fresh(job).state == State.FAILED


def test_prune_deletes_finished_jobs_with_what_they_saved(jobs):
    job, waiting = failed(), make()
    Step.objects.create(job=job, name="s", result=1)
    assert jobs("prune", "--all") == "1 job was deleted.\n"
    assert list(Job.objects.all()) == [waiting]
    assert not Step.objects.exists()


def test_queues_are_paused_and_resumed_by_name(jobs, capsys):
    make(queue="ai")
    assert jobs("pause", "ai") == "1 of 1 paused.\n"
    call_command("pgonly_jobs", "pause", "aii")
    assert "No recent job is in the queue 'aii'; did you mean 'ai'?" in capsys.readouterr().err
    assert Queue.objects.get(name="ai").paused_at is not None
    assert as_json(jobs, "pause", "ai") == {"verb": "pause", "queues": ["ai"], "changed": 0}
    assert jobs("resume", "ai") == "1 of 1 resumed.\n"
    assert Queue.objects.get(name="ai").paused_at is None


# Many.


def many(count=changes.ASKS_ABOVE + 1):
    return [make(queue="ai") for _ in range(count)]


def test_without_a_terminal_many_are_not_changed_unless_that_is_said(jobs):
    many()
    said, code = refused(jobs, "cancel", "--queue", "ai")
    assert (said, code) == ("Not done: cancel 11 jobs needs --yes where there is no terminal to ask at.", 3)
    assert Job.objects.waiting().count() == 11
    assert jobs("cancel", "--queue", "ai", "--yes") == "11 jobs were cancelled, or asked to stop.\n"


def test_many_are_changed_if_a_person_says_yes(jobs, terminal, capsys, monkeypatch):
    many()
    for answer in ("", "n", "x"):
        terminal(answer)
        assert refused(jobs, "cancel", "--queue", "ai") == ("Not done.", 3)
        assert "Cancel 11 jobs? [y/N]" in capsys.readouterr().err
    assert Job.objects.waiting().count() == 11
    terminal("Yes")
    jobs("cancel", "--queue", "ai")
    assert not Job.objects.waiting().exists()
    many(), monkeypatch.setattr(sys, "stdin", None)
    assert refused(jobs, "cancel", "--queue", "ai")[1] == 3


def test_a_dry_run_counts_and_changes_nothing(jobs):
    many()
    assert jobs("cancel", "--queue", "ai", "--dry-run") == "11 jobs would be cancelled, or asked to stop.\n"
    assert as_json(jobs, "cancel", "--queue", "ai", "--dry-run") == {
        "verb": "cancel", "matched": 11, "changed": 0, "dry_run": True
    }  # fmt: skip
    assert Job.objects.waiting().count() == 11


def test_many_are_changed_in_batches_and_none_twice(jobs, monkeypatch):
    monkeypatch.setattr(changes, "BATCH", 4)
    rows = many()
    assert as_json(jobs, "hold", "--all", "--yes")["changed"] == 11
    assert {len(fresh(row).errors) for row in rows} == {1}


def test_ctrl_c_between_batches_says_what_was_done(jobs, monkeypatch):
    monkeypatch.setattr(changes, "BATCH", 4)
    many()
    real, calls = changes.CHANGES["hold"].apply, []

    def hold(rows, flags):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(rows, flags)

    monkeypatch.setitem(changes.CHANGES, "hold", changes.CHANGES["hold"]._replace(apply=hold))
    assert refused(jobs, "hold", "--all", "--yes") == ("Interrupted: 8 jobs held before.", 130)


# What is wrong.


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--task", "scren"],
            "No recent job has the task 'scren'; did you mean 'tests.jobs.redriving.screen'?",
        ),
        (
            ["--error", "ValuError"],
            "No recent job has the error 'ValuError'; did you mean 'builtins.ValueError'?",
        ),
        (["--queue", "zzz"], "No recent job has the queue 'zzz'."),
    ],
)
@pytest.mark.parametrize("verb", ["list", "redrive"])
def test_a_name_that_no_job_has_is_named_with_the_nearest(jobs, verb, flags, says):
    failed(queue="ai")
    assert refused(jobs, verb, *flags) == (says, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry", "7"], "'7' is not the id of a job"),
        (["cancel"], "Choose jobs"),
        (["show", str(UUID(int=7))], f"There is no job {UUID(int=7)}"),
        (["list", "--state", "fialed"], "there is no state 'fialed'; did you mean 'failed'?"),
        (["list", "--since", "soon"], "'soon' is neither a time"),
        (["list", "--since", "999999999999d"], "longer ago than any job"),
        (["list", "--limit", "-1"], "must be a whole number"),
        (["redrive", "--all", "--argument", "model"], "'model' is not name=value"),
        (["list", "--database", "defualt"], "'defualt' is not in DATABASES; did you mean 'default'?"),
        (["retrry", "--all"], "invalid choice: 'retrry'"),
        ([], "VERB"),
    ],
)
def test_wrong_flags_are_named(jobs, arguments, says):
    said, _ = refused(jobs, *arguments)
    assert says in said
