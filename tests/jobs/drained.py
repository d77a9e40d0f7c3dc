"""Tasks that show in what kind of transaction they run, and that end in every way. They mark: tests/conftest.py."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.db import Error, connection, connections, transaction
from django.utils import translation

from pgonly_django import Discard, Hold, Retry, Snooze, budget, limiter, task
from pgonly_django.testing import drain
from tests.jobs import add, mark, stay


def a_day(attempt):
    return timedelta(days=1)


@task(max_attempts=3, backoff=a_day)
def mark_and_fail(key):
    mark(key)
    raise ValueError(f"after {key}")


@task
def fail_in_the_database(key):
    """One statement fails and is caught; then it goes on, as it may where each statement commits."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO tests_mark (key) VALUES (NULL)")
    except Error:
        mark(f"{key}:caught")


@task
def fail_inside_atomic(key):
    mark(f"{key}:before")
    try:
        with transaction.atomic():
            mark(f"{key}:rolled back")
            raise ValueError
    except ValueError:
        mark(f"{key}:after")


@task
def swallow_inside_atomic(key):
    """PostgreSQL answers its COMMIT with a rollback."""
    with transaction.atomic():
        mark(key)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
        except Error:
            pass


@task
def tell_after_commit(key):
    transaction.on_commit(lambda: mark(f"{key}:at once"))
    with transaction.atomic():
        transaction.on_commit(lambda: mark(f"{key}:after"))
        transaction.on_commit(lambda: add.enqueue(1))
        mark(f"{key}:inside")
    mark(f"{key}:end")


@task
def tell_after_rollback(key):
    try:
        with transaction.atomic():
            transaction.on_commit(lambda: mark(key))
            raise ValueError
    except ValueError:
        pass


@task
def say_where_it_runs():
    with transaction.atomic(durable=True):
        inside = connection.in_atomic_block
    return [connection.in_atomic_block, connection.get_autocommit(), inside]


@task(max_attempts=1)
def lock_outside_of_atomic():
    from pgonly_django.models import Job

    return Job.objects.select_for_update().count() and list(Job.objects.select_for_update())


@task
def close_its_connections(key):
    connections.close_all()
    connection.close_if_unusable_or_obsolete()
    mark(key)


@task
def commit_by_hand(key):
    transaction.set_autocommit(False)
    mark(f"{key}:one")
    transaction.commit()
    mark(f"{key}:two")
    transaction.rollback()
    mark(f"{key}:three")
    transaction.commit()
    transaction.set_autocommit(True)


@task(max_attempts=1)
def break_the_transaction():
    """In a way that no savepoint is around: not by Django's cursor."""
    mark("lost")
    connection.connection.pgconn.exec_(b"SELECT 1 / 0")


@task
async def mark_async(key):
    from pgonly_django.models import Job

    await sync_to_async(mark)(key)
    return await Job.objects.filter(state="running").acount()


@task(max_attempts=1)
async def fail_async(key):
    await sync_to_async(mark)(key)
    raise ValueError(key)


@task
def enqueue_a_chain(length):
    if length:
        enqueue_a_chain.enqueue(length - 1)


@task
def end_by(how):
    match how:
        case "snooze":
            raise Snooze(timedelta(hours=1))
        case "retry":
            raise Retry(timedelta(hours=1))
        case "hold":
            raise Hold("a person decides")
        case "discard":
            raise Discard("not wanted")
        case "exit":
            raise SystemExit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "skip":
            pytest.skip("not here")
        case "unstorable":
            return object()
        case "again":
            raise Snooze(0)
    raise LookupError(how)


@task(max_runtime=timedelta(seconds=0.1), max_attempts=1)
def run_too_long():
    stay(60)


@task
def use_a_limiter(tokens):
    with limiter("deepseek", tokens=tokens) as use:
        use.tokens = tokens + 1
    return use.waited_seconds


@task
def use_the_cache(key):
    caches["answers"].set(key, "cached")
    with transaction.atomic():
        caches["answers"].set(f"{key} inside", "cached")
    return caches["answers"].get(key)


@task(takes_context=True, max_attempts=2)
def save_and_fail_once(context, key):
    """Pays, saves and reports; fails in its first run, inside a transaction that had saved more."""
    paid = context.step("pay", _paid, key)
    context.save_checkpoint({"run": context.attempt})
    context.progress(1, 2, "half")
    context.log(f"run {context.attempt}")
    with transaction.atomic():
        context.step("later", _paid, f"{key}:later")
        if context.attempt == 1:
            raise ValueError("in the first run")
    return [paid, context.checkpoint]


def _paid(key):
    mark(key)
    return key


@task(takes_context=True)
def pay_from_a_budget(context):
    return context.step("pay", _paid_once, cost=0.01, budget=budget("project", usd=5), reserve=0.02)


def _paid_once():
    return "paid"


@task(takes_context=True)
def say_what_the_context_knows(context):
    return [
        context.should_stop,
        context.time_left,
        context.checkpoint,
        context.attempt,
        context.job_id,
        context.budget,
    ]


@task
def speak_german():
    before = translation.get_language()
    translation.activate("de")
    return before


@task
async def speak_german_async():
    return speak_german.func()


@task
def open_another_connection(alias):
    connections[alias].ensure_connection()
    return connections[alias].connection.info.backend_pid


@task
def drain_others():
    """How many have run."""
    return len(drain())


@task
def delete_its_row():
    from pgonly_django.models import Job

    Job.objects.all().delete()


@task(takes_context=True)
def cancel_itself(context):
    context.task_result.cancel()
    raise Snooze(0)


@task(takes_context=True, max_attempts=1)
def spoil_its_errors(context):
    """No entry can be added to them any more."""
    from pgonly_django.models import Job

    Job.objects.filter(pk=context.job_id).update(errors="no list")
    raise ValueError


@task
def take_a_pair(pair=(1, 2)):
    return pair


LOCKS = []  # the connection that locks the row of a job


@task(takes_context=True)
def have_its_row_locked(context, pid):
    """In a transaction that goes on behind its end."""
    (other,) = LOCKS
    assert other.info.backend_pid == pid
    other.execute("BEGIN")
    other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [context.job_id])
