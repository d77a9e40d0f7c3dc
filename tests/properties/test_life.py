"""Random lives of jobs under two workers and a rescuer: the SQL has to agree with the model at every step."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

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

from pgonly_django import models
from pgonly_django.database.connect import connect
from pgonly_django.models.job import State
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.queue.lease import renew
from pgonly_django.queue.promote import promote
from pgonly_django.queue.rescue import rescue
from tests.properties.model import SUSPECT_FROM, Job, is_blamed
from tests.queue.rows import LEASE, claim, claimer, write
from tests.tasks.calls import add

HOUR = timedelta(hours=1)
WORKERS = ("a", "b")
ENDS = {
    "succeed": (Outcome.SUCCEEDED, State.SUCCEEDED, {}),
    "fail": (Outcome.FAILED, State.FAILED, {}),
    "retry": (Outcome.FAILED, State.SCHEDULED, {}),
    "snooze": (Outcome.SNOOZED, State.SCHEDULED, {"costs": False}),
    "release": (Outcome.RELEASED, State.READY, {"costs": False, "interrupted": True, "clears": False}),
    "hold": (Outcome.HELD, State.HELD, {"costs": False}),
    "postpone": (Outcome.POSTPONED, State.SCHEDULED, {"costs": False, "clears": False}),
}


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        models.Job.objects.all().delete()
        models.Worker.objects.all().delete()
        self.server = connect("default", application_name="life")
        self.jobs: dict[str, Job] = {}
        self.claimers = {name: claimer(worker_id=uuid4()) for name in WORKERS}
        for name in WORKERS:
            self._revive(name)

    def teardown(self) -> None:
        self.server.close()

    # What people do.

    @rule(priority=st.integers(-1, 1), queue=st.sampled_from(["x", "y"]), later=st.booleans())
    def enqueue(self, priority, queue, later):
        run_after = timezone.now() + HOUR if later else None
        result = add.using(priority=priority, queue_name=queue, run_after=run_after).enqueue(1)
        self.jobs[result.id] = Job("scheduled" if later else "ready", is_ahead=later)

    @rule(verb=st.sampled_from(["cancel", "retry", "discard", "hold", "resume"]), data=st.data())
    @precondition(lambda self: self.jobs)
    def change(self, verb, data):
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        getattr(models.Job.objects.filter(pk=job_id), verb)()
        past = {
            "cancel": Job.cancelled,
            "retry": Job.retried,
            "discard": Job.discarded,
            "hold": Job.held,
            "resume": Job.resumed,
        }
        past[verb](self.jobs[job_id])

    # What workers do.

    @rule(worker=st.sampled_from(WORKERS), free=st.integers(1, 3), from_head=st.booleans())
    def claim(self, worker, free, from_head):
        by = self.claimers[worker]
        by.head_due_at = 0.0 if from_head else float("inf")
        suspects_held = any(job.crashes >= SUSPECT_FROM for job in self._held_by(worker).values())
        ready = {job_id for job_id, job in self.jobs.items() if job.state == "ready"}
        claimed = claim(self.server, by, free, take_suspect=not suspects_held)
        for row in claimed:
            self.jobs[row.id].claimed(worker)
            assert row.lease_epoch == self.jobs[row.id].lease_epoch
        assert len(claimed) <= free
        assert sum(row.crashes >= SUSPECT_FROM for row in claimed) <= 1
        if by.looked_from_head and len(claimed) < free:
            left = [self.jobs[job_id] for job_id in ready if self.jobs[job_id].state == "ready"]
            assert all(job.crashes >= SUSPECT_FROM for job in left), "a ready job was not seen from the head"

    @rule(end=st.sampled_from(sorted(ENDS)), data=st.data())
    @precondition(lambda self: any(job.holder for job in self.jobs.values()))
    def finish(self, end, data):
        job_id = data.draw(st.sampled_from(sorted(i for i, job in self.jobs.items() if job.holder)))
        outcome, state, facts = ENDS[end]
        assert (
            write(self.server, self._finish(job_id, self.jobs[job_id].lease_epoch, outcome, state, facts))
            == 1
        )
        self.jobs[job_id].ended(state.value, **facts)

    @rule(end=st.sampled_from(sorted(ENDS)), data=st.data())
    @precondition(lambda self: any(job.past for job in self.jobs.values()))
    def finish_too_late(self, end, data):
        job_id = data.draw(st.sampled_from(sorted(i for i, job in self.jobs.items() if job.past)))
        past = data.draw(st.sampled_from(self.jobs[job_id].past))
        outcome, state, facts = ENDS[end]
        assert write(self.server, self._finish(job_id, past.lease_epoch, outcome, state, facts)) == 0

    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker):
        held = self._held_by(worker)
        everything = {job_id: job.holder.lease_epoch for job_id, job in held.items()}
        stale = {i: past.lease_epoch for i, job in self.jobs.items() for past in job.past if i not in held}
        answer = renew(self.server, {**stale, **everything}, LEASE)
        assert set(answer) == set(everything)
        assert {i for i, it in answer.items() if it.cancel_requested} == {
            job_id for job_id, job in held.items() if job.cancel_requested
        }

    @rule(worker=st.sampled_from(WORKERS))
    def die_and_be_rescued(self, worker):
        worker_id, held = self.claimers[worker].worker_id, self._held_by(worker)
        past = timezone.now() - HOUR
        models.Job.objects.filter(worker_id=worker_id, state="running").update(lease_expires_at=past)
        models.Worker.objects.filter(pk=worker_id).update(heartbeat_at=past)
        rescued = {str(row.id) for row in rescue(self.server, LEASE, timedelta(0))}
        assert rescued == set(held)
        crashes = {job_id: job.crashes for job_id, job in held.items()}
        for job_id, job in held.items():
            job.crashed(blamed=is_blamed(crashes[job_id], list(crashes.values())))
        self._revive(worker)

    @rule()
    def rescue_nobody(self):
        assert rescue(self.server, LEASE, timedelta(0)) == []

    @rule()
    def promote(self):
        models.Job.objects.filter(state="scheduled").update(run_at=timezone.now() - HOUR)
        promote(self.server)
        for job in self.jobs.values():
            job.promoted()

    @invariant()
    def the_rows_agree_with_the_model(self):
        names = (
            "state",
            "lease_epoch",
            "attempt",
            "interruptions",
            "crashes",
            "cancel_requested_at",
            "worker_id",
            "held_by",
        )
        for job_id, *facts, cancel_requested_at, worker_id, held_by in models.Job.objects.values_list(
            "id", *names
        ):
            job = self.jobs[str(job_id)]
            assert (*facts, cancel_requested_at is not None) == job.facts
            assert (held_by is not None) == (job.state == "held")
            if job.holder:
                assert worker_id == self._id_at_claim(job.holder)
        assert models.Job.objects.count() == len(self.jobs)

    # The parts.

    def _held_by(self, worker):
        return {i: job for i, job in self.jobs.items() if job.holder and job.holder.worker == worker}

    def _id_at_claim(self, run) -> UUID:
        return self.claimers[run.worker].worker_id

    def _revive(self, worker):
        """A new process of that name: a fresh id, no floors, a fresh heartbeat."""
        self.claimers[worker] = claimer(worker_id=uuid4())
        models.Worker.objects.create(
            id=self.claimers[worker].worker_id, name=worker, hostname="h", pid=1, threads=1
        )

    def _finish(self, job_id, lease_epoch, outcome, state, facts):
        delay = 3600.0 if state is State.SCHEDULED else None
        return Finish(
            job_id, lease_epoch, outcome, state, delay_seconds=delay, costs_attempt=facts.get("costs", True),
            held_by="a test" if state is State.HELD else None,
        )  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_every_life_of_a_job_follows_the_model():
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=checks
        ),
    )
