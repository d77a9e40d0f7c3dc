"""Waits: what the sessions do, as their scripts, and what has to be true after each order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db import OperationalError, transaction
from psycopg.errors import SerializationFailure

from pgonly_django import send_event, task
from pgonly_django.exceptions import EventTimeout
from pgonly_django.models import Event, Job, State, Wait
from pgonly_django.queue.promote import promote
from pgonly_django.queue.rescue import rescue_known_dead
from pgonly_django.queue.waits import deliver, prune_events
from tests.interleaving.scenes import Scene
from tests.interleaving.sessions import Session
from tests.queue.rows import HOUR, ago, fresh, make_worker
from tests.sql import sql

TIMED_OUT = "timed out"
_heard: dict[str, list[Any]] = defaultdict(list)  # by the key: what each run of a job was told


@task(takes_context=True)
def ask(context, key, timeout):
    try:
        answer = context.wait_for_event(key, timeout)
    except EventTimeout:
        answer = TIMED_OUT
    _heard[key].append(answer)
    return answer


class Asking(Scene):
    """A job that begins to wait for an event."""

    is_cancelled = False

    def __init__(
        self, server: Any, *, timeout: float | None = None, keep: timedelta = HOUR, isolation: str = ""
    ) -> None:
        super().__init__(server)
        self.key, self.keep, self.isolation = self.queue, keep, isolation
        self.job = self.make(ask, self.key, timeout)
        (self.first_run,) = self.claimed(make_worker().pk)
        self.counted: list[object] = []  # the payloads of the senders that were told that theirs counts

    def answered(self) -> Asking:
        """After its event was sent."""
        self._send("a")
        return self

    def parked(self, *, is_due: bool = False) -> Asking:
        """After its job has left its run. `is_due`: when its deadline has come."""
        self.run(self.first_run, self.server)
        if is_due:
            Wait.objects.filter(job=self.job).update(until=ago(HOUR))
            Job.objects.filter(pk=self.job.pk).update(run_at=ago(HOUR))
        return self

    # The scripts.

    def ask(self, session: Session) -> None:
        self.run(self.first_run, session.own)

    def send(self, session: Session) -> None:
        self._send("a")

    def send_too(self, session: Session) -> None:
        self._send("b")

    def _send(self, payload: str) -> None:
        try:
            with transaction.atomic():
                if self.isolation:
                    sql(f"SET TRANSACTION ISOLATION LEVEL {self.isolation}")
                    sql("SELECT count(*) FROM pgonly_event")  # takes the snapshot
                counts = send_event(self.key, payload, keep=self.keep)
        except OperationalError as error:
            if not isinstance(error.__cause__, SerializationFailure):
                raise
            self._send(payload)  # as whoever uses such a level has to
        else:
            self.counted += [payload] * counts

    def send_and_deliver(self, session: Session) -> None:
        self._send("a")
        deliver(session.own)

    def deliver(self, session: Session) -> None:
        deliver(session.own)

    def prune(self, session: Session) -> None:
        prune_events(session.own)

    def wake_when_due(self, session: Session) -> None:
        """The deadline of a parked job has come, and a worker wakes it."""
        promote(session.own)

    def hold_and_resume(self, session: Session) -> None:
        jobs = Job.objects.filter(pk=self.job.pk)
        jobs.hold()
        jobs.resume()

    def hold_in_vain(self, session: Session) -> None:
        with transaction.atomic():
            Job.objects.filter(pk=self.job.pk).hold()
            session.stop("ROLLBACK")
            transaction.set_rollback(True)

    def cancel(self, session: Session) -> None:
        Job.objects.filter(pk=self.job.pk).cancel()
        self.is_cancelled = True

    def die(self, session: Session) -> None:
        """The worker of the job dies, and another one finds its jobs."""
        session.stop("KILL")
        self.order.by_name["ask"].kill()
        self.dead.append(self.first_run.worker)
        rescue_known_dead(session.own, self.first_run.worker)

    # What is true in the end.

    def wrongs(self) -> Iterator[str]:
        self.end_world()
        event = Event.objects.filter(key=self.key).first()
        if len(self.counted) > 1:
            yield f"{self.counted} count, each for its sender"
        if event is not None and self.counted != [event.payload]:
            yield f"{self.counted} was told that it counts, and {event.payload!r} does"
        job = fresh(self.job)
        if self.is_cancelled and (job.lease_epoch > 1 or not job.is_finished):
            yield f"the job was cancelled, and is {job.state} in its run {job.lease_epoch}"
        if event is not None and not job.is_finished:
            yield f"its event was sent, and the job is {job.state} forever"
        if event is not None and not event.is_delivered:
            yield "its event stays undelivered"
        if job.is_finished and job.state != State.CANCELLED:
            yield from self._wrong_answers(job, event)
        if not job.is_finished and event is None:
            if self.counted and not self._was_pruned_before_it_waited:
                yield "the job waited, and its event was deleted"
            yield from self._wrong_later()

    @property
    def _was_pruned_before_it_waited(self) -> bool:
        """Whether nobody waited when the pruner looked: then the event was kept as long as was asked."""
        steps = self.order.steps
        return ("ask", "COMMIT") in steps and steps.index(("ask", "COMMIT")) > min(
            place for place, (name, _) in enumerate(steps) if name == "prune"
        )

    def _wrong_answers(self, job: Job, event: Event | None) -> Iterator[str]:
        heard = _heard[self.key]
        if job.state != State.SUCCEEDED or len(set(heard)) != 1 or job.result != heard[0]:
            yield f"the job is {job.state} with {job.result!r}, and was told {heard}"
        if event is not None and heard[0] not in (event.payload, TIMED_OUT):
            yield f"the job was told {heard[0]!r}, and the answer is {event.payload!r}"

    def _wrong_later(self) -> Iterator[str]:
        """A job that waits on gets the answer that comes later."""
        send_event(self.key, "late")
        self.end_world()
        if fresh(self.job).result != "late":
            yield f"the job is {fresh(self.job).state} and does not hear what is sent later"
