"""What the sessions do, as their scripts, and what has to be true after each order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

from pgonly_django.models import Job
from pgonly_django.queue.batches import close, sweep
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.queue.promote import promote
from pgonly_django.queue.rescue import rescue_known_dead
from pgonly_django.queue.waits import deliver
from pgonly_django.tasks.batches import callback
from tests.interleaving.sessions import Order
from tests.queue.rows import claim, claimer, make, make_worker, run, write

ROUNDS = 8
_numbers = itertools.count()


class Claimed(NamedTuple):
    job: ClaimedJob
    worker: UUID


class Scene:
    """Jobs of a queue of their own, and the workers that run them."""

    order: Order  # in which its scripts run

    def __init__(self, server: Any) -> None:
        self.server = server
        self.queue = f"queue {next(_numbers)}"
        self.dead: list[UUID] = []
        self.last_worker = make_worker().pk

    def make(self, task: Any, *args: Any, **facts: Any) -> Job:
        return make(task=f"{task.func.__module__}.{task.func.__name__}", args=args, queue=self.queue, **facts)

    def claimed(self, worker: UUID) -> list[Claimed]:
        return [Claimed(job, worker) for job in claim(self.server, claimer(self.queue, worker_id=worker))]

    def one_claimed(self, own: Any, worker: UUID) -> Any:
        found = claim(own, claimer(self.queue, worker_id=worker), 1)
        return Claimed(found[0], worker) if found else None

    def run(self, claimed: Claimed, own: Any) -> None:
        """Runs a job, and writes its end, as a worker does."""
        ended = run(*claimed)
        if ended.finish is not None and not ended.committed:
            write(own, ended.finish)

    def end(self, claimed: Claimed, own: Any) -> None:
        """Runs a member of a batch, and looks whether it was the last one."""
        self.run(claimed, own)
        close(own, [str(claimed.job.batch_id)], callback)

    def end_world(self, own: Any = None, worker: UUID | None = None) -> None:
        """Workers do what they do by themselves, until nothing is left for them."""
        own = own or self.server
        for each in self.dead:
            rescue_known_dead(own, each)
        for _ in range(ROUNDS):
            self.time_passes()
            closed = close(own, sweep(own).over, callback).batches
            done = [any(deliver(own)), promote(own)[0], closed]
            while claimed := self.one_claimed(own, worker or self.last_worker):
                done.append(True)
                self.run(claimed, own)
            if not any(done):
                break

    def time_passes(self) -> None:
        """What a scene wants to be over in each round."""

    def wrongs(self) -> Iterator[str]:
        """Lets the world come to its end. Yields what is wrong then."""
        raise NotImplementedError
