"""Random lives of jobs and batches: the SQL has to agree with the model at every step."""

from __future__ import annotations

import contextvars
import json
from contextlib import nullcontext
from itertools import cycle

import pytest
from django.db import transaction
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from pgonly_django import Batch, FailedJob, models, task
from pgonly_django.current_job import current_job
from pgonly_django.exceptions import BatchFinishedError
from pgonly_django.queue.batches import close, sweep
from pgonly_django.tasks.batches import callback
from tests.properties import model
from tests.properties.life import QUEUES, WORKERS, Life
from tests.properties.model import ENDS, live
from tests.queue.rows import run, run_of, write
from tests.tasks.calls import add

pytestmark = pytest.mark.slow

CALLBACKS = ("on_success", "on_failure", "on_finish")
MEMBER_ENDS = ("succeed", "fail", "retry")
ATTEMPTS = 2  # of a job that gathers
ROUNDS = 20  # of the workers, after which everything has ended


@task(takes_context=True, max_attempts=ATTEMPTS)
def gather(context, size, failed, queue):
    member = add.using(queue_name=queue, dead_letter_queue="dead")
    results = context.gather("all", [member.bind(place) for place in range(size)], failed=failed)
    return [[each.id, each.state] if isinstance(each, FailedJob) else each for each in results]


class LifeInBatches(Life):
    # What people do, and jobs.

    @rule(
        callbacks=st.sets(st.sampled_from(CALLBACKS), min_size=1),
        size=st.integers(0, 3),
        queue=st.sampled_from(QUEUES),
        later=st.booleans(),
    )
    def make_batch(self, callbacks, size, queue, later):
        calls = {name: self.using(add, "x").bind(name) for name in callbacks}
        with Batch(**calls) as batch:
            self._add(batch, size, queue, later=later)
        self.batches[batch.id] = model.Batch(tuple(callbacks))

    @rule(data=st.data(), size=st.integers(1, 2), by_member=st.booleans())
    @precondition(lambda self: self._filled())
    def add_members(self, data, size, by_member):
        """A member of the batch adds them, if one runs, or other code does. A worker looks before the commit."""
        batch = Batch.get(data.draw(st.sampled_from(self._filled())))
        if by_member:
            self._claim_all()
        running = [job_id for job_id in self.running() if self.jobs[job_id].batch == batch.id]
        it = self.batches[batch.id]
        is_refused = it.is_finished or it.is_cancelled
        with pytest.raises(BatchFinishedError) if is_refused else nullcontext(), transaction.atomic():
            if by_member and running:
                contextvars.copy_context().run(self._add_as, running[0], batch, size)
            else:
                self._add(batch, size, "x")
            assert not close(self.server, [batch.id], callback).batches

    @rule(data=st.data())
    @precondition(lambda self: self._retryable())
    def retry_member(self, data):
        self._retry(data.draw(st.sampled_from(self._retryable())))

    @rule(data=st.data())
    @precondition(lambda self: self.batches)
    def cancel_batch(self, data):
        self._cancel(data.draw(st.sampled_from(sorted(self.batches))))

    # What workers do.

    @rule(
        size=st.integers(0, 2),
        failed=st.sampled_from(["raise", "return"]),
        queue=st.sampled_from(QUEUES),
        data=st.data(),
    )
    def gather(self, size, failed, queue, data):
        """A job begins to gather others, or a later run of it looks for their results."""
        if not self._gathering():
            job = self.using(gather, "x").enqueue(size, failed, queue)
            self.note_enqueued([job.id], "x", gathers=failed)
            self.claim("a", 3, from_head=True)
        if self._gathering():
            self._run(data.draw(st.sampled_from(self._gathering())))

    @rule(data=st.data(), rounds=st.lists(st.lists(st.sampled_from(MEMBER_ENDS), min_size=1), min_size=2))
    @precondition(lambda self: self.batches)
    def run_members(self, data, rounds):
        """Those that can be claimed run and end, and a worker looks. Before the next round failed ones are retried."""
        batch_id = data.draw(st.sampled_from(sorted(self.batches)))
        self._run_members(batch_id, rounds)

    @rule(
        callbacks=st.sets(st.sampled_from(CALLBACKS), min_size=1), last=st.sampled_from(["succeed", "fail"])
    )
    def end_twice(self, callbacks, last):
        """A new batch ends, is retried, and ends again, unless other jobs are claimed before its members."""
        self.limit("x", None, paused=False)
        self.make_batch(callbacks, 2, "x", later=False)
        self._run_members(list(self.batches)[-1], [["succeed", "fail"], [last]])

    @rule(data=st.data())
    @precondition(lambda self: self.batches)
    def look(self, data):
        self._close([data.draw(st.sampled_from(sorted(self.batches)))])

    @rule()
    def sweep(self):
        left = {batch_id: it for batch_id, it in self.batches.items() if not it.is_finished}
        cancelled = {job_id for job_id, job in self.jobs.items() if job.state == "cancelled"}
        swept = sweep(self.server)
        assert set(swept.over) == {batch_id for batch_id in left if self._is_over(batch_id)}
        assert set(swept.orphaned) == {
            batch_id for batch_id, it in left.items() if not it.is_cancelled and it.parent in cancelled
        }
        assert swept.some_open == bool(left)
        for batch_id in swept.orphaned:
            self._cancel(batch_id)
        self._close(swept.over)

    @rule()
    def everything_comes_to_an_end(self):
        """Once nothing stands in the way, no job and no batch is left unfinished, and all callbacks are enqueued."""
        for queue in QUEUES:
            self.limit(queue, None, paused=False)
        for job_id, job in self.jobs.items():
            if job.state == "held":
                models.Job.objects.filter(pk=job_id).resume()
                job.resumed()
        for _ in range(ROUNDS + len(self.jobs)):
            if self._has_ended():
                break
            self._finish_all_that_run()
            self.sweep()
            self.deliver()
            self.promote()
            self._claim_all()
        assert self._has_ended()
        for batch_id, it in self.batches.items():
            assert not it.due(has_failed=self._has_failed(batch_id))

    @invariant()
    def the_batches_agree_with_the_model(self):
        columns = "pk", "finished_at", "cancelled_at", "closes", "sent"
        assert {
            str(pk): (finished_at is not None, cancelled_at is not None, closes, sent)
            for pk, finished_at, cancelled_at, closes, sent in models.JobBatch.objects.values_list(*columns)
        } == {batch_id: it.facts for batch_id, it in self.batches.items()}

    @invariant()
    def no_finished_batch_has_an_unfinished_member(self):
        finished = [batch_id for batch_id, it in self.batches.items() if it.is_finished]
        assert all(job.is_finished for job in self.jobs.values() if job.batch in finished)

    # The parts.

    def _filled(self):
        return sorted(batch_id for batch_id, it in self.batches.items() if it.parent is None)

    def _retryable(self, batch_id=None):
        of = [batch_id] if batch_id else self.batches
        over = ("failed", "cancelled")
        return sorted(job_id for job_id, job in self.jobs.items() if job.batch in of and job.state in over)

    def _retry(self, job_id):
        """A worker looks before the commit."""
        with transaction.atomic():
            assert models.Job.objects.filter(pk=job_id).retry() == 1
            assert not close(self.server, [self.jobs[job_id].batch], callback).batches
        self.reopen(self.jobs[job_id])
        self.jobs[job_id].retried()

    def _gathering(self):
        return [job_id for job_id in self.running() if self.jobs[job_id].gathers]

    def _is_over(self, batch_id):
        return not self.batches[batch_id].is_finished and all(
            job.is_finished for job in self.members(batch_id).values()
        )

    def _has_failed(self, batch_id):
        return any(job.state in ("failed", "cancelled") for job in self.members(batch_id).values())

    def _has_ended(self):
        return all(each.is_finished for each in [*self.jobs.values(), *self.batches.values()])

    def _add(self, batch, size, queue, *, later=False):
        member = self.using(add, queue, later=later)
        results = batch.enqueue_many([member.bind(place) for place in range(size)])
        self.note_enqueued([each.id for each in results], queue, later=later, batch=batch.id)

    def _add_as(self, job_id, batch, size):
        """As the code of this member does."""
        current_job.set(run_of(self.rows[job_id]))
        assert Batch.current().id == batch.id
        self._add(Batch.current(), size, "x")

    def _cancel(self, batch_id):
        assert Batch.get(batch_id).cancel() == sum(
            not job.is_finished for job in self.members(batch_id).values()
        )
        it = self.batches[batch_id]
        it.is_cancelled = it.is_cancelled or not it.is_finished
        for job in self.members(batch_id).values():
            job.cancelled()

    def _close(self, ids):
        over = {batch_id: self._has_failed(batch_id) for batch_id in ids if self._is_over(batch_id)}
        assert close(self.server, ids, callback).batches == over
        for batch_id, has_failed in over.items():
            it = self.batches[batch_id]
            it.closed()
            sent = models.JobBatch.objects.get(pk=batch_id).sent
            due = it.due(has_failed=has_failed)
            assert set(sent) == {*it.sent, *due}
            self.note_enqueued([sent[name] for name in due], "x")
            it.sent = sent
            if it.parent is not None:
                self.events[it.key_of_its_end(batch_id)] = False

    def _run(self, job_id):
        """A run of a job that gathers."""
        finish = run(self.rows[job_id]).finish
        if not (mine := [batch_id for batch_id, it in self.batches.items() if it.parent == job_id]):
            mine = [self._note_gathered(job_id)]
        end, results = self._end_of_gather(job_id, *mine)
        outcome, state, facts = ENDS[end]
        assert (finish.outcome, finish.state) == (outcome, state)
        assert json.loads(finish.result or "null") == results
        assert write(self.server, finish) == 1
        self.jobs[job_id].ended(state.value, **facts)

    def _note_gathered(self, job_id):
        row = models.JobBatch.objects.get(parent=job_id)
        for pk, args, queue in models.Job.objects.filter(batch_id=row.pk).values_list("pk", "args", "queue"):
            self.note_enqueued([str(pk)], queue, batch=str(row.pk), place=args[0])
        self.batches[str(row.pk)] = model.Batch(parent=job_id, size=row.size, is_finished=row.size == 0)
        return str(row.pk)

    def _end_of_gather(self, job_id, batch_id):
        job, it = self.jobs[job_id], self.batches[batch_id]
        if not it.is_finished:
            job.waits[it.key_of_its_end(batch_id, it.closes + 1)] = job.lease_epoch
            return "wait", None
        job.waits.pop(it.key_of_its_end(batch_id), None)
        members = sorted(self.members(batch_id).items(), key=lambda item: item[1].place)
        raises = job.gathers == "raise" and self._has_failed(batch_id)
        if raises or len(members) != it.size:
            return "fail" if job.attempt >= ATTEMPTS else "retry", None
        return "succeed", [i if each.state == "succeeded" else [i, each.state] for i, each in members]

    def _run_members(self, batch_id, rounds):
        for ends in rounds:
            for job_id in self._retryable(batch_id):
                self._retry(job_id)
            self.promote()
            self._claim_all()
            for (job_id, job), end in zip(self.members(batch_id).items(), cycle(ends), strict=False):
                if job.holder:
                    self.end(job_id, end)
            self._close([batch_id])

    def _claim_all(self):
        for worker in WORKERS:
            self.claim(worker, 3, from_head=True)
            self.claim_limited(worker, 3)

    def _finish_all_that_run(self):
        for job_id in self.running():
            self._run(job_id) if self.jobs[job_id].gathers else self.end(job_id, "succeed")


@pytest.mark.django_db(transaction=True)
def test_every_life_of_a_job_follows_the_model(settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": "tests.jobs.burying.note"}}}
    live(LifeInBatches, examples=40, steps=36)
