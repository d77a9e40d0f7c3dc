"""The tasks that the tests enqueue."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from datetime import timedelta

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from pgonly_django import Backoff, Discard, Retry, Snooze, task

AT_ONCE = Backoff(base=timedelta(0), cap=timedelta(0))


@task
def add(a, b=1):
    return a + b


@task(takes_context=True, max_attempts=2)
def count_to(context, n):
    total = 0
    for i in context.iterate(range(n)):
        total += context.step(f"square {i}", pow, i, 2)
    return total


def mark(key):
    """A side effect that counts: one row a call, in the job's own connection."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO tests_mark (key) VALUES (%s)", [key])


@task
def mark_once(key):
    mark(key)


@task(takes_context=True)
def slow_count(context, n, pause, key):
    """`n` items of `pause` seconds, each marked; resumable."""
    for item in context.iterate(range(n)):
        context.step(f"mark {item}", mark, f"{key}:{item}")
        time.sleep(pause)
    return n


@task(takes_context=True)
def hold_on(context, key, seconds=60.0):
    """Runs until it is told to stop, then leaves with a checkpoint."""
    mark(f"{key}:started")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not context.should_stop:
        time.sleep(0.02)
    if context.checkpoint is None:
        context.save_checkpoint({"seen": 1})
    for _ in context.iterate([1]):
        pass
    return context.checkpoint


@task
def sleep_in_slices(key, seconds=60.0):
    """Knows nothing of contexts; an exception reaches it between two slices."""
    mark(f"{key}:started")
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        mark(f"{key}:cleaned up")


@task
async def sleep_async(key, seconds=60.0):
    from asgiref.sync import sync_to_async

    await sync_to_async(mark)(f"{key}:started")
    await asyncio.sleep(seconds)


@task
def stubborn(key, seconds=60.0):
    """Swallows whatever comes."""
    mark(f"{key}:started")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(BaseException):
            time.sleep(0.02)


@task
def kill_the_worker():
    os.kill(os.getpid(), signal.SIGKILL)


@task(takes_context=True)
def innocent(context, key, seconds):
    """Long, saves a checkpoint halfway."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.05)
        context.save_checkpoint({"at": time.time()})
        if context.should_stop:
            break
    mark(key)


@task(max_attempts=3, backoff=AT_ONCE)
def fail(message="no"):
    raise ValueError(message)


@task(takes_context=True, max_attempts=3, backoff=AT_ONCE)
def fail_until(context, attempt):
    if context.attempt < attempt:
        raise ValueError(f"attempt {context.attempt}")
    return context.attempt


@task
def snooze_once(key):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM tests_mark WHERE key = %s", [key])
        (seen,) = cursor.fetchone()
    mark(key)
    if not seen:
        raise Snooze(0.05)
    return "awake"


@task(max_attempts=2)
def ask_for_retry():
    raise Retry(0, "please")


@task(max_attempts=5)
def give_up():
    raise Discard("pointless")


@task
def return_nul():
    return "a\x00b"


@task
def return_nan():
    return float("nan")


@task(max_attempts=1)
def raise_nul():
    raise ValueError("bad \x00 text \ud800")


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


@task(max_runtime=timedelta(seconds=0.3), max_attempts=1)
def run_too_long():
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.02)


@task(takes_context=True)
def report_progress(context, pause=0.0):
    context.progress(3, 10, "three")
    context.log("a line")
    time.sleep(pause)
    return context.time_left


@task
async def add_async(a, b):
    await asyncio.sleep(0)
    return a + b


@task(takes_context=True)
async def count_async(context, n):
    async def square(i):
        return i * i

    total = 0
    async for i in context.aiterate(range(n)):
        total += await context.astep(f"square {i}", square, i)
    await context.aprogress(n, n, "done")
    await context.asave_checkpoint({"total": total})
    return total


@task
def pause(seconds):
    time.sleep(seconds)


@task(takes_context=True)
def let_go_of_the_database(context):
    """Whether the slot stays without a connection while the job only talks to its context."""
    connection.close()
    context.progress(1, 2)
    context.log("without a connection")
    for _ in range(3):
        assert not context.should_stop
    return connection.connection is None


@task
def discard_with_an_exception():
    raise Discard(ValueError("the cause"))


@task
async def exit_async():
    sys.exit(1)


@task(atomic=True, takes_context=True)
def report_atomically(context):
    context.progress(5, 5)
    context.log("hello")


def pay(key):
    """Makes its mark on a connection of its own and has the job's own connection shot meanwhile."""
    from pgonly_django.database.connect import connect

    connection.ensure_connection()
    with connect("default", application_name="shooter") as other:
        other.execute("INSERT INTO tests_mark (key) VALUES (%s)", [key])
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
    return 7


@task(takes_context=True)
def pay_and_lose_the_connection(context, key):
    return context.step("pay", pay, key)


@task
def echo(value):
    return value


def nest(levels):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


@task(max_attempts=1)
def return_nested(levels):
    return nest(levels)


@task(takes_context=True, max_attempts=1)
def step_nested(context, levels):
    context.step("nest", nest, levels)


@task(takes_context=True, max_attempts=1)
def save_nested(context, levels):
    context.save_checkpoint(nest(levels))


@task(takes_context=True, max_attempts=1)
def report_nested(context, levels):
    context.progress(nest(levels))


@task(takes_context=True, max_attempts=1)
def report_an_object(context):
    context.progress(object())


def pay_once(key, answer=None):
    mark(f"paid {key}")
    return answer


@task(takes_context=True, backoff=AT_ONCE)
def pay_under(context, name):
    return context.step(name, pay_once, "k")


@task(takes_context=True, backoff=AT_ONCE)
def pay_for_what_is_no_json(context):
    context.step("ask", pay_once, "k", object())


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def loop_in_a_transaction(context, key):
    """Fails at the third item of its first attempt, and with it what the transaction held."""
    with transaction.atomic():
        for i in context.iterate(range(5)):
            mark(f"{key}:{i}")
            if i == 2 and context.attempt == 1:
                raise ValueError("once")


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def loop_behind_a_transaction(context, key):
    with transaction.atomic():
        for i in context.iterate(range(3), name="first"):
            mark(f"{key}:{i}")
    if context.attempt == 1:
        raise ValueError("once")


@task(takes_context=True, max_attempts=1)
def loop_twice(context, key):
    for i in context.iterate("ab"):
        mark(f"{key}:{i}")
    for i in context.iterate("cdef"):
        mark(f"{key}:{i}")


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def sum_up(context):
    """Changes what it has saved, and fails before it saves again."""
    state = context.checkpoint or {"sum": 0}
    if context.attempt == 1:
        context.save_checkpoint(state)
    for i in context.iterate([1, 1, 1]):
        state["sum"] += i
        if context.attempt == 1 and state["sum"] == 2:
            raise ValueError("once")
    return state["sum"]


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def compare_answers(context):
    """Whether a step gives the same, to the order of its keys, in the run that makes it and in a later one."""
    text = repr(context.step("ask", dict, zebra=1, a=1e22, text="é"))
    before = context.step("first", str, text)
    if context.attempt == 1:
        raise ValueError("once")
    return text == before


@task(takes_context=True, max_attempts=1)
async def call_in_groups(context, key, gathers=False):
    async def call(i):
        await asyncio.sleep(0.02)
        return i

    for n in range(1000):
        if gathers:
            calls = [context.astep(f"{n}:{i}", call, i) for i in range(3)]
            await asyncio.gather(*calls, return_exceptions=True)
        else:
            async with asyncio.TaskGroup() as group:
                for i in range(3):
                    group.create_task(context.astep(f"{n}:{i}", call, i))
        if n == 0:
            from asgiref.sync import sync_to_async

            await sync_to_async(mark)(f"{key}:started")
    return "as if nothing had been"


@task(backoff=AT_ONCE)
async def give_up_in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(_give_up())


async def _give_up():
    raise Discard("pointless")


def pay_amid_a_failover(key):
    """The primary has become a standby by the time the answer is there."""
    answer = pay_once(key, 7)
    connection.connection.execute("SET default_transaction_read_only = on")
    return answer


@task(takes_context=True, max_attempts=1)
def pay_through_a_failover(context):
    return context.step("ask", pay_amid_a_failover, "k")


@task
def snooze_for_ages():
    raise Snooze(timedelta(days=3_000_000))


@task(takes_context=True)
def log_slowly(context, lines):
    mark("log:started")
    for i in range(lines):
        context.log(str(i))
        time.sleep(0.1)


@task(max_runtime=timedelta(seconds=0.2), backoff=Backoff(base=timedelta(days=9), cap=timedelta(days=9)))
def stubborn_with_a_backoff(key):
    mark(f"{key}:started")
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        with contextlib.suppress(BaseException):
            time.sleep(0.02)


@task
def print_and_open():
    """The number that the system gives to what is opened next."""
    print("to whom it may concern")
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


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


def bound_elsewhere(x):
    return x


under_another_name = task(bound_elsewhere)


@task
def cut_the_worker(key, worker_id):
    """Leaves its mark and ends the connection over which its worker would write its end."""
    mark(key)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name LIKE %s",
            [f"pgonly worker {worker_id}%"],
        )
        assert cursor.fetchone() == (1,)


@task(takes_context=True)
def pay_inside_a_transaction(context, key):
    """In its first run it stays in its transaction for a minute after it has paid."""
    mark(f"{key}:started")
    with transaction.atomic():
        context.step("pay", pay_once, key)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM tests_mark WHERE key = %s", [f"{key}:started"])
            (starts,) = cursor.fetchone()
        deadline = time.monotonic() + (60 if starts == 1 else 0)
        while time.monotonic() < deadline:
            time.sleep(0.02)


@task(atomic=True, takes_context=True, max_attempts=1)
def mark_atomically_over_two_beats(context, key):
    """Its transaction is open while its worker renews its leases."""
    from pgonly_django.database.connect import connect

    mark(key)
    context.step("pay", pay_once, key)
    context.progress(1, 2)
    with connect("default", application_name="pgonly tests") as other:
        for _ in range(2):
            _wait_for_a_beat(other)
    context.log("after two beats")
    context.step("pay again", pay_once, f"{key} again")


def _wait_for_a_beat(other):
    beats = "SELECT max(heartbeat_at) FROM pgonly_worker"
    before, deadline = other.execute(beats).fetchone(), time.monotonic() + 20
    while other.execute(beats).fetchone() == before:
        assert time.monotonic() < deadline, "no heartbeat"
        time.sleep(0.05)
