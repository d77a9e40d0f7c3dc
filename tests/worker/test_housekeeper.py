from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from queue import SimpleQueue

import pytest
from django.db import connection, connections
from django.utils import timezone
from model_bakery import baker

from pgonly_django.duties import NEVER, Duty, Workplace
from pgonly_django.models import CacheEntry, Checkpoint, Job, JobStats, Session, State, Step, Worker
from pgonly_django.sessions import SessionStore
from pgonly_django.worker import housekeeper
from pgonly_django.worker.housekeeper import Housekeeper
from pgonly_django.worker.inbox import DutiesChecked
from tests.activity import pids
from tests.elsewhere import needs_search_path
from tests.waiting import wait_for
from tests.worker.rounds import a_round

PAST, FUTURE = timedelta(days=-2), timedelta(days=2)
PAST_DATE = "2020-01-01T00:00Z"


def finished(expires_in, **values):
    delete_after = None if expires_in is None else timezone.now() + expires_in
    return baker.make(Job, state=State.SUCCEEDED, delete_after=delete_after, **values)


def test_a_round_prunes_what_is_over(cache):
    """Jobs with all that is theirs, statistics, workers, entries of caches, sessions. Costs: duties/test_budgets.py."""
    now = timezone.now()
    old, young, kept = finished(PAST), finished(FUTURE), finished(None)
    for job in (old, young):
        baker.make(Step, job=job, name="s")
        baker.make(Checkpoint, job=job)
    for hours in (4, 2):
        starts_at = now - timedelta(hours=hours)
        JobStats.objects.create(granularity="minute", starts_at=starts_at, queue=str(hours), task="t")
    _, living = [baker.make(Worker, heartbeat_at=now + seen, queues=[]) for seen in (PAST, timedelta(0))]
    for key in ("old", "young"):
        cache.set(key, 1, timeout=3600)
        SessionStore().save()
    CacheEntry.objects.filter(key__contains="old").update(expires_at=now + PAST, prune_minute=0)
    ended, session = Session.objects.order_by("created_at")
    Session.objects.filter(pk=ended.pk).update(expires_at=now + PAST)
    a_round()
    assert set(Job.objects.values_list("pk", flat=True)) == {young.pk, kept.pk}
    assert [row.job_id for row in (Step.objects.get(), Checkpoint.objects.get())] == [young.pk] * 2
    assert JobStats.objects.get().queue == "2"
    assert Worker.objects.get() == living
    assert (cache.get("young"), CacheEntry.objects.count()) == (1, 1)
    assert Session.objects.get() == session


@pytest.mark.slow
def test_a_round_goes_on_until_nothing_is_left(transactional_db):
    Job.objects.bulk_create(
        Job(task="t", state=State.FAILED, delete_after=timezone.now() + PAST) for _ in range(2500)
    )
    a_round()
    assert not Job.objects.exists()


@pytest.fixture
def elsewhere(settings, transactional_db):
    """An alias whose tables are in another schema, as another database has them, and a cache there."""
    tables = ("pgonly_cache", "pgonly_cache_durable", "pgonly_cache_lock", "pgonly_cache_usage")
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA elsewhere")
        for table in tables:
            cursor.execute(f"CREATE TABLE elsewhere.{table} (LIKE {table} INCLUDING ALL)")
    connections["elsewhere"] = connection.copy("elsewhere")
    connections["elsewhere"].settings_dict["OPTIONS"] = {"options": "-c search_path=elsewhere"}
    connections[
        "elsewhere"
    ].ensure_connection()  # while it is no alias of DATABASES: a test may not open those
    connections.settings["elsewhere"] = connections["elsewhere"].settings_dict
    ours = {"BACKEND": "pgonly_django.cache.PostgresCache", "OPTIONS": {"DATABASE": "elsewhere"}}
    unusable = {**ours, "OPTIONS": {"POOL_SIZE": 0}}
    lost = {**ours, "OPTIONS": {"DATABASE": "missing"}}
    settings.CACHES = {"default": ours, "unusable": unusable, "lost": lost}
    yield
    connections["elsewhere"].close()
    del connections["elsewhere"], connections.settings["elsewhere"]
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA elsewhere CASCADE")


def expired_entry(alias):
    return CacheEntry.objects.using(alias).create(key="a:old", codec=0, expires_at=PAST_DATE, prune_minute=0)


@needs_search_path
@pytest.mark.usefixtures("elsewhere")
def test_a_round_prunes_every_database_that_one_of_our_caches_uses_and_its_own():
    for alias in ("default", "elsewhere"):
        expired_entry(alias)
    a_round()
    with connection.cursor() as cursor:
        cursor.execute("SELECT key FROM pgonly_cache UNION ALL SELECT key FROM elsewhere.pgonly_cache")
        assert cursor.fetchall() == []


@needs_search_path
@pytest.mark.usefixtures("elsewhere")
def test_a_database_that_cannot_be_pruned_keeps_nothing_else_from_it(caplog):
    finished(PAST)
    expired_entry("default")
    expired_entry("elsewhere")
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE elsewhere.pgonly_cache")
    a_round()
    assert not (Job.objects.exists() or CacheEntry.objects.exists())
    assert "Pruning the cache in 'elsewhere' failed" in caplog.text


def test_while_the_jobs_database_is_away_sessions_and_caches_of_another_are_pruned(
    transactional_db, monkeypatch, caplog
):
    away = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": "1"}
    monkeypatch.setitem(connections.settings, "away", away)
    expired_session()
    expired_entry("default")
    a_round("away")
    assert not (Session.objects.exists() or CacheEntry.objects.exists())
    assert "Pruning jobs failed" in caplog.text


class CacheNotHere:
    def allow_migrate(self, db, app_label, model_name=None, **hints):
        return model_name != "cacheentry"


def test_a_database_without_the_caches_tables_is_not_pruned_of_them(transactional_db, settings, caplog):
    settings.DATABASE_ROUTERS = [f"{__name__}.CacheNotHere"]
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    expired_entry("default")
    a_round()
    assert CacheEntry.objects.count() == 1
    assert not caplog.records


@pytest.fixture
def referrer(transactional_db):
    """A table of the project's whose rows refer to jobs and to workers."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE referrer (job_id uuid REFERENCES pgonly_job DEFERRABLE INITIALLY DEFERRED,"
            " worker_id uuid REFERENCES pgonly_worker DEFERRABLE INITIALLY DEFERRED)"
        )

    def refer(job=None, worker=None):
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO referrer VALUES (%s, %s)", [job and job.pk, worker and worker.pk])

    yield refer
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE referrer")


def test_what_rows_of_the_projects_refer_to_is_named_and_keeps_nothing_else(referrer, caplog):
    referenced, free = finished(PAST), finished(PAST)
    worker = baker.make(Worker, heartbeat_at=timezone.now() + PAST, queues=[])
    referrer(job=referenced, worker=worker)
    a_round()
    assert list(Job.objects.all()) == [referenced]
    assert free.pk != referenced.pk
    assert "1 finished job(s) cannot be deleted and are kept for a day more" in caplog.text
    assert f'{referenced.pk}: update or delete on table "pgonly_job" violates' in caplog.text
    assert "Forgetting workers failed" in caplog.text


def expired_session():
    return baker.make(Session, key_hash=b"k" * 32, expires_at=timezone.now() + PAST, expires_hour=0)


@pytest.fixture
def in_a_hurry(transactional_db, monkeypatch):
    """Statements are cancelled after 0.1 s, and the deletion of a row takes 0.2."""
    tables = ("pgonly_job", "pgonly_session", "pgonly_cache")
    before = connections.settings["default"]["OPTIONS"]
    hurried = {**before, "options": "-c statement_timeout=100"}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", hurried)
    with connection.cursor() as cursor:
        cursor.execute(SLOWLY)
        for table in tables:
            cursor.execute(
                f"CREATE TRIGGER slowly BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION slowly()"
            )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION slowly CASCADE")


SLOWLY = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(0.2); RETURN OLD; END $$
"""


@pytest.mark.usefixtures("in_a_hurry")
def test_a_timeout_that_is_meant_for_requests_cancels_no_batch(caplog):
    finished(PAST)
    expired_session()
    expired_entry("default")
    with ThreadPoolExecutor(1) as thread:  # with connections of its own, as the worker's
        thread.submit(a_round).result(30)
    assert not (Job.objects.exists() or Session.objects.exists() or CacheEntry.objects.exists())
    assert {record.levelname for record in caplog.records} <= {"INFO"}


class Exits:
    def allow_migrate(self, db, app_label, model_name=None, **hints):
        raise SystemExit

    def db_for_write(self, model, **hints):
        if model is Session:
            raise ZeroDivisionError


def test_a_router_that_fails_or_exits_keeps_the_other_duties_from_nothing(transactional_db, settings, caplog):
    settings.DATABASE_ROUTERS = [Exits()]
    finished(PAST)
    a_round()
    assert not Job.objects.exists()
    for what in ("sessions", "caches"):
        assert f"Pruning {what} failed" in caplog.text


class Counted(Duty):
    """A duty that finds so many rows each time."""

    name, rows = "Counting", 0

    def __init__(self, workplace):
        super().__init__(workplace)
        self.times = 0

    def run(self):
        assert self.workplace.connect().execute("SELECT 1").fetchone() == (1,)
        self.times += 1
        return self.again_in(self.rows)


class Busy(Counted):
    rows = 1


@pytest.fixture
def housekeeping(transactional_db, monkeypatch):
    """Starts a housekeeper with duties of these kinds, which are due soon, and returns it with them."""
    monkeypatch.setattr("pgonly_django.duties.BUSY_SECONDS", 0.02)
    monkeypatch.setattr(housekeeper, "BUSY_SECONDS", 0.02)
    started = []

    def start(*kinds, tell=lambda _: None):
        started.append(Housekeeper(Workplace("default", tell=tell), kinds))
        started[-1].start()
        return started[-1], *started[-1].duties

    yield start
    for each in started:
        each.end()
        each.join(10)


def test_a_duty_that_has_found_something_comes_again_sooner_than_the_others(housekeeping):
    _, busy, idle = housekeeping(Busy, Counted)
    wait_for(lambda: busy.times >= 3)
    assert idle.times == 1


class Hangs(Counted):
    """A duty that hangs until `released`, which a test sets."""

    name, released = "Hanging", threading.Event()

    def run(self):
        self.times += 1
        self.released.wait(60)
        return self.interval


@pytest.fixture
def released(monkeypatch):
    event = threading.Event()
    monkeypatch.setattr(Hangs, "released", event)
    yield event
    event.set()


def test_a_duty_that_hangs_holds_up_no_other_and_is_named(housekeeping, released, caplog):
    caplog.set_level("INFO")
    thread, hanging, busy = housekeeping(Hangs, Busy)
    wait_for(lambda: hanging.times)
    before = busy.times
    wait_for(lambda: busy.times >= before + 3)
    wait_for(lambda: "Hanging takes longer than 1 s. The other duties continue." in caplog.text)
    assert hanging.times == 1
    released.set()
    wait_for(lambda: hanging not in thread._running)


class Raises(Counted):
    """A duty that raises each time, and may be tried again at once."""

    name, interval = "Raising", 0.05

    def run(self):
        self.times += 1
        raise SystemExit("not today")


def test_a_duty_that_raises_each_time_is_tried_again_and_holds_up_no_other(housekeeping, caplog):
    _, raising, busy = housekeeping(Raises, Busy)
    wait_for(lambda: raising.times >= 3 and busy.times >= 3)
    assert "Raising failed, trying again later: not today" in caplog.text


class Due(Hangs):
    """A duty that is due when it starts."""

    name, is_first = "First", True


class Late(Counted):
    """A duty that is due a moment later, as a schedule is while another duty takes its time."""

    name, enqueues, is_first = "Late", True, True

    def run(self):
        super().run()
        return 0.3 if self.times < 3 else NEVER


def test_one_that_takes_long_delays_what_is_due_meanwhile_by_a_second_at_most(housekeeping, released):
    _, due, late = housekeeping(Due, Late)
    began = time.monotonic()
    wait_for(lambda: late.times == 3, seconds=30)
    assert time.monotonic() - began < 10
    assert due.times == 1


def test_what_the_main_loop_asks_for_is_owed_until_it_is_done(housekeeping):
    class Asked(Counted):
        hears, interval = ("news",), NEVER

        def hear(self, name):
            self.heard = name

    told = SimpleQueue()
    thread, asked = housekeeping(Asked, tell=told.put)
    thread.hear("other news")
    assert not thread.owes
    thread.hear("news", "a")
    assert thread.owes
    thread.note_done(told.get(timeout=10))
    assert (thread.owes, asked.heard, asked.times) == (False, "a", 1)


def test_a_sleep_asks_first_and_leaves_no_connection(housekeeping, server):
    class AskedFirst(Counted):
        asks_before_sleep, interval = True, 300.0

    told = SimpleQueue()
    thread, asked, busy = housekeeping(AskedFirst, Busy, tell=told.put)
    wait_for(lambda: busy.times)
    thread.check()
    assert isinstance(told.get(timeout=10), DutiesChecked)
    assert asked.times
    thread.sleep()
    wait_for(lambda: not pids("application_name = 'pgonly housekeeper'"))
    before = busy.times
    thread.check()
    assert isinstance(told.get(timeout=10), DutiesChecked)
    assert busy.times == before
    thread.wake()
    wait_for(lambda: busy.times > before, seconds=20)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_the_thread_ends_whenever_it_is_asked_to(transactional_db, seconds):
    for _ in range(10):
        thread = Housekeeper(Workplace("default"), [Busy])
        thread.start()
        time.sleep(seconds)
        thread.end()
        thread.join(10)
        assert not thread.is_alive()
