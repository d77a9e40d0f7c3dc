"""A worker that rests is told of each claim: in every order of the steps of both, wherever the claimer is killed."""

from __future__ import annotations

from contextlib import ExitStack, closing
from itertools import combinations
from uuid import uuid4

import pytest

from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.queue import claim_locks
from pgonly_django.queue.claim_locks import ClaimLock
from pgonly_django.queue.workers import idle_beat
from tests.queue.rows import LEASE, make
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


@pytest.mark.parametrize("for_session", [False, True], ids=["for a claim", "for the session"])
def test_no_claim_is_unheard_of_in_any_order_and_wherever_the_claimer_dies(transactional_db, for_session):
    """Who rests has seen no job and hears of none: then no job runs, and nobody may claim one in silence."""
    rested = heard = 0
    with connect("default", application_name="pgonly tests") as quiet:
        resting = Resting(quiet)
        length = len(Claiming(quiet, for_session=for_session).steps)
        for steps_left in range(length + 1):
            for number in range(len(list(orders(range(3), range(steps_left))))):
                Job.objects.all().delete()
                make(), make()
                with closing(connect("default", application_name="pgonly tests, claimer")) as line:
                    claiming = Claiming(line, for_session=for_session)
                    for step in list(orders(resting.steps, claiming.steps[:steps_left]))[number]:
                        step()
                    may_claim_in_silence = claiming.lock.is_held
                    was_told = f"{notify.HOLDING} {claiming.id}" in resting.heard()
                is_running = Job.objects.filter(state=State.RUNNING).exists()
                assert not resting.rests or was_told or not (is_running or may_claim_in_silence)
                rested, heard = rested + resting.rests, heard + was_told
                quiet.execute(claim_locks.GIVE_UP)
                wait_for(lambda: not quiet.execute(claim_locks.SOMEBODY_CLAIMS).fetchone()[0])
    assert rested and heard
