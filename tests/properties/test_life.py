"""Random lives of jobs under two workers and a rescuer: the SQL has to agree with the model at every step."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db.models import F
from django.utils import timezone
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgonly_django import models, redrive, send_event
from pgonly_django.database.connect import connect
from pgonly_django.models.job import State
from pgonly_django.queue import waits
from pgonly_django.queue.liveness import renew
from pgonly_django.queue.promote import promote
from pgonly_django.queue.prune import prune
from pgonly_django.queue.rescue import rescue
from pgonly_django.queue.waits import deliver
from pgonly_django.tasks.failures import send_dead_letters
from tests.properties.model import ENDS, FINISHED, SUSPECT_FROM, VERBS, Job, finish_of, is_blamed, live
from tests.queue.rows import HOUR, LEASE, claim, claim_limited, claimer, limited_claimer, make_worker, write
from tests.tasks.calls import add

pytestmark = pytest.mark.slow

WEEK_AND_A_DAY = 8
WORKERS = ("a", "b")
QUEUES = ("x", "y")
KEYS = ("p", "q", "r", "s", "t")  # of events
LIMITS = {"one": 1, "two": 2}  # of each concurrency key


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        models.Job.objects.all().delete()
        models.Worker.objects.all().delete()
        models.Queue.objects.all().delete()
        models.Event.objects.all().delete()
        self.events: dict[str, bool] = {}  # by their keys: whether they are delivered
        self.server = connect("default", application_name="life")
        self.jobs: dict[str, Job] = {}
        self.claimers = {name: claimer(worker_id=uuid4()) for name in WORKERS}
        self.limited = {}
        self.queues: dict[str, tuple[int | None, bool]] = {}  # max_running, and whether it is paused
        for name in WORKERS:
            self._revive(name)

    def teardown(self) -> None:
        self.server.close()

    # What people do.

    @rule(
        priority=st.integers(-1, 1),
        queue=st.sampled_from(QUEUES),
        later=st.booleans(),
        key=st.sampled_from([None, *LIMITS]),
    )
    def enqueue(self, priority, queue, later, key):
        run_after = timezone.now() + HOUR if later else None
        options = {} if key is None else {"concurrency_key": key, "concurrency_limit": LIMITS[key]}
        task = add.using(
            priority=priority, queue_name=queue, run_after=run_after, dead_letter_queue="dead", **options
        )
        self.jobs[task.enqueue(1).id] = Job(
            "scheduled" if later else "ready", is_ahead=later, queue=queue, key=key
        )

    @rule(verb=st.sampled_from(sorted(VERBS)), data=st.data())
    @precondition(lambda self: self.jobs)
    def change(self, verb, data):
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        getattr(models.Job.objects.filter(pk=job_id), verb)()
        VERBS[verb](self.jobs[job_id])

    @rule()
    def redrive(self):
        failed = {job_id for job_id, job in self.jobs.items() if job.state == "failed"}
        assert redrive(models.Job.objects.all()).jobs == len(failed)
        for job_id in failed:
            self.jobs[job_id].redriven()

    @rule(queue=st.sampled_from(QUEUES), max_running=st.sampled_from([None, 1, 2]), paused=st.booleans())
    def limit(self, queue, max_running, paused):
        rows = models.Queue.objects.named(queue)
        rows.edit(max_running=max_running)
        rows.pause() if paused else rows.resume()
        self.queues[queue] = (max_running, paused)

    @rule(data=st.data(), is_heard=st.booleans())
    def send(self, data, is_heard):
        asked = {key for job in self.jobs.values() for key in job.waits} - set(self.events)
        key = data.draw(st.sampled_from(sorted(asked) or KEYS))
        assert send_event(key, key) == (key not in self.events)
        self.events.setdefault(key, False)
        if is_heard:
            self.deliver()

    # What workers do.

    @rule(key=st.sampled_from(KEYS), leaves=st.booleans(), data=st.data())
    def wait(self, key, leaves, data):
        """A job waits for an event. If that has not come it leaves its run, now or after something else."""
        if not any(job.holder for job in self.jobs.values()):
            self.enqueue(0, "x", later=False, key=None)
            self.claim("a", 1, from_head=True)
        running = sorted(job_id for job_id, job in self.jobs.items() if job.holder)
        if not running:  # the queue is limited
            return
        job_id = data.draw(st.sampled_from(running))
        job, new = self.jobs[job_id], waits.for_event(key, None, (), "", keeps_key=False)
        run = ("default", job_id, job.lease_epoch)
        if (found := waits.look(*run, new.name)).answer is None:
            waits.begin(*run, new)
            job.waits[key] = job.lease_epoch
            found = waits.look(*run, new.name)
        assert (found.answer is not None) == (key in self.events)
        if found.answer is not None:
            job.waits.pop(key, None)
        elif leaves:
            self._end(job_id, "wait")

    @rule()
    def deliver(self):
        new = [key for key, is_delivered in self.events.items() if not is_delivered]
        assert promote(self.server).has_events == bool(new)
        self.events |= dict.fromkeys(new, True)
        for job in self.jobs.values():
            if job.waits_for(*new, "") and job.state == "running":
                self.events |= {key: False for key in new if job.waits_for(key)}
            elif job.waits_for(*new, ""):
                job.promoted()
        deliver(self.server)
        assert set(models.Event.objects.filter(is_delivered=False).values_list("key", flat=True)) == {
            key for key, is_delivered in self.events.items() if not is_delivered
        }

    @rule(worker=st.sampled_from(WORKERS), free=st.integers(1, 3), from_head=st.booleans())
    def claim(self, worker, free, from_head):
        by = self.claimers[worker]
        by.head_due_at = 0.0 if from_head else float("inf")
        suspects_held = any(job.crashes >= SUSPECT_FROM for job in self._held_by(worker).values())
        ready = {job_id for job_id, job in self.jobs.items() if job.state == "ready"}
        claimed = claim(self.server, by, free, take_suspect=not suspects_held)
        self._note_claimed(worker, claimed, free)
        assert not any(self._is_limited(self.jobs[row.id]) for row in claimed)
        if by.looked_from_head and len(claimed) < free:
            left = [self.jobs[job_id] for job_id in ready if self.jobs[job_id].state == "ready"]
            plain = [job for job in left if not self._is_limited(job)]
            assert all(job.crashes >= SUSPECT_FROM for job in plain), "a ready job was not seen from the head"

    @rule(worker=st.sampled_from(WORKERS), free=st.integers(1, 3))
    def claim_limited(self, worker, free):
        suspects_held = any(job.crashes >= SUSPECT_FROM for job in self._held_by(worker).values())
        before = Counter(job.queue for job in self.jobs.values() if job.holder)
        claimed = claim_limited(self.server, self.limited[worker], free, take_suspect=not suspects_held)
        self._note_claimed(worker, claimed, free)
        assert all(self._is_limited(self.jobs[row.id]) for row in claimed)
        for queue, count in Counter(row.queue for row in claimed).items():
            max_running, is_paused = self.queues.get(queue, (None, False))
            assert not is_paused
            assert max_running is None or before[queue] + count <= max_running

    @rule(end=st.sampled_from(sorted(ENDS)), data=st.data())
    @precondition(lambda self: any(job.holder for job in self.jobs.values()))
    def finish(self, end, data):
        job_id = data.draw(st.sampled_from(sorted(i for i, job in self.jobs.items() if job.holder)))
        self._end(job_id, end)

    @rule(end=st.sampled_from(sorted(ENDS)), data=st.data())
    @precondition(lambda self: any(job.past for job in self.jobs.values()))
    def finish_too_late(self, end, data):
        job_id = data.draw(st.sampled_from(sorted(i for i, job in self.jobs.items() if job.past)))
        past = data.draw(st.sampled_from(self.jobs[job_id].past))
        assert write(self.server, finish_of(job_id, past.lease_epoch, end)) == 0

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
    def send_letters(self):
        """Each failure has one, whatever made it."""
        while send_dead_letters("default", "dead", 2):
            pass
        letters = models.Job.objects.filter(queue="dead")
        assert sorted(job.args[0] for job in letters) == sorted(
            job_id for job_id, job in self.jobs.items() if job.owes_letter
        )
        letters.delete()
        for job in self.jobs.values():
            job.owes_letter = False

    @rule()
    def prune(self):
        """After a week and a day."""
        models.Job.objects.finished().update(delete_after=F("delete_after") - timedelta(days=WEEK_AND_A_DAY))
        prune(self.server)
        self.jobs = {job_id: job for job_id, job in self.jobs.items() if job.days_pass(WEEK_AND_A_DAY)}

    @rule()
    def everything_comes_to_an_end(self):
        """Once nothing stands in the way, every job that is not over can be claimed: none is lost."""
        for queue in QUEUES:
            self.limit(queue, None, paused=False)
        for job_id, job in self.jobs.items():
            if job.state == "held":
                models.Job.objects.filter(pk=job_id).resume()
                job.resumed()
        self.promote()
        for _ in range(len(self.jobs) + 1):
            self._finish_all_that_run()
            for worker in WORKERS:
                self.claim(worker, 3, from_head=True)
                self.claim_limited(worker, 3)
        self._finish_all_that_run()
        assert {job.state for job in self.jobs.values()} <= set(FINISHED)

    @rule()
    def promote(self):
        models.Job.objects.filter(state="scheduled").update(run_at=timezone.now() - HOUR)
        promote(self.server)
        for job in self.jobs.values():
            job.promoted()

    @invariant()
    def the_rows_agree_with_the_model(self):
        facts_of = ("state", "lease_epoch", "attempt", "interruptions", "crashes")
        rows = models.Job.objects.values_list("id", *facts_of, "cancel_requested_at", "worker_id", "held_by")
        for job_id, *facts, cancel_requested_at, worker_id, held_by in rows:
            job = self.jobs[str(job_id)]
            assert (*facts, cancel_requested_at is not None) == job.facts
            assert (held_by is not None) == (job.state == "held")
            if job.holder:
                assert worker_id == self._id_at_claim(job.holder)
        assert models.Job.objects.count() == len(self.jobs)

    @invariant()
    def no_key_runs_more_often_than_its_limit(self):
        running = models.Job.objects.running().exclude(concurrency_key=None)
        found = Counter(running.values_list("concurrency_key", flat=True))
        assert all(count <= LIMITS[key] for key, count in found.items())

    @invariant()
    def only_running_jobs_have_a_lease_and_only_finished_ones_an_end(self):
        for job in models.Job.objects.all():
            assert (job.lease_expires_at is not None) == (job.state == State.RUNNING)
            assert (job.finished_at is not None) == (job.delete_after is not None) == job.is_finished

    @invariant()
    def no_job_waits_for_an_event_that_workers_are_done_with(self):
        done = [key for key, is_delivered in self.events.items() if is_delivered]
        assert not any(job.state == "scheduled" and job.waits_for(*done, "") for job in self.jobs.values())

    # The parts.

    def _is_limited(self, job):
        return job.key is not None or self.queues.get(job.queue, (None, False)) != (None, False)

    def _note_claimed(self, worker, claimed, free):
        for row in claimed:
            self.jobs[row.id].claimed(worker)
            assert row.lease_epoch == self.jobs[row.id].lease_epoch
        assert len(claimed) <= free
        assert sum(row.crashes >= SUSPECT_FROM for row in claimed) <= 1

    def _finish_all_that_run(self):
        for job_id, job in self.jobs.items():
            if job.holder:
                self._end(job_id, "succeed")

    def _held_by(self, worker):
        return {i: job for i, job in self.jobs.items() if job.holder and job.holder.worker == worker}

    def _id_at_claim(self, run) -> UUID:
        return self.claimers[run.worker].worker_id

    def _revive(self, worker):
        """A new process of that name: a fresh id, no floors, a fresh heartbeat."""
        self.claimers[worker] = by = claimer(worker_id=uuid4())
        self.limited[worker] = limited_claimer(worker_id=by.worker_id)
        make_worker(id=by.worker_id, name=worker)

    def _end(self, job_id, end):
        _, state, facts = ENDS[end]
        assert write(self.server, finish_of(job_id, self.jobs[job_id].lease_epoch, end)) == 1
        self.jobs[job_id].ended(state.value, **facts)


@pytest.mark.django_db(transaction=True)
def test_every_life_of_a_job_follows_the_model(settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": "tests.jobs.burying.note"}}}
    live(Life, examples=40, steps=30)
