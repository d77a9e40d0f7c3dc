"""Tasks that start processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

from django.db import connection, connections, transaction

from pgonly_django import task
from pgonly_django.compat import task_finished, task_started
from pgonly_django.models import Job
from tests import activity
from tests.jobs import mark, stay_deaf
from tests.waiting import wait_for

FORK = multiprocessing.get_context("fork")


def backend():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def sleep(seconds=60.0):
    time.sleep(seconds)


def query_and_close(pipe):
    """What a child of gunicorn's or celery's does at its start."""
    connections.close_all()
    pipe.send((backend(), Job.objects.count()))


@task
def map_in_a_pool(method, times):
    total = 0
    for _ in range(times):
        with multiprocessing.get_context(method).Pool(2) as pool:  # ends its children by SIGTERM
            total += sum(pool.map(abs, range(-3, 0)))
    return total


@task
def terminate_a_child():
    child = FORK.Process(target=sleep)
    child.start()
    child.terminate()
    child.join(10)
    return child.exitcode


@task(atomic=True)
def share_the_database_with_a_child():
    """The worker's backend before and after, the child's, and how many jobs it saw."""
    before = backend()
    mark("kept")
    here, there = FORK.Pipe()
    child = FORK.Process(target=query_and_close, args=(there,))
    child.start()
    assert here.poll(20)
    seen, count = here.recv()
    child.join(20)
    return {"same": before == backend(), "own": seen != before, "count": count, "code": child.exitcode}


def code_of(pid):
    """How the child ended; None when it had to be killed."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return None


@task
def come_back_twice(how, key):
    """os.fork() without an end for the child: it returns, raises or exits out of the job."""
    with transaction.atomic():
        mark(key)
        pid = os.fork()
        if pid == 0 and how == "raise":
            raise ValueError("in the child")
        if pid == 0 and how == "exit":
            sys.exit(7)
        if pid == 0:
            return None
        return code_of(pid)


@task
async def come_back_twice_async():
    pid = os.fork()
    return code_of(pid) if pid else None


@task
def fork_at_the_next(name):
    """A receiver that forks once, and whose child comes back too."""
    signals = {"start": task_started, "end": task_finished}

    def receiver(sender, **_):
        signals[name].disconnect(receiver)
        pid = os.fork()
        if pid:
            mark(code_of(pid))

    signals[name].connect(receiver, weak=False)


@task
def leave_a_child_behind(key, daemon):
    """A child that outlives its job, which is deaf."""
    child = FORK.Process(target=sleep, daemon=daemon)
    child.start()
    mark(f"{key}:{child.pid}")
    stay_deaf(60)


def _heartbeat_has_begun():
    return activity.pids("application_name LIKE 'pgonly heartbeat %' AND query <> ''")


def _no_thread_connects():
    """The scheduler looks twice at its start, on a connection that it opens and closes."""
    looks = []
    for _ in range(10):
        looks += activity.pids("application_name LIKE 'pgonly jobs %'")  # but for this job's own
        time.sleep(0.05)
    return looks == []


@task
def die_beside_a_child(key):
    """Killed inside a transaction while a child lives on, which has a copy of what was open at the fork. What is just
    being opened then is not known to it: so first all are there."""
    wait_for(_heartbeat_has_begun, what="the heartbeat's connection")
    wait_for(_no_thread_connects, what="the other threads to have what they need")
    with transaction.atomic():
        mark(key)
        connection.cursor().execute("SELECT pg_advisory_xact_lock(4711)")
        child = FORK.Process(target=sleep, args=(20.0,))
        child.start()
        os.kill(os.getpid(), signal.SIGKILL)
