"""Supervisors whose processes are forked from the tests, and do what the test says instead of running jobs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from dataclasses import asdict

import pytest

from pgonly_django.worker.health.health import Health
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import WorkerState
from pgonly_django.worker.supervisor import supervisor as module
from pgonly_django.worker.supervisor.processes import let_stop_signals_through
from pgonly_django.worker.supervisor.supervisor import Supervisor
from tests.waiting import wait_for
from tests.worker.health.statuses import status


def tell(child, state=WorkerState.READY, message=(), **facts):
    facts = {"worker_id": f"00000000-0000-7000-8000-{os.getpid():012d}", "pid": os.getpid(), **facts}
    child.channel.send({"status": asdict(status(child.name, state, **facts)), **dict(message)})


def obey(child, seconds=60.0):
    """As a worker: ready, ends at SIGTERM, or when it is to retire, or its supervisor is gone."""
    signal.signal(signal.SIGTERM, lambda *_: _end(child, 0))
    let_stop_signals_through()
    tell(child, idle_since=time.monotonic())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not child.channel.is_closed:
        if {"payload": "retire"} in child.channel.receive():
            _end(child, 3)
        time.sleep(0.01)


def _end(child, code):
    tell(child, message={"holds_nothing": True})
    os._exit(code)


def never_ready(child):
    raise SystemExit(1)


def deaf(child):
    """Ready, and then it tells nothing and ends at no signal but SIGKILL."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    let_stop_signals_through()
    tell(child)
    time.sleep(60)


def turn_until(supervisor, condition, seconds=20.0, what="the condition"):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        supervisor._turn()


def run_until_over(supervisor):
    turn_until(supervisor, supervisor._is_over, what="its end")


@pytest.fixture
def supervise(monkeypatch, transactional_db, caplog):
    """A supervisor of `serve`. The test makes it turn."""
    caplog.set_level(logging.INFO, "pgonly_django")
    monkeypatch.setattr(module, "TURN_SECONDS", 0.02)
    supervisors = []

    def make(serve, processes=2, ends_at=None, **options):
        options = WorkerOptions(name="s", processes=processes, **{"grace_seconds": 0.0, **options})
        supervisor = Supervisor(options, serve, "fork", Health(), ends_at)
        supervisors.append(supervisor)
        return supervisor

    yield make
    for supervisor in supervisors:
        for process in supervisor.processes:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(process.pid, signal.SIGKILL)
                os.waitpid(process.pid, 0)
            process.channel.close()
        supervisor.inbox.close()
        # What it takes back at the end, which it does not wait for, would be in the next test's tables.
        wait_for(lambda each=supervisor: not each.taking_back._is_running)
