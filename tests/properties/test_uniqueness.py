"""Random lives of unique jobs: no step fails by the index, and a call is a duplicate where a model in plain Python says
so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgonly_django import enqueue_many, models
from pgonly_django.database.connect import connect
from pgonly_django.queue.promote import promote
from pgonly_django.queue.prune import prune
from pgonly_django.queue.rescue import rescue
from tests.properties.model import ENDS, FINISHED, VERBS, Job, finish_of, is_blamed, live
from tests.queue.rows import HOUR, LEASE, claim, claimer, make_worker, write
from tests.tasks.calls import sync_account

pytestmark = pytest.mark.slow

KINDS = {
    "waiting": {"unique_while": "waiting"},
    "unfinished": {},
    "retained": {"unique_while": "retained"},
    "throttled": {"unique_for": HOUR},
    "throttled while unfinished": {"unique_for": HOUR, "unique_while": "unfinished"},
    "debounced": {"debounce": HOUR},
}
UNTIL = {"throttled": "retained", "throttled while unfinished": "unfinished", "debounced": "waiting"}
WAITING = ("scheduled", "ready")


@dataclass
class UniqueJob(Job):
    unique: int | None = None  # its key
    until: str = ""
    has_period: bool = False
    is_over: bool = False  # its period

    @property
    def excludes(self) -> bool:
        if self.unique is None or self.until == "retained":
            return self.unique is not None
        return self.state not in FINISHED and (self.until == "unfinished" or not self.lease_epoch)


def having(*states):
    return lambda self: any(job.state in states for job in self.jobs.values())


class UniqueLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        models.Job.objects.all().delete()
        self.server = connect("default", application_name="unique life")
        self.jobs: dict[str, UniqueJob] = {}
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
            if job.unique == key and job.excludes and job.is_over:
                job.unique = None
        winner = self._winner(key)
        assert result.is_duplicate is (winner is not None)
        if winner is None:
            self.jobs[result.id] = UniqueJob(
                "scheduled" if kind == "debounced" else "ready",
                unique=key,
                until=UNTIL.get(kind, kind),
                has_period="unique_for" in KINDS[kind],
            )
            return
        assert result.id == winner
        job = self.jobs[winner]
        if kind == "debounced" and not job.lease_epoch and job.state in (*WAITING, "held"):
            job.is_ahead = True
            job.state = "held" if job.state == "held" else "scheduled"

    @rule(verb=st.sampled_from(["cancel", "discard", "hold", "resume"]), one=st.booleans(), data=st.data())
    @precondition(having(*WAITING, "held"))
    def change(self, verb, one, data):
        chosen = self._choose(one, data)
        getattr(models.Job.objects.filter(pk__in=chosen), verb)()
        for job_id in chosen:
            VERBS[verb](self.jobs[job_id])

    @rule(one=st.booleans(), data=st.data())
    @precondition(having("failed", "cancelled", "scheduled", "held"))
    def retry(self, one, data):
        chosen = self._choose(one, data)
        count = models.Job.objects.filter(pk__in=chosen).retry()
        taken = {job.unique for job in self.jobs.values() if job.excludes}
        retried = 0
        for job_id in sorted(chosen, reverse=True):
            job = self.jobs[job_id]
            comes_back = job.unique is not None and job.state in FINISHED and not job.excludes
            comes_back &= job.until == "unfinished" or not job.lease_epoch
            if job.state in ("running", "ready", "succeeded") or (comes_back and job.unique in taken):
                continue
            job.retried()
            retried += 1
            taken |= {job.unique} if comes_back else set()
        assert count == retried

    @rule(free=st.integers(1, 3))
    @precondition(having("ready"))
    def claim(self, free):
        for row in claim(self.server, claimer(worker_id=self.worker), free):
            self.jobs[row.id].claimed("a")

    @rule(end=st.sampled_from(sorted(ENDS)))
    @precondition(having("running"))
    def finish(self, end):
        _, state, facts = ENDS[end]
        for job_id, job in self.jobs.items():
            if job.state == "running":
                assert write(self.server, finish_of(job_id, job.lease_epoch, end)) == 1
                job.ended(state.value, **facts)

    @rule()
    @precondition(having("running"))
    def die_and_be_rescued(self):
        past = timezone.now() - HOUR
        models.Job.objects.filter(state="running").update(lease_expires_at=past)
        models.Worker.objects.update(heartbeat_at=past)
        crashes = {job_id: job.crashes for job_id, job in self.jobs.items() if job.holder}
        rescue(self.server, LEASE, timedelta(0))
        for job_id, before in crashes.items():
            self.jobs[job_id].crashed(blamed=is_blamed(before, list(crashes.values())))
        self.worker = uuid4()
        make_worker(id=self.worker)

    @rule()
    @precondition(having("scheduled"))
    def promote(self):
        models.Job.objects.filter(state="scheduled").update(run_at=timezone.now() - HOUR)
        promote(self.server)
        for job in self.jobs.values():
            job.promoted()

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
            job_id: (job.state, job.lease_epoch, job.unique is not None) for job_id, job in self.jobs.items()
        }

    def _winner(self, key):
        """The index lets no two of them be."""
        holders = [job_id for job_id, job in self.jobs.items() if job.unique == key and job.excludes]
        assert len(holders) <= 1
        return holders[0] if holders else None

    def _choose(self, one, data):
        if not self.jobs or not one:
            return list(self.jobs)
        return [data.draw(st.sampled_from(sorted(self.jobs)))]


@pytest.mark.django_db(transaction=True)
def test_every_life_of_unique_jobs_follows_the_model():
    live(UniqueLife, examples=30, steps=40)
