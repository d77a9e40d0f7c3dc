"""Many processes at one limiter, and some that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django import limiter
from pgonly_django.models import Limiter, LimiterSlot, LimiterWaiter
from pgonly_django.tables import qualified
from tests.children import OF_WORKERS, ROOT, environment
from tests.limits.conftest import start_crowd
from tests.limits.rows import held, make_holders_die, money, state, waiting
from tests.sql import sql
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]

# What the limiter says of each use: when it got in, by the database's clock.
NOTE_USES = qualified("""
CREATE TABLE tests_taken (at timestamptz);
CREATE FUNCTION tests_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO tests_taken VALUES (NEW.taken_at);
    RETURN NEW;
END $$;
CREATE TRIGGER tests_note BEFORE UPDATE ON pgonly_limiter_slot FOR EACH ROW
WHEN (NEW.holder IS NOT NULL AND OLD.holder IS DISTINCT FROM NEW.holder) EXECUTE FUNCTION tests_note()
""")
STOPPED_AT = qualified("SELECT clock_timestamp(), blocked_until FROM pgonly_limiter WHERE name = 'deepseek'")
FORGET_USES = "DROP TABLE tests_taken; DROP FUNCTION tests_note CASCADE"


@pytest.fixture
def taken(transactional_db):
    """When uses got in, in order."""
    sql(NOTE_USES)
    yield lambda: [at for (at,) in sql("SELECT at FROM tests_taken ORDER BY at")]
    sql(FORGET_USES)


@contextlib.contextmanager
def running(job, count, limiters, **arguments):
    """The processes, and what each says first. All are killed in the end."""
    crowd = start_crowd(job, count, limiters, **arguments)
    said = [json.loads(crowd.stdout.readline()) for _ in range(count)]
    try:
        yield crowd, said
    finally:
        for pid in said:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        crowd.wait(30)
        crowd.stdout.close()


def test_of_a_hundred_users_in_20_processes_never_more_than_5_are_inside(crowd, inside):
    found = crowd("use", 20, {"deepseek": {"concurrent": 5}}, users=5, seconds=4, hold=0.1)
    most, uses = inside()
    assert most == 5
    assert uses == sum(each["uses"] for each in found)
    assert (held(), waiting()) == (0, 0)


def test_killed_waiters_hold_up_nobody(limits, hold):
    limits(deepseek={"concurrent": 1})
    holder = hold("deepseek")
    with running("wait_for_ever", 4, {"deepseek": {"concurrent": 1}}) as (_, pids):
        wait_for(lambda: waiting() == 4)
        last = hold("deepseek", wait=False)
        wait_for(lambda: waiting() == 5)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        holder.leave()
        assert last.is_in.wait(60)
        assert LimiterWaiter.objects.filter(expires_at__gt=timezone.now()).count() <= 4


def test_all_slots_of_killed_holders_come_back(limits, hold):
    limits(deepseek={"concurrent": 3})
    with running("wait_for_ever", 3, {"deepseek": {"concurrent": 3}}) as (_, pids):
        wait_for(lambda: held() == 3)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        # Nobody renews them: their leases end by themselves, of which the test does not wait for the last seconds.
        lease = timedelta(seconds=30)
        assert LimiterSlot.objects.filter(expires_at__gt=timezone.now() + lease).count() == 0
        make_holders_die()
        for _ in range(3):
            hold("deepseek")
        assert held() == 3


EXIT_INSIDE = """
import sys, threading
import django
django.setup()
from pgonly_django import budget, limiter
def call():
    with limiter("deepseek"), budget("p", 1).reserve(0.4):
        inside.set()
        threading.Event().wait(60)
inside = threading.Event()
threading.Thread(target=call, daemon=True).start()
sys.exit(not inside.wait(30))
"""


def test_a_process_that_exits_gives_back_the_slots_of_its_threads_but_no_money(transactional_db):
    Limiter.objects.create(name="deepseek", concurrent=1)
    command = [sys.executable, "-c", EXIT_INSIDE]
    subprocess.run(command, cwd=ROOT, env=environment(OF_WORKERS), check=True, timeout=60)
    assert LimiterSlot.objects.count() == 1
    assert held() == 0
    assert state() == money(0, 0.4)


def test_a_cool_down_stops_every_process_at_once(inside, taken, limits):
    """Of all uses in all processes none got in between the commit of the cool-down and its end."""
    limits(deepseek={"concurrent": 5})
    process = start_crowd("use", 6, {"deepseek": {"concurrent": 5}}, users=5, seconds=12, hold=0.05)
    wait_for(lambda: inside()[1] > 20)
    limiter("deepseek").cool_down(3)
    ((stopped_at, until),) = sql(STOPPED_AT)
    wait_for(lambda: (times := taken()) and times[-1] > until)
    process.communicate(timeout=100)
    times = taken()
    assert [at for at in times if stopped_at < at < until] == []
    assert len([at for at in times if at <= stopped_at]) > 20
    assert len([at for at in times if at >= until]) > 1


def test_processes_together_take_no_more_tokens_than_the_rate_allows(crowd):
    """In every span of time: the rate times its length, half a second's worth, and one use."""
    found = crowd(
        "take_tokens", 4, {"deepseek": {"tokens_per_minute": 60_000}}, users=5, seconds=6, tokens=50
    )
    times = sorted(at for each in found for at in each)
    assert len(times) > 20
    for first in range(0, len(times), 7):
        for last in range(first, len(times), 11):
            taken_tokens = 50 * (last - first + 1)
            # Processes note their times a little after PostgreSQL let them in.
            assert taken_tokens <= 1000 * (times[last] - times[first] + 0.5) + 50 + 1000
