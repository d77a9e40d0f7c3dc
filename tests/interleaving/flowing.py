"""A job of a sleep, an event, a gather and a job after it, by one worker that does everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pgonly_django import send_event, task
from pgonly_django.models import Job, JobBatch, State, Wait
from tests.interleaving.batching import on_finish, succeed
from tests.interleaving.scenes import Scene
from tests.interleaving.sessions import Session
from tests.queue.rows import fresh, make_worker

_paid: Counter[str] = Counter()


@task(takes_context=True)
def flow(context, key):
    context.step("pay", _paid.update, [key])
    context.sleep("a while", 3600)
    answer = context.wait_for_event(key)
    results = context.gather("one", [succeed.using(queue_name=key).bind()])
    return [answer, results]


class Flowing(Scene):
    def __init__(self, server: Any) -> None:
        super().__init__(server)
        then = on_finish.using(queue_name=self.queue)
        self.job = flow.using(queue_name=self.queue, then=then).enqueue(self.queue).job
        self.worker = make_worker().pk
        send_event(self.queue, "yes")

    def work(self, session: Session) -> None:
        self.end_world(session.own, self.worker)

    def die(self, session: Session) -> None:
        session.stop("KILL")
        self.order.by_name["work"].kill()
        self.dead.append(self.worker)

    def time_passes(self) -> None:
        for statement in (
            "UPDATE pgonly_wait SET until = began_at WHERE until IS NOT NULL",
            "UPDATE pgonly_job SET run_at = enqueued_at WHERE state = 'scheduled' AND run_at < now() + '1 day'",
        ):
            self.server.execute(statement)

    def wrongs(self) -> Iterator[str]:
        self.end_world()
        job, jobs = fresh(self.job), Job.objects.filter(queue=self.queue)
        if job.result != ["yes", [None]]:
            yield f"the job is {job.state} with {job.result!r}"
        tasks = sorted(path.rpartition(".")[2] for path in jobs.values_list("task", flat=True))
        if tasks != ["flow", "on_finish", "succeed"] or jobs.exclude(state=State.SUCCEEDED).exists():
            yield f"the jobs are {list(jobs.values_list('task', 'state'))}"
        batches = JobBatch.objects.filter(parent=self.job, closes=1)
        if batches.count() != 1 or Wait.objects.filter(job=self.job).exists():
            yield f"{batches.count()} batches, or a wait is left"
        if _paid[self.queue] > 1 + self.was_killed_before_it_saved:
            yield f"the job has paid {_paid[self.queue]} times"

    @property
    def was_killed_before_it_saved(self) -> bool:
        """Whether the first step was not committed: then it is paid for again."""
        done = [at for name, at in self.order.steps if name == "work"]
        saves = [place for place, at in enumerate(done) if "INSERT INTO pgonly_step" in at]
        return saves in ([], [len(done) - 1])
