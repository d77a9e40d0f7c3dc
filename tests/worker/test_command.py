"""`call_command("runworker", ...)`: the process is the caller's, and goes on."""

from __future__ import annotations

import gc
import io
import logging
import re
import signal
import sys
import threading
import time

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.backends.signals import connection_created
from django.test import TestCase

from pgonly_django.compat import tasks_logger
from pgonly_django.events import subscribe
from pgonly_django.models import Job, State
from pgonly_django.worker.stopping import Shutdown
from tests import jobs
from tests.waiting import wait_for

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def run_worker(**flags):
    out = io.StringIO()
    call_command("runworker", stdout=out, **{"burst": True, "threads": 2, "grace_seconds": 0.5, **flags})
    return out.getvalue()


def what_a_worker_changes():
    return (
        [signal.getsignal(number) for number in STOPS],
        sys.getswitchinterval(),
        list(logging.getLogger("pgonly_django").handlers),
        logging.getLogger("pgonly_django").level,
        [tasks_logger.disabled, tasks_logger.propagate, list(tasks_logger.handlers), tasks_logger.level],
        logging.lastResort,
        len(connection_created.receivers),
        dict(connections.settings["default"]["OPTIONS"]),
    )


def on_terminal(monkeypatch):
    """As in a project without LOGGING: pytest's handlers do not get our lines. Called by the test itself: at its
    begin pytest gives handlers to loggers that do not propagate."""
    monkeypatch.setattr(logging.getLogger("pgonly_django"), "propagate", False)


def test_a_burst_returns_to_its_caller(transactional_db, monkeypatch):
    on_terminal(monkeypatch)
    result = jobs.add.enqueue(2, b=3)
    assert run_worker().splitlines()[-1].endswith(" INFO Stopped after 1 job(s).")
    assert result.wait(1).return_value == 5


def test_the_process_is_as_before(transactional_db, monkeypatch):
    on_terminal(monkeypatch)
    before, during = what_a_worker_changes(), []
    jobs.fail.using(max_attempts=1).enqueue()
    stop = subscribe(lambda *_: during.append(what_a_worker_changes()))
    try:
        assert re.search(r"failed with ValueError after [\d.]+ [mu]?s \(attempt 1 of 1\)", run_worker())
    finally:
        stop()
    assert all(now != then for now, then in zip(during[0], before, strict=True))
    assert what_a_worker_changes() == before


@pytest.mark.parametrize("is_frozen", [True, False])
def test_what_the_garbage_collector_leaves_alone_is_as_before(transactional_db, is_frozen):
    """A server freezes what it has before it forks, and so do these tests."""
    threshold, during = gc.get_threshold(), []
    stop = subscribe(lambda *_: during.append((gc.get_freeze_count(), gc.get_threshold()[0])))
    (gc.freeze if is_frozen else gc.unfreeze)()
    gc.set_threshold(700)
    before = gc.get_freeze_count()
    try:
        run_worker()
        count, first = during[0]
        assert (0 < count <= before) if is_frozen else count > 0
        assert first == 10_000
        assert (gc.get_freeze_count() > 0) == is_frozen
        assert gc.get_threshold()[0] == 700
    finally:
        stop()
        gc.set_threshold(*threshold)
        gc.freeze()


def test_it_may_be_called_from_a_thread(transactional_db):
    result = jobs.add.enqueue(1)
    thread = threading.Thread(target=run_worker)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert result.wait(1).return_value == 2


def test_a_signal_stops_it_and_the_caller_goes_on(transactional_db, marks):
    result = jobs.hold_on.enqueue("k")

    def interrupt():
        wait_for(lambda: "k:started" in marks())
        connection.close()
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    run_worker(burst=False, grace_seconds=5.0)
    thread.join()
    assert (result.job.state, result.job.interruptions) == (State.READY, 1)


def test_slots_that_are_all_stuck_are_an_error_with_the_exit_code(transactional_db, marks):
    result = jobs.stubborn.enqueue("deaf", 4.0)

    def cancel():
        wait_for(lambda: "deaf:started" in marks())
        result.cancel()
        connection.close()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(CommandError, match="Every slot is held by a job that ignores") as caught:
        run_worker(burst=False, threads=1, grace_seconds=0.0)
    thread.join()
    assert caught.value.returncode == 3
    assert result.job.state == State.CANCELLED


def test_what_breaks_the_loop_comes_out(transactional_db, monkeypatch):
    def break_down(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Shutdown, "obey", break_down)
    before = set(threading.enumerate())

    def threads_of_the_worker():
        return {t.name for t in threading.enumerate() if t.name.startswith("pgonly-") and t not in before}

    def terminate():
        wait_for(lambda: "pgonly-housekeeper" in threads_of_the_worker())  # the last one that its start needs
        time.sleep(1.0)  # now it waits for work
        signal.raise_signal(signal.SIGTERM)

    terminating = threading.Thread(target=terminate)
    terminating.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_worker(burst=False)
    finally:
        terminating.join()
    wait_for(lambda: not threads_of_the_worker())


class InATestCase(TestCase):
    def test_a_transaction_that_it_could_not_see_is_refused(self):
        jobs.add.enqueue(1)
        with pytest.raises(CommandError, match="In a TestCase use drain"):
            run_worker()
        assert Job.objects.count() == 1  # the test's connection is as it was


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"BACKEND": "no.such.Backend"}, "no.such.Backend"),
        ({"BACKEND": "pgonly_django.tasks.PostgresBackend", "OPTIONS": {"max_attemps": 1}}, "max_attempts"),
    ],
)
def test_an_entry_of_tasks_that_cannot_be_set_up_is_an_error_without_a_traceback(
    transactional_db, settings, entry, words
):
    settings.TASKS = {"default": entry}
    with pytest.raises(CommandError, match=words):
        run_worker()


def test_several_processes_need_one_of_their_own(transactional_db, monkeypatch):
    with pytest.raises(CommandError, match=r"--processes above 1 needs its own process") as caught:
        run_worker(processes=2)
    assert caught.value.returncode == 2
    monkeypatch.setenv("PGONLY_WORKER_PROCESSES", "4")  # of the deployment, not of this call
    result = jobs.add.enqueue(1)
    run_worker()
    assert result.wait(1).return_value == 2
