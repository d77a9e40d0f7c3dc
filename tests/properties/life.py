"""The lives of jobs under two workers and a rescuer: what people and workers do, and what has to agree with the
model."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

from django.db.models import F
from django.utils import timezone
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgonly_django import models, redrive, send_event
from pgonly_django.database.connect import connect
from pgonly_django.queue import batches, waits
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.queue.liveness import renew
from pgonly_django.queue.promote import promote
from pgonly_django.queue.prune import prune
from pgonly_django.queue.rescue import rescue
from pgonly_django.queue.waits import deliver
from pgonly_django.tasks.failures import send_dead_letters
from tests.properties.model import ENDS, SUSPECT_FROM, VERBS, Batch, Job, finish_of, is_blamed
from tests.queue.rows import HOUR, LEASE, claim, claim_limited, claimer, limited_claimer, make_worker, write
from tests.tasks.calls import add

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
        models.JobBatch.objects.all().delete()
        self.events: dict[str, bool] = {}  # by their keys: whether they are delivered
        self.server = connect("default", application_name="life")
        self.jobs: dict[str, Job] = {}
        self.batches: dict[str, Batch] = {}
        self.rows: dict[str, ClaimedJob] = {}  # as they were claimed last
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
        options = {} if key is None else {"concurrency_key": key, "concurrency_limit": LIMITS[key]}
        task = self.using(add, queue, priority=priority, later=later, **options)
        self.note_enqueued([task.enqueue(1).id], queue, later=later, key=key)

    @rule(verb=st.sampled_from(sorted(VERBS)), data=st.data())
    @precondition(lambda self: self.jobs)
    def change(self, verb, data):
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        job = self.jobs[job_id]
        getattr(models.Job.objects.filter(pk=job_id), verb)()
        if verb == "retry" and job.is_retryable:
            self.reopen(job)
        VERBS[verb](job)

    @rule()
    def redrive(self):
        failed = {job_id for job_id, job in self.jobs.items() if job.state == "failed"}
        assert redrive(models.Job.objects.all()).jobs == len(failed)
        for job_id in failed:
            self.reopen(self.jobs[job_id])
            self.jobs[job_id].redriven()

    @rule(queue=st.sampled_from(QUEUES), max_running=st.sampled_from([None, 1, 2]), paused=st.booleans())
    def limit(self, queue, max_running, paused):
        rows = models.Queue.objects.named(queue)
        rows.edit(max_running=max_running)
        rows.pause() if paused else rows.resume()
        self.queues[queue] = (max_running, paused)

    @rule(data=st.data(), is_heard=st.booleans())
    def send(self, data, is_heard):
        asked = {key for job in self.jobs.values() for key in job.waits if key in KEYS} - set(self.events)
        key = data.draw(st.sampled_from(sorted(asked) or KEYS))
        assert send_event(key, key) == (key not in self.events)
        self.events.setdefault(key, False)
        if is_heard:
            self.deliver()

    # What workers do.

    @rule(
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True),
        leaves=st.booleans(),
        data=st.data(),
    )
    def wait(self, keys, leaves, data):
        """A job waits for an event, or for the first of several. If none has come it leaves its run, now or after
        something else: it may wait for more in parallel."""
        if not self.running():
            self.enqueue(0, "x", later=False, key=None)
            self.claim("a", 1, from_head=True)
        if not self.running():  # the queue is limited
            return
        job_id = data.draw(st.sampled_from(self.running()))
        job, of = self.jobs[job_id], waits.for_first(dict.fromkeys(keys), None)
        run = ("default", job_id, job.lease_epoch)
        names = [wait.name for wait in of]
        look = partial(waits.look, *run, waits.name_of(of), names, names)
        if (found := look()).answer is None:
            for wait in of:
                waits.begin(*run, wait)
                job.waits[wait.key] = job.lease_epoch
            found = look()
        assert (found.answer is not None) == any(key in self.events for key in keys)
        if found.answer is not None:
            assert waits.first_in(found.answer, of)[0] in self.events
            for key in keys if found.is_new else ():
                job.waits.pop(key, None)
        elif leaves:
            self.end(job_id, "wait")

    @rule(data=st.data())
    @precondition(lambda self: any(self.jobs[job_id].waits for job_id in self.running()))
    def withdraw(self, data):
        """A run goes on without one of the waits of its job."""
        job_id = data.draw(st.sampled_from([each for each in self.running() if self.jobs[each].waits]))
        job = self.jobs[job_id]
        key = data.draw(st.sampled_from(sorted(job.waits)))
        waits.withdraw("default", job_id, job.lease_epoch, [f"event {key}"])
        del job.waits[key]

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
        is_from_head = by.is_head_due
        claimed = claim(self.server, by, free, take_suspect=not suspects_held)
        self._note_claimed(worker, claimed, free)
        assert not any(self._is_limited(self.jobs[row.id]) for row in claimed)
        if is_from_head and len(claimed) < free:
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
    @precondition(lambda self: self.running())
    def finish(self, end, data):
        job_id = data.draw(st.sampled_from(self.running()))
        self.end(job_id, end)

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
        earlier = {"delete_after": F("delete_after") - timedelta(days=WEEK_AND_A_DAY)}
        models.Job.objects.finished().update(**earlier)
        models.JobBatch.objects.update(**earlier)
        due = {job_id for job_id, job in self.jobs.items() if not job.days_pass(WEEK_AND_A_DAY)}
        days = {job_id: self._days_spared(self.jobs[job_id]) for job_id in due}
        spared = {job_id: number for job_id, number in days.items() if number is not None}
        gone = due - spared.keys()
        prune(self.server)
        batches.prune(self.server)
        self.jobs = {job_id: job for job_id, job in self.jobs.items() if job_id not in gone}
        for job_id, number in spared.items():
            self.jobs[job_id].days_left = number
        self.batches = {
            batch_id: batch
            for batch_id, batch in self.batches.items()
            if batch.parent not in gone and (not batch.is_expired or self.members(batch_id))
        }

    @rule()
    def promote(self):
        models.Job.objects.filter(state="scheduled").update(run_at=timezone.now() - HOUR)
        promote(self.server)
        for job in self.jobs.values():
            job.promoted()

    @invariant()
    def the_rows_agree_with_the_model(self):
        facts_of = ("state", "lease_epoch", "attempt", "interruptions", "crashes")
        others_of = ("cancel_requested_at", "held_by", "lease_expires_at", "finished_at", "delete_after")
        rows = list(models.Job.objects.values_list("id", "worker_id", *others_of, *facts_of))
        for (
            job_id,
            worker_id,
            cancelled_at,
            held_by,
            lease_expires_at,
            finished_at,
            delete_after,
            *facts,
        ) in rows:
            assert str(job_id) in self.jobs, "a job too many"
            job = self.jobs[str(job_id)]
            assert (*facts, cancelled_at is not None) == job.facts
            assert (held_by is not None) == (job.state == "held")
            assert (lease_expires_at is not None) == (job.holder is not None)
            assert (finished_at is not None) == (delete_after is not None) == job.is_finished
            if job.holder:
                assert worker_id == self._id_at_claim(job.holder)
        assert len(rows) == len(self.jobs)

    @invariant()
    def no_key_runs_more_often_than_its_limit(self):
        found = Counter(job.key for job in self.jobs.values() if job.holder and job.key)
        assert all(count <= LIMITS[key] for key, count in found.items())

    @invariant()
    def no_job_waits_for_an_event_that_workers_are_done_with(self):
        done = [key for key, is_delivered in self.events.items() if is_delivered]
        assert not any(job.state == "scheduled" and job.waits_for(*done, "") for job in self.jobs.values())

    # The parts.

    def using(self, task, queue, *, later=False, **options):
        run_after = timezone.now() + HOUR if later else None
        return task.using(queue_name=queue, run_after=run_after, dead_letter_queue="dead", **options)

    def note_enqueued(self, ids, queue, *, later=False, **facts):
        for job_id in ids:
            self.jobs[job_id] = Job("scheduled" if later else "ready", is_ahead=later, queue=queue, **facts)

    def running(self):
        return sorted(job_id for job_id, job in self.jobs.items() if job.holder)

    def members(self, batch_id):
        return {job_id: job for job_id, job in self.jobs.items() if job.batch == batch_id}

    def reopen(self, job):
        if job.batch in self.batches:
            self.batches[job.batch].reopened()

    def end(self, job_id, end):
        _, state, facts = ENDS[end]
        assert write(self.server, finish_of(job_id, self.jobs[job_id].lease_epoch, end)) == 1
        self.jobs[job_id].ended(state.value, **facts)

    def _days_spared(self, job):
        """For how many days it stays, since its batch is open, or another job reads its result, now or after a retry.
        0: for an hour; None: not longer. A reader that has not succeeded keeps it for a day at least."""
        if (batch := self.batches.get(job.batch)) is None:
            return None
        if not batch.is_finished:
            return 0
        readers = [self.jobs[each] for each in (batch.parent, *batch.sent.values()) if each in self.jobs]
        days = [each.days_left for each in readers if each.state != "succeeded"]
        return max((0 if each is None else max(each, 1) for each in days), default=None)

    def _is_limited(self, job):
        return job.key is not None or self.queues.get(job.queue, (None, False)) != (None, False)

    def _note_claimed(self, worker, claimed, free):
        for row in claimed:
            self.jobs[row.id].claimed(worker)
            assert row.lease_epoch == self.jobs[row.id].lease_epoch
            self.rows[row.id] = row
        assert len(claimed) <= free
        assert sum(row.crashes >= SUSPECT_FROM for row in claimed) <= 1

    def _held_by(self, worker):
        return {i: job for i, job in self.jobs.items() if job.holder and job.holder.worker == worker}

    def _id_at_claim(self, run) -> UUID:
        return self.claimers[run.worker].worker_id

    def _revive(self, worker):
        """A new process of that name: a fresh id, no floors, a fresh heartbeat."""
        self.claimers[worker] = by = claimer(worker_id=uuid4())
        self.limited[worker] = limited_claimer(worker_id=by.worker_id)
        make_worker(id=by.worker_id, name=worker)
