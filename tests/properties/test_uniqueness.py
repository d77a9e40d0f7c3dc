"""Random lives of unique jobs: no step fails by the index, and a call is a duplicate where a model in plain Python says
so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgonly_django import enqueue_many, models
from pgonly_django.database.connect import connect
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.finish import Finish
from pgonly_django.queue.promote import promote
from pgonly_django.queue.prune import prune
from pgonly_django.queue.rescue import rescue
from tests.queue.rows import LEASE, claim, claimer, make_worker, write
from tests.tasks.calls import sync_account

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
KINDS = {
    "waiting": {"unique_while": "waiting"},
    "unfinished": {},
    "retained": {"unique_while": "retained"},
    "throttled": {"unique_for": HOUR},
    "throttled while unfinished": {"unique_for": HOUR, "unique_while": "unfinished"},
    "debounced": {"debounce": HOUR},
}
UNTIL = {"throttled": "retained", "throttled while unfinished": "unfinished", "debounced": "waiting"}
ENDS = {
    "succeed": (Outcome.SUCCEEDED, State.SUCCEEDED),
    "fail": (Outcome.FAILED, State.FAILED),
    "retry": (Outcome.FAILED, State.SCHEDULED),
    "release": (Outcome.RELEASED, State.READY),
    "hold": (Outcome.HELD, State.HELD),
}
FINISHED, WAITING = ("succeeded", "failed", "cancelled"), ("scheduled", "ready")


@dataclass
class Job:
    key: int | None
    until: str
    has_period: bool
    state: str
    claims: int = 0
    is_over: bool = False  # its period

    @property
    def excludes(self) -> bool:
        if self.key is None or self.until == "retained":
            return self.key is not None
        return self.state not in FINISHED and (self.until == "unfinished" or not self.claims)


def having(*states):
    return lambda self: any(job.state in states for job in self.jobs.values())


class UniqueLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        models.Job.objects.all().delete()
        self.server = connect("default", application_name="unique life")
        self.jobs: dict[str, Job] = {}
        self.worker = uuid4()
        make_worker(id=self.worker)

    def teardown(self) -> None:
        self.server.close()

    @rule(kind=st.sampled_from(sorted(KINDS)), many=st.booleans())
    def enqueue_another(self, kind, many):
        self.enqueue(kind, 1, many)

    @rule(kind=st.sampled_from(sorted(KINDS)), key=st.integers(1, 2), many=st.booleans())
    def enqueue(self, kind, key, many):
        task = sync_account.using(**KINDS[kind])
        result = enqueue_many([(task, [key])])[0] if many else task.enqueue(key)
        for job in self.jobs.values():
            if job.key == key and job.excludes and job.is_over:
                job.key = None
        winner = self._winner(key)
        assert result.is_duplicate is (winner is not None)
        if winner is None:
            state = "scheduled" if kind == "debounced" else "ready"
            until = UNTIL.get(kind, kind)
            self.jobs[result.id] = Job(key, until, "unique_for" in KINDS[kind], state)
            return
        assert result.id == winner
        job = self.jobs[winner]
        if kind == "debounced" and not job.claims and job.state in WAITING:
            job.state = "scheduled"

    @rule(verb=st.sampled_from(["cancel", "discard", "hold", "resume"]), one=st.booleans(), data=st.data())
    @precondition(having(*WAITING, "held"))
    def change(self, verb, one, data):
        chosen = self._choose(one, data)
        getattr(models.Job.objects.filter(pk__in=chosen), verb)()
        for job_id in chosen:
            job = self.jobs[job_id]
            if job.state in (*WAITING, "held") and verb in ("cancel", "discard"):
                job.state = "cancelled" if verb == "cancel" else "failed"
            elif job.state in WAITING and verb == "hold":
                job.state = "held"
            elif job.state == "held" and verb == "resume":
                row = models.Job.objects.get(pk=job_id)
                job.state = "scheduled" if row.run_at and row.run_at > timezone.now() else "ready"

    @rule(one=st.booleans(), data=st.data())
    @precondition(having("failed", "cancelled", "scheduled", "held"))
    def retry(self, one, data):
        chosen = self._choose(one, data)
        count = models.Job.objects.filter(pk__in=chosen).retry()
        taken = {job.key for job in self.jobs.values() if job.excludes}
        retried = 0
        for job_id in sorted(chosen, reverse=True):
            job = self.jobs[job_id]
            comes_back = job.key is not None and job.state in FINISHED and not job.excludes
            comes_back &= job.until == "unfinished" or not job.claims
            if job.state in ("running", "ready", "succeeded") or (comes_back and job.key in taken):
                continue
            job.state = "ready"
            retried += 1
            taken |= {job.key} if comes_back else set()
        assert count == retried

    @rule(free=st.integers(1, 3))
    @precondition(having("ready"))
    def claim(self, free):
        for row in claim(self.server, claimer(worker_id=self.worker), free):
            job = self.jobs[row.id]
            assert job.state == "ready"
            job.state, job.claims = "running", job.claims + 1

    @rule(end=st.sampled_from(sorted(ENDS)))
    @precondition(having("running"))
    def finish(self, end):
        outcome, state = ENDS[end]
        for job_id, job in self.jobs.items():
            if job.state == "running":
                delay = 3600.0 if state is State.SCHEDULED else None
                held_by = "a test" if state is State.HELD else None
                done = Finish(job_id, job.claims, outcome, state, delay_seconds=delay, held_by=held_by)
                assert write(self.server, done) == 1
                was_cancelled = models.Job.objects.get(pk=job_id).state == "cancelled"
                job.state = "cancelled" if was_cancelled else state.value

    @rule()
    @precondition(having("running"))
    def die_and_be_rescued(self):
        past = timezone.now() - HOUR
        models.Job.objects.filter(state="running").update(lease_expires_at=past)
        models.Worker.objects.update(heartbeat_at=past)
        for row in rescue(self.server, LEASE, timedelta(0)):
            self.jobs[str(row.id)].state = row.state
        self.worker = uuid4()
        make_worker(id=self.worker)

    @rule()
    @precondition(having("scheduled"))
    def promote(self):
        models.Job.objects.filter(state="scheduled").update(run_at=timezone.now() - HOUR)
        promote(self.server)
        for job in self.jobs.values():
            job.state = "ready" if job.state == "scheduled" else job.state

    @rule()
    @precondition(lambda self: any(job.has_period and not job.is_over for job in self.jobs.values()))
    def let_the_periods_end(self):
        past = timezone.now() - HOUR
        models.Job.objects.filter(unique_until__isnull=False).update(unique_until=past)
        for job in self.jobs.values():
            job.is_over |= job.has_period

    @rule(one=st.booleans(), data=st.data())
    @precondition(having(*FINISHED))
    def prune(self, one, data):
        over = models.Job.objects.filter(pk__in=self._choose(one, data), state__in=FINISHED)
        over.update(delete_after=timezone.now() - HOUR)
        prune(self.server)
        left = {str(pk) for pk in models.Job.objects.values_list("pk", flat=True)}
        self.jobs = {job_id: job for job_id, job in self.jobs.items() if job_id in left}

    @invariant()
    def the_rows_agree_with_the_model(self):
        rows = models.Job.objects.values_list("pk", "state", "lease_epoch", "unique_key")
        assert {str(pk): (state, claims, key is not None) for pk, state, claims, key in rows} == {
            job_id: (job.state, job.claims, job.key is not None) for job_id, job in self.jobs.items()
        }

    def _winner(self, key):
        """The index lets no two of them be."""
        holders = [job_id for job_id, job in self.jobs.items() if job.key == key and job.excludes]
        assert len(holders) <= 1
        return holders[0] if holders else None

    def _choose(self, one, data):
        if not self.jobs or not one:
            return list(self.jobs)
        return [data.draw(st.sampled_from(sorted(self.jobs)))]


@pytest.mark.django_db(transaction=True)
def test_every_life_of_unique_jobs_follows_the_model():
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        UniqueLife,
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=checks
        ),
    )
