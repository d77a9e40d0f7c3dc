"""Tasks that open transactions, or use, change or lose their connection."""

from __future__ import annotations

import asyncio
import time

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction

from pgonly_django import task
from tests import activity
from tests.jobs import mark, stay
from tests.jobs.paying import pay_once


@task(atomic=True, max_attempts=1)
def mark_atomically(key, fail=False):
    mark(key)
    if fail:
        raise ValueError("after the mark")
    return "done"


@task
def leave_transaction_open(key):
    transaction.set_autocommit(False)
    mark(key)


@task
async def leave_transaction_open_async(key):
    await sync_to_async(leave_transaction_open.func)(key)


@task
def read_in_an_open_transaction():
    transaction.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM tests_mark")


@task(takes_context=True, max_attempts=1)
def remember_without_autocommit(context, how):
    """Each would be lost with a rollback of the job's own, the paid call too."""
    transaction.set_autocommit(False)
    try:
        if how == "step":
            context.step("paid", mark, "paid")
        elif how == "checkpoint":
            context.save_checkpoint(1)
        else:
            list(context.iterate(range(3)))
    finally:
        transaction.commit()


@task
def break_connection():
    connection.ensure_connection()
    connection.connection.close()


@task(takes_context=True)
def let_go_of_the_database(context):
    """Whether the slot stays without a connection while the job only talks to its context."""
    connection.close()
    context.progress(1, 2)
    context.log("without a connection")
    for _ in range(3):
        assert not context.should_stop
    return connection.connection is None


@task(atomic=True, takes_context=True)
def step_atomically(context, key):
    context.step("pay", pay_once, key)


@task(atomic=True, takes_context=True)
def step_atomically_async(context, key):
    async def pay():
        pay_once(key)

    async_to_sync(context.astep)("pay", pay)


@task
def query_below_asyncio_run(key, cuts=False):
    """The ORM inside asyncio.run(): in a thread of asgiref's. `cuts`: and then its connection is lost."""

    async def main():
        from pgonly_django.models import Job

        count = await Job.objects.acount()
        await sync_to_async(mark)(key)
        if cuts:
            await sync_to_async(_lose_the_connection)()
        return count

    return asyncio.run(main())


def _lose_the_connection():
    from pgonly_django.database.connect import connect

    with connect("default", application_name="shooter") as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])


@task
def cut_the_worker(key, worker_id):
    """Leaves its mark and ends the connection over which its worker would write its end."""
    mark(key)
    assert activity.end(f"application_name LIKE 'pgonly worker {worker_id}%'") == 1


@task(takes_context=True)
def pay_inside_a_transaction(context, key):
    """In its first run it stays in its transaction for a minute after it has paid."""
    mark(f"{key}:started")
    with transaction.atomic():
        context.step("pay", pay_once, key)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM tests_mark WHERE key = %s", [f"{key}:started"])
            (starts,) = cursor.fetchone()
        stay(60 if starts == 1 else 0)


@task(atomic=True, takes_context=True, max_attempts=1)
def mark_atomically_over_two_beats(context, key):
    """Its transaction is open while its worker renews its leases."""
    from pgonly_django.database.connect import connect

    mark(key)
    pay_once(key)
    context.save_checkpoint("paid")
    context.progress(1, 2)
    with connect("default", application_name="pgonly tests") as other:
        for _ in range(2):
            _wait_for_a_beat(other)
    context.log("after two beats")
    pay_once(f"{key} again")
    context.save_checkpoint("paid again")


def _wait_for_a_beat(other):
    beats = "SELECT max(heartbeat_at) FROM pgonly_worker"
    before, deadline = other.execute(beats).fetchone(), time.monotonic() + 20
    while other.execute(beats).fetchone() == before:
        assert time.monotonic() < deadline, "no heartbeat"
        time.sleep(0.05)


@task(max_attempts=1)
def stand_still(seconds):
    """With a transaction open."""
    with transaction.atomic():
        mark("not to be seen before the end")
        stay(seconds)
