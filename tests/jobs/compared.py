"""Small jobs whose ends, rows and settings are the same with a worker and in drain(): see CASES. They mark what they
write, and a look at the connection is a result."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from django.core.cache import caches
from django.db import Error, connection, transaction

from pgonly_django import Backoff, Discard, Hold, Retry, Snooze, task
from pgonly_django.current_job import current_job
from pgonly_django.models import Job
from tests.jobs import add, mark
from tests.sql import sql, value

CASES = []
LATER = Backoff(base=timedelta(days=2), cap=timedelta(days=2))


def case(**options):
    def register(function):
        made = task(**{"backoff": LATER, "max_attempts": 2, **options})(function)
        CASES.append(made)
        return made

    return register


OWN_LOCKS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {} AND pid = pg_backend_pid()"
)


# Transactions.


@case()
def writes():
    mark("writes")


@case()
def writes_and_fails():
    mark("writes_and_fails")
    raise ValueError("no")


@case(atomic=True)
def writes_atomically():
    mark("writes_atomically")
    return connection.in_atomic_block


@case(atomic=True)
def writes_atomically_and_fails():
    mark("lost")
    raise ValueError("no")


@case()
def swallows_an_error_in_a_transaction():
    with transaction.atomic():
        mark("lost")
        with suppress(Error):
            sql("SELECT 1 / 0")


@case()
def fails_in_a_savepoint():
    with transaction.atomic():
        mark("outer")
        with suppress(ValueError), transaction.atomic():
            mark("lost")
            raise ValueError
        place = transaction.savepoint()
        mark("lost")
        transaction.savepoint_rollback(place)
        mark("outer:end")


@case()
def tells_on_commit():
    transaction.on_commit(lambda: mark("at once"))
    with transaction.atomic():
        transaction.on_commit(lambda: mark("after"))
        mark("inside")
    with suppress(ValueError), transaction.atomic():
        transaction.on_commit(lambda: mark("lost"))
        raise ValueError


@case()
def fails_on_commit():
    with transaction.atomic():
        mark("committed")
        transaction.on_commit(lambda: 1 / 0)


@case()
def begins_a_durable_transaction_in_another():
    with transaction.atomic(), transaction.atomic(durable=True):
        mark("lost")


@case()
def locks_outside_of_a_transaction():
    list(Job.objects.select_for_update())


@case()
def locks_in_a_transaction():
    with transaction.atomic():
        return len(Job.objects.select_for_update().filter(pk=current_job.get().job.id))


@case()
def commits_by_hand():
    transaction.set_autocommit(False)
    mark("by hand")
    transaction.commit()
    mark("lost")
    transaction.rollback()
    transaction.set_autocommit(True)


@case()
def leaves_a_transaction_open():
    transaction.set_autocommit(False)
    mark("lost")


@case()
def leaves_an_atomic_block_open():
    transaction.atomic().__enter__()
    mark("lost")


@case()
def closes_its_connection():
    mark("before the close")
    connection.close()
    mark("after the close")


# Settings. What comes behind such a job looks whether they are left.


@case()
def sets_locally():
    with transaction.atomic():
        sql("SET LOCAL statement_timeout = '7s'")
        inside = value("SHOW statement_timeout")
    return [inside, value("SHOW statement_timeout")]


@case()
def sets_locally_and_rolls_back():
    with suppress(ValueError), transaction.atomic():
        sql("SET LOCAL statement_timeout = '7s'")
        raise ValueError
    return value("SHOW statement_timeout")


@case()
def sets_a_setting_of_the_project_locally():
    with transaction.atomic():
        sql("SELECT set_config('app.tenant', %s, %s)", "7", True)
        inside = value("SELECT current_setting('app.tenant', true)")
    return [inside, value("SELECT current_setting('app.tenant', true)")]


@case()
def sets_for_its_session():
    sql("SET statement_timeout = '7s'")
    sql("SELECT set_config('app.session', 'mine', false)")
    return value("SHOW statement_timeout")


@case()
def looks_at_the_settings():
    names = ("statement_timeout", "app.session", "app.tenant", "timezone", "work_mem")
    return [value(f"SELECT coalesce(current_setting('{name}', true), '')") for name in names]


@case()
def takes_a_role():
    with transaction.atomic():
        sql("SET LOCAL ROLE pg_monitor")
        inside = value("SELECT current_user = 'pg_monitor'")
    return [inside, value("SELECT current_user = 'pg_monitor'")]


@case()
def looks_at_locks_of_its_transaction():
    with transaction.atomic():
        sql("SELECT pg_advisory_xact_lock(77)")
    return value(OWN_LOCKS.format(77))


@case()
def leaves_a_table_of_its_session():
    sql("CREATE TEMPORARY TABLE left_behind (id int)")
    sql("SELECT pg_advisory_lock(78)")


@case()
def looks_at_what_a_session_left():
    locks = value(OWN_LOCKS.format(78))
    return [locks, value("SELECT to_regclass('pg_temp.left_behind')::text")]


@case()
def looks_at_the_time_of_its_transactions():
    return value("SELECT now()") != value("SELECT now()")


# The cache, and jobs that are enqueued.


@case()
def caches_in_a_transaction_that_is_rolled_back():
    with suppress(ValueError), transaction.atomic():
        caches["answers"].set("rolled back", 1)
        caches["answers"].incr("rolled back")
        with suppress(KeyError), transaction.atomic():
            caches["answers"].incr("rolled back")
            raise KeyError
        raise ValueError
    return caches["answers"].get("rolled back")


@case()
def caches_in_a_savepoint_that_is_rolled_back():
    with transaction.atomic():
        with suppress(ValueError), transaction.atomic():
            caches["answers"].set("savepoint", 1)
            raise ValueError
        return caches["answers"].incr("savepoint")


@case(atomic=True)
def caches_and_fails():
    caches["answers"].set("failed", 1)
    raise ValueError("no")


@case()
def looks_at_the_cache():
    return caches["answers"].get_many(["rolled back", "savepoint", "failed"])


@case()
def enqueues_and_fails():
    add.enqueue(40, 1)
    with suppress(KeyError), transaction.atomic():
        add.enqueue(41, 1)
        raise KeyError
    raise ValueError("no")


@case()
def enqueues_on_commit():
    with transaction.atomic():
        transaction.on_commit(lambda: add.enqueue(42, 1))


# Ends.


@case()
def returns_a_value():
    return {"a": [1, None, "ü"]}


@case()
def returns_what_is_no_json():
    return object()


@case(max_attempts=1)
def fails_for_good():
    raise LookupError("gone")


@case()
def asks_for_another_attempt():
    raise Retry(timedelta(days=1), "later")


@case()
def snoozes():
    raise Snooze(timedelta(days=1))


@case()
def is_held():
    raise Hold("a person decides", by="me")


@case()
def is_discarded():
    raise Discard("not wanted")


@case(snooze_on=KeyError)
def snoozes_by_its_policy():
    raise KeyError("busy")


@case(max_attempts=1)
def exits():
    raise SystemExit(3)


@case(max_attempts=1, on_failure="tests.jobs.compared.mark_failure")
def tells_of_its_failure():
    raise ValueError("no")


def mark_failure(result, error):
    mark(f"told of {type(error).__name__}")
