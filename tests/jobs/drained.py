"""Tasks that show in what kind of transaction they run, and that end in every way. They mark: tests/conftest.py."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, connections, transaction

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
def tell_after_commit(key):
    transaction.on_commit(lambda: mark(f"{key}:at once"))
    with transaction.atomic():
        transaction.on_commit(lambda: mark(f"{key}:after"))
        transaction.on_commit(lambda: add.enqueue(1))
        mark(f"{key}:inside")
    mark(f"{key}:end")


@task(max_attempts=1)
def break_the_transaction():
    """In a way that no savepoint is around: not by Django's cursor."""
    mark("lost")
    connection.connection.pgconn.exec_(b"SELECT 1 / 0")


@task(takes_context=True)
def save_and_fail_once(context):
    context.step("paid", mark, "paid")
    if context.checkpoint is None:
        context.save_checkpoint({"page": 3})
        raise ValueError("in the first run")
    return context.checkpoint


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
