"""Several waits of one job: what the sessions do, as their scripts, and what has to be true after each order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pgonly_django import send_event, task
from pgonly_django.models import Event, State, Wait
from pgonly_django.queue import waits
from pgonly_django.queue.rescue import rescue_known_dead
from pgonly_django.queue.waits import deliver
from tests.interleaving.scenes import Scene
from tests.interleaving.sessions import Session
from tests.queue.rows import fresh, make_worker

_heard: dict[str, list[Any]] = defaultdict(list)  # by the queue: what each run of a job was told


@task(takes_context=True)
def ask_first(context, queue):
    answer = list(context.wait_for_first({f"{queue} a": None, f"{queue} b": None}))
    _heard[queue].append(answer)
    context.step("go on", str)
    return answer


@task(takes_context=True)
def look_again(context, queue):
    """As a run that waits beside a step: it looks once more before it leaves."""
    wait = wait_for_a(context, queue)
    found = context._memory.look_for(wait)
    if found.answer is None:
        found = context._memory.look_again(wait)
    context._run.end_wait(wait)
    answer = (
        context.wait_for_event(f"{queue} a") if found.answer is None else waits.payload_in(found.answer, "a")
    )
    _heard[queue].append(answer)
    context.step("go on", str)
    return answer


@task(takes_context=True)
def give_up(context, queue):
    """As a run in which the await of the first wait is cancelled: it withdraws that, and waits for another one."""
    wait = wait_for_a(context, queue)
    found = context._memory.look_for(wait)
    context._run.end_wait(wait)
    if found.answer is None:
        context._memory.withdraw(wait)
    _heard[queue].append("run")
    return context.wait_for_event(f"{queue} b")


def wait_for_a(context, queue):
    return context._run.begin_wait([waits.for_event(f"{queue} a", None, (), "", keeps_key=False)])


class AskingSeveral(Scene):
    def __init__(self, server: Any, of_task: Any) -> None:
        super().__init__(server)
        self.job = self.make(of_task, self.queue)
        (self.first_run,) = self.claimed(make_worker().pk)

    # The scripts.

    def ask(self, session: Session) -> None:
        self.run(self.first_run, session.own)

    def send_a(self, session: Session) -> None:
        send_event(f"{self.queue} a", "of a")
        deliver(session.own)

    def send_b(self, session: Session) -> None:
        send_event(f"{self.queue} b", "of b")
        deliver(session.own)

    def die(self, session: Session) -> None:
        session.stop("KILL")
        self.order.by_name["ask"].kill()
        self.dead.append(self.first_run.worker)
        rescue_known_dead(session.own, self.first_run.worker)

    # What is true in the end.

    def wrongs(self) -> Iterator[str]:
        self.end_world()
        job, heard = fresh(self.job), _heard[self.queue]
        if "send_b" not in self.order.by_name and self.job.task.endswith("give_up"):
            yield from self._wrongs_without_an_answer(job)
        elif job.state != State.SUCCEEDED:
            yield f"its event was sent, and the job is {job.state} forever"
        elif job.result not in (["of a", "of b"] if isinstance(job.result, str) else self._pairs):
            yield f"the job was told {job.result!r}"
        if any(each != heard[0] for each in heard):
            yield f"the job was told {heard}, one after the other"
        if job.is_finished and Wait.objects.filter(job=job).exists():
            yield "a wait of the job is left"
        if Event.objects.filter(key__startswith=self.queue, is_delivered=False).exists():
            yield "an event stays undelivered"

    @property
    def _pairs(self) -> list[list[str]]:
        return [[f"{self.queue} {key}", f"of {key}"] for key in "ab"]

    def _wrongs_without_an_answer(self, job: Any) -> Iterator[str]:
        """Nobody has answered what the job waits for in the end."""
        has_died = "die" in self.order.by_name
        if job.state != State.SCHEDULED or job.lease_epoch > 1 + has_died:
            yield f"the job was woken for nothing: it is {job.state} in its run {job.lease_epoch}"
