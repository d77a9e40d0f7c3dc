"""The demo as a user runs it: a real process with real children, on its own database."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from itertools import islice

import pytest

from benchmarks.servers import free_port
from tests.aliases import new_database
from tests.children import database_url, environment
from tests.example.conftest import ROOT
from tests.forks import restore_sigint
from tests.waiting import wait_for

# The second mark makes the test database, also where this file runs alone.
pytestmark = [pytest.mark.slow, pytest.mark.django_db]


@pytest.fixture
def demo(django_db_setup, django_db_blocker):
    """Start `manage.py demo` with arguments on a new database."""
    with django_db_blocker.unblock(), new_database("demo") as name:
        processes = []

        def start(*arguments):
            command = [sys.executable, str(ROOT / "manage.py"), "demo", *arguments]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = subprocess.Popen(
                command,
                env=environment("example_project.settings", DATABASE_URL=database_url(NAME=name)),
                text=True,
                preexec_fn=restore_sigint,  # noqa: PLW1509 - it sets a signal and takes no lock
                **pipes,
            )
            processes.append(process)
            return process

        yield start
        for process in processes:
            process.kill()
            process.communicate()


def summary_of(process):
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return json.loads(out)


@pytest.mark.process
def test_a_killed_worker_changes_no_verdict_and_costs_at_most_the_call_in_flight(demo):
    whole = summary_of(demo("--headless", "--json", "--delay", "0"))
    killed = summary_of(demo("--headless", "--json", "--delay", "0.02", "--kill-at", "50"))
    assert (whole["papers"], whole["verdicts"], whole["reviewer_calls"]) == (40, 80, 80)
    assert (whole["killed_at"], whole["resumed_from"]) == (None, None)
    assert (whole["outcomes"]["disputed"], whole["decided"]) == (12, 12)
    assert killed["verdicts_digest"] == whole["verdicts_digest"]
    assert killed["killed_at"] >= 20
    assert 0 <= killed["resumed_from"] - killed["killed_at"] <= 1  # a commit may have been in flight
    assert 80 <= killed["reviewer_calls"] <= 81
    assert killed["project"] != whole["project"]


@pytest.mark.process
def test_two_workers_heed_a_429_and_a_project_is_held_at_its_budget_and_resumed(demo):
    summary = summary_of(demo("--headless", "--json", "--delay", "0.02", "--budget", "0.05"))
    capped, other = summary["projects"]
    assert [project["verdicts"] for project in (capped, other)] == [80, 80]
    assert (capped["reviewer_calls"], other["reviewer_calls"]) == (81, 80)  # one was answered 429
    assert summary["cooled_down"]["calls_meanwhile"] == 0
    assert summary["cooled_down"]["workers_after"] == 2
    held = summary["held"]
    assert 0 < held["papers"] < 40
    assert 0.03 < held["spent_usd"] <= 0.05
    assert capped["cap_usd"] == held["raised_to_usd"] == 0.2
    assert capped["spent_usd"] == other["spent_usd"]  # the 429 cost nothing, and nothing was paid for twice
    assert capped["resumed_from"] == held["papers"]


@pytest.mark.process
def test_the_pages_come_up_right_after_a_kill_and_sigterm_ends_every_child(demo):
    summary_of(demo("--headless", "--json", "--delay", "0.02", "--kill-at", "50"))
    process = demo("--seed", "--port", str(free_port()))
    lines = iter(process.stdout.readline, "")
    told = list(islice(lines, 8))
    assert "press Start" in told[2]
    assert "12 papers wait for your decision" in told[3]
    assert "user demo, password" in told[4]
    assert "/account/devices/" in told[5]
    worker = int(told[7].split("pid ")[1].split(":")[0])
    os.kill(worker, 0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    wait_for(lambda: not _lives(worker))


@pytest.mark.process
@pytest.mark.skipif(shutil.which("ps") is None, reason="ps (procps) is missing")
@pytest.mark.parametrize(
    ("arguments", "lines", "children"),
    [(["--port"], 7, 2), (["--headless", "--delay", "0.2"], 4, 1)],
    ids=["idle, with pages", "headless, in the middle of a job"],
)
def test_a_killed_demo_leaves_no_child_behind(demo, arguments, lines, children):
    process = demo(*arguments, *([str(free_port())] if arguments == ["--port"] else []))
    told = [process.stdout.readline() for _ in range(lines)]
    left = _children_of(process.pid)
    assert len(left) == children, told
    process.kill()
    try:
        wait_for(lambda: not any(_runs(pid) for pid in left), seconds=8, what="the end of every child")
    finally:
        for pid in filter(_runs, left):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.process
def test_ctrl_c_cancels_a_headless_screening_and_ends_its_worker(demo):
    process = demo("--headless", "--delay", "0.2")
    first = [process.stdout.readline() for _ in range(4)]
    assert first[3].startswith("4 of 40 papers")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Interrupted" in errors
    assert "Traceback" not in errors


def _children_of(parent):
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    return [int(pid) for pid, ppid in map(str.split, table.splitlines()) if int(ppid) == parent]


def _runs(pid):
    """Whether the process exists and is no zombie. A killed orphan stays a zombie until init collects it."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.strip()[:1] not in ("", "Z")


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.process
def test_a_port_in_use_is_said_before_anything_is_started(demo):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        out, errors = demo("--port", str(port)).communicate(timeout=30)
    assert (out, errors) == ("", f"Port {port} is in use: choose another with --port.\n")
