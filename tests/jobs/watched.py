"""Tasks that a test looks at while they run."""

from __future__ import annotations

import contextlib
import threading
import time

from django.db import connection

from pgonly_django import task
from pgonly_django.database.connect import connect
from tests.jobs import mark
from tests.waiting import wait_for


@task(takes_context=True)
def tell_when_stopped(context, key):
    """Asks only its context, which runs no query."""
    mark(f"{key}:started")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not context.should_stop:
        time.sleep(0.02)
    mark(f"{key}:told" if context.should_stop else f"{key}:not told")


over = threading.Event()  # each test of stay_at_first() has one of its own


@task(takes_context=True)
def stay_at_first(context, key):
    """Its first run swallows whatever comes, until the test is over; a later one ends when it is let go."""
    mark(f"{key}:started {context.attempt}")
    connection.close()  # its thread outlives the test
    deadline, test_is_over = time.monotonic() + 60, over
    while time.monotonic() < deadline and not test_is_over.is_set():
        with contextlib.suppress(BaseException):
            time.sleep(0.02)
            if context.attempt > 1 and is_marked(f"{key}:go"):
                return


def is_marked(key):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM tests_mark WHERE key = %s", [key])
        return cursor.fetchone() != (0,)


@task
def mark_both_ends(key, seconds):
    mark(f"{key}:began")
    time.sleep(seconds)
    mark(f"{key}:ended")


@task(takes_context=True)
def count_quickly(context, seconds):
    """Has something new to say all the time."""
    deadline = time.monotonic() + seconds
    done = 0
    while time.monotonic() < deadline:
        done += 1
        context.progress(done)
        time.sleep(0.002)
    return done


@task
async def thread_name():
    return threading.current_thread().name


@task
def thread_name_sync():
    return threading.current_thread().name


@task(atomic=True, takes_context=True)
def mark_without_a_lease(context, key):
    """Another worker has rescued and claimed the job while this one was busy."""
    mark(key)
    with connect("default", application_name="rescuer") as other:
        other.execute("UPDATE pgonly_job SET lease_epoch = lease_epoch + 1 WHERE id = %s", [context.job_id])


@task
def setting(name):
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return cursor.fetchone()[0]


@task(atomic=True, takes_context=True)
def report_and_linger(context, seconds):
    context.progress(5, 5)
    context.log("hello")
    time.sleep(seconds)


WAITING = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@task(atomic=True, takes_context=True)
def report_while_its_row_is_locked(context):
    """As it is at each renewal of its lease; the lock goes once the job's own end waits for it."""
    locking = connect("default", application_name="locking")
    locking.autocommit = False
    locking.execute("SELECT FROM pgonly_job WHERE id = %s FOR NO KEY UPDATE", [context.job_id])
    context.progress(5, 5)
    context.log("hello")
    threading.Thread(target=_let_go_once_it_is_waited_for, args=(locking,)).start()


def _let_go_once_it_is_waited_for(locking):
    with locking, connect("default", application_name="looking") as looking:
        wait_for(lambda: looking.execute(WAITING).rowcount, what="somebody to wait for the lock")


@task
def fail_late(seconds):
    time.sleep(seconds)
    raise ValueError("late")
