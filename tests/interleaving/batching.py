"""Batches: what the sessions do, as their scripts, and what has to be true after each order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pgonly_django import Batch, task
from pgonly_django.exceptions import BatchFinishedError
from pgonly_django.models import Job, JobBatch, State
from pgonly_django.queue.batches import close, sweep
from pgonly_django.queue.enqueue import OF_BATCH
from pgonly_django.queue.rescue import rescue_known_dead
from pgonly_django.tasks.batches import callback
from tests.interleaving.scenes import Scene
from tests.interleaving.sessions import Session
from tests.queue.rows import fresh, make_worker


@task
def succeed(): ...


@task(takes_context=True, max_attempts=1)
def fail_in_the_first_run(context):
    if context._run.job.lease_epoch == 1:
        raise ValueError


@task(takes_context=True)
def gather(context, queue):
    return context.gather("one", [succeed.using(queue_name=queue).bind()])


@task
def on_success(): ...


@task
def on_failure(): ...


@task
def on_finish(): ...


class Batching(Scene):
    """A batch of two members, the first of which runs. `fails`: it has failed. The second one runs unless `waits`."""

    is_cancelled = is_retried = False

    def __init__(self, server: Any, *, fails: bool = False, waits: bool = False) -> None:
        super().__init__(server)
        calls = {each.func.__name__: self.of(each) for each in (on_success, on_failure, on_finish)}
        tasks = [self.of(fail_in_the_first_run if fails else succeed), self.of(succeed)]
        with Batch(**calls) as batch:
            batch.enqueue_many([each.bind() for each in tasks])
        self.batch = Batch.get(batch.id)
        self.added: list[str] = []
        self.first_run = self.one_claimed(server, make_worker().pk)
        if fails:
            self.run(self.first_run, server)
        self.second_run = None if waits else self.one_claimed(server, make_worker().pk)

    def of(self, of_task: Any) -> Any:
        return of_task.using(queue_name=self.queue)

    # The scripts.

    def first(self, session: Session) -> None:
        self.end(self.first_run, session.own)

    def second(self, session: Session) -> None:
        self.end(self.second_run, session.own)

    def start_second(self, session: Session) -> None:
        if claimed := self.one_claimed(session.own, self.last_worker):
            self.end(claimed, session.own)

    def sweep(self, session: Session) -> None:
        close(session.own, sweep(session.own).over, callback)

    def die(self, session: Session) -> None:
        """The worker of the second member dies; another one sweeps."""
        session.stop("KILL")
        self.order.by_name["second"].kill()
        self.dead.append(self.second_run.worker)
        self.sweep(session)

    def add(self, session: Session) -> None:
        with suppress(BatchFinishedError):
            self.added.append(self.batch.enqueue(self.of(succeed)).id)

    def retry(self, session: Session) -> None:
        self.batch.jobs.failed().retry()
        self.is_retried = True

    def cancel(self, session: Session) -> None:
        self.batch.cancel()
        self.is_cancelled = True

    # What is true in the end.

    def wrongs(self) -> Iterator[str]:
        for name, claimed in (("first", self.first_run), ("second", self.second_run)):
            if name not in self.order.by_name and claimed:
                self.run(claimed, self.server)
        self.end_world()
        row = JobBatch.objects.get(pk=self.batch.id)
        members = list(self.batch.jobs)
        states = [str(job.state) for job in members]
        callbacks = Job.objects.filter(enqueued_by=f"{OF_BATCH}{self.batch.id}")
        times = Counter(path.rpartition(".")[2] for path in callbacks.values_list("task", flat=True))
        if row.closes > 1 and not self.is_retried:
            yield f"the batch was closed {row.closes} times"
        if row.finished_at is None:
            yield f"the batch is open forever; its members are {states}"
        if not all(job.is_finished for job in members):
            yield f"the batch has finished, and its members are {states}"
        if row.finished_at and any(job.finished_at and job.finished_at > row.finished_at for job in members):
            yield "the batch has finished before a member"
        owed = "on_success" if set(states) == {State.SUCCEEDED} else "on_failure"
        if times[owed] != 1 or times["on_finish"] != 1 or any(count > 1 for count in times.values()):
            yield f"its members are {states}, and what was enqueued is {dict(times)}"
        if self.is_cancelled and any(str(job.pk) in self.added and job.attempt for job in members):
            yield "a member that was added to a cancelled batch has run"


class Gathering(Scene):
    """A job that gathers the result of another one."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self.job = self.make(gather, self.queue)
        self.parent_run = self.one_claimed(server, make_worker().pk)

    def gather(self, session: Session) -> None:
        self.run(self.parent_run, session.own)

    def member(self, session: Session) -> None:
        """A worker runs the member, if it is there."""
        if claimed := self.one_claimed(session.own, self.last_worker):
            self.end(claimed, session.own)

    def die(self, session: Session) -> None:
        session.stop("KILL")
        self.order.by_name["gather"].kill()
        rescue_known_dead(session.own, self.parent_run.worker)

    def wrongs(self) -> Iterator[str]:
        self.end_world()
        job, row = fresh(self.job), JobBatch.objects.get(parent=self.job)
        if job.result != [None]:
            yield f"the job is {job.state} with {job.result!r}"
        if row.closes != 1 or Job.objects.filter(queue=self.queue).count() != 2:
            yield f"its batch was closed {row.closes} times"
