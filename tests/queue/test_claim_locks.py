"""A worker that rests is told of each claim: in every order of the steps of both, wherever the claimer is killed."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import combinations
from uuid import uuid4

import pytest

from pgonly_django.database import notify
from pgonly_django.queue import claim_locks, gates
from pgonly_django.queue.claim import Claim
from pgonly_django.queue.claim_locks import ClaimLock
from pgonly_django.queue.workers import idle_beat
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.exchange import Exchanger
from tests.queue.rows import (
    LEASE,
    claim_limited,
    claimer,
    insert_jobs,
    limited_claimer,
    make,
    make_keyed,
    make_running,
)
from tests.waiting import wait_for


class Resting:
    """One that wants to rest, step by step."""

    def __init__(self, connection):
        self.connection = connection
        connection.execute(f"LISTEN {notify.CHANNEL}")
        self.steps = [self.take, self.see_no_claimer, self.see_no_job]
        self.rests = True

    def take(self):
        self.connection.execute(claim_locks.TAKE_RESTING)

    def see_no_claimer(self):
        self.rests = not self.connection.execute(claim_locks.SOMEBODY_CLAIMS).fetchone()[0]

    def see_no_job(self):
        self.rests = self.rests and not idle_beat(self.connection, uuid4(), LEASE).some_running

    def heard(self):
        self.connection.execute("SELECT 1")
        return [each.payload for each in self.connection.notifies(timeout=0)]


class Claiming:
    """One that claims a job, and with `for_session` a second one without a word."""

    def __init__(self, connection, *, for_session):
        self.connection, self.id = connection, uuid4()
        self.lock, self.for_session = ClaimLock(self.id), for_session
        self.inside = ExitStack()
        self.steps = [self.begin, self.take, self.claim, self.tell, self.commit]
        if for_session:
            self.lock.note_jobs()
            self.steps += [self.finish, self.claim]

    def begin(self):
        self.connection.execute("BEGIN")

    def take(self):
        self.inside.enter_context(self.lock.around_claim(self.connection, keeps_session=self.for_session))

    def claim(self):
        self.connection.execute(
            "UPDATE pgonly_job SET state = 'running', worker_id = %s, lease_expires_at = now() + interval '1 min'"
            " WHERE id = (SELECT id FROM pgonly_job WHERE state = 'ready' LIMIT 1)",
            [self.id],
        )

    def tell(self):
        self.inside.close()

    def commit(self):
        self.connection.execute("COMMIT")
        self.lock.note_committed()

    def finish(self):
        self.connection.execute(
            "UPDATE pgonly_job SET state = 'succeeded', lease_expires_at = NULL, finished_at = now()"
            " WHERE state = 'running'"
        )


def orders(first, second):
    """Every way to mix two lists that keeps the order of each."""
    count = len(first) + len(second)
    for places in combinations(range(count), len(first)):
        one, two = iter(first), iter(second)
        yield [next(one) if place in places else next(two) for place in range(count)]


def end_session(connection):
    """What the server does when a client is gone: first it rolls back, then it releases the locks of the session."""
    connection.execute("ROLLBACK")
    connection.execute(claim_locks.GIVE_UP)


@pytest.mark.parametrize("for_session", [False, True], ids=["for a claim", "for the session"])
def test_no_claim_is_unheard_of_in_any_order_and_wherever_the_claimer_dies(server, other, for_session):
    """Who rests has seen no job and hears of none: then no job runs, and nobody may claim one in silence."""
    rested = heard = 0
    resting = Resting(other)
    server.execute("SET synchronous_commit = off")
    steps = Claiming(server, for_session=for_session).steps
    for steps_before_death in range(len(steps) + 1):
        for order in orders(range(3), range(3, 3 + steps_before_death)):
            server.execute("DELETE FROM pgonly_job")
            server.execute(insert_jobs("generate_series(1, 2)"))
            claiming = Claiming(server, for_session=for_session)
            both = [*resting.steps, *claiming.steps]
            for number in order:
                both[number]()
            may_claim_in_silence = claiming.lock.is_held
            was_told = f"{notify.HOLDING} {claiming.id}" in resting.heard()
            end_session(server)
            is_running = idle_beat(server, uuid4(), LEASE).some_running
            assert not resting.rests or was_told or not (is_running or may_claim_in_silence)
            rested, heard = rested + resting.rests, heard + was_told
            end_session(other)
    assert rested and heard


@pytest.fixture
def claiming_worker(transactional_db):
    """The parts of a worker that claim."""
    worker_id = uuid4()
    database = WorkerConnection("default", worker_id, "tests", listen=False)
    yield Exchanger(database, claimer(worker_id=worker_id))
    database.close_all()


def claim_one(exchanger):
    return exchanger.exchange([], [], Claim(1, {}, take_suspect=False)).jobs


def told(other, worker_id):
    other.execute("SELECT 1")
    return [each.payload for each in other.notifies(timeout=0)].count(f"{notify.HOLDING} {worker_id}")


def test_a_worker_tells_at_its_first_jobs_and_then_claims_as_quickly_as_ever(claiming_worker, other):
    """From the third claim on: one statement alone, which was prepared for that."""
    other.execute(f"LISTEN {notify.CHANNEL}")
    other.execute(claim_locks.TAKE_RESTING)
    database, tells = claiming_worker.database, []
    for has_job in (False, True, True, True):
        if has_job:
            make()
        assert len(claim_one(claiming_worker)) == has_job
        tells.append(told(other, claiming_worker.claimer.worker_id))
        assert bool(database.prepared) == (len(tells) == 4)
    assert tells == [0, 1, 1, 0]


def test_where_no_worker_rests_nobody_is_told(claiming_worker, other):
    other.execute(f"LISTEN {notify.CHANNEL}")
    for _ in range(3):
        make()
        assert claim_one(claiming_worker)
    assert told(other, claiming_worker.claimer.worker_id) == 0


def test_after_a_lost_connection_a_worker_tells_again(claiming_worker, other):
    other.execute(f"LISTEN {notify.CHANNEL}")
    for _ in range(3):
        make()
        claim_one(claiming_worker)
    assert claiming_worker.database.claim_lock.is_held
    claiming_worker.database.lose(RuntimeError("cut"))
    other.execute(claim_locks.TAKE_RESTING)
    make()
    wait_for(
        lambda: (result := claiming_worker.exchange([], [], Claim(1, {}, take_suspect=False))) and result.jobs
    )
    assert told(other, claiming_worker.claimer.worker_id) == 1


def test_a_claim_that_fails_behind_its_lock_holds_nothing_in_silence(claiming_worker, other):
    """The lock of the session outlasts the rollback, and nobody was told: the next claim tells."""
    make()
    claim_one(claiming_worker)
    other.execute(f"LISTEN {notify.CHANNEL}")
    other.execute(claim_locks.TAKE_RESTING)
    make()
    with other.transaction():
        other.execute("LOCK TABLE pgonly_job IN SHARE MODE")
        assert claiming_worker.exchange([], [], Claim(1, {}, take_suspect=False)).was_refused
    assert not claiming_worker.database.claim_lock.is_held
    claim_one(claiming_worker)
    assert told(other, claiming_worker.claimer.worker_id) == 1
    assert claiming_worker.database.ask(claiming_worker.database.claim_lock.give_up)
    assert claim_locks.take_resting(other)


def test_a_limited_claim_tells_too(server, other):
    make_keyed("key")
    other.execute(f"LISTEN {notify.CHANNEL}")
    other.execute(claim_locks.TAKE_RESTING)
    limited = limited_claimer()
    assert len(claim_limited(server, limited)) == 1
    assert told(other, limited.worker_id) == 1
    assert claim_locks.take_resting(other)  # its lock went with its transaction


def test_a_job_that_runs_keeps_a_worker_from_resting_whoever_claimed_it(server):
    make_running()
    assert claim_locks.take_resting(server)
    assert idle_beat(server, uuid4(), LEASE).some_running


def test_the_gate_of_a_limited_queue_is_never_one_of_these_locks(server, other):
    """Of a million keys one may have this hash: its jobs would wait for ever, and claims for it."""
    other.execute(claim_locks.TAKE_FOR_SESSION)
    gate = [gates.ADVISORY_CLASS, claim_locks.CLAIMING]
    assert server.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", gate).fetchone() == (True,)
