"""Takes the jobs of dead workers back, after ending the transactions that those have open."""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta

from psycopg import errors

from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.models.job import FINISHED, State
from pgonly_django.queue.rescue import Rescued, end_transactions, rescue
from pgonly_django.worker.job_stats import JobStats
from pgonly_django.worker.options import WorkerOptions

# Payloads for one worker alone, with the id of a job: it has failed, so that on_failure and dead letters are due; it is
# finished, and task_finished is due.
RESCUED_FAILED, RESCUED_FINISHED = "rescued-failed", "rescued-finished"


def emit_rescued(rescued: Iterable[Rescued]) -> None:
    for job in rescued:
        message = (
            f"{job.task} {job.id} of the dead worker {job.worker} is {job.state} (crashes: {job.crashes})."
        )
        level = logging.ERROR if job.state == State.FAILED else logging.WARNING
        emit("queue.rescued", message, level=level, job_id=str(job.id), task=job.task, state=job.state)


def payloads_for_all(rescued: Collection[Rescued]) -> list[str]:
    """What every worker is notified of."""
    payloads = {notify.ready(job.queue) for job in rescued if job.state == State.READY}
    if rescued:  # also one that has failed leaves room behind
        payloads.add(notify.limited(notify.ANY_QUEUE))
    return sorted(payloads)


def payloads_for_one(rescued: Collection[Rescued]) -> list[str]:
    """What one worker does for the others."""
    finished = [f"{RESCUED_FINISHED} {job.id}" for job in rescued if job.state in FINISHED]
    return finished + [f"{RESCUED_FAILED} {job.id}" for job in rescued if job.state == State.FAILED]


class Rescue:
    """After a time without contact to the database the other workers may have been cut off as well, and be about to
    return. No worker is declared dead for half a lease then, as after the start of the server.
    """

    def __init__(self, options: WorkerOptions, tell: Callable[[str], None], stats: JobStats) -> None:
        self.options = options
        self.stats = stats
        self.tell = tell
        self._contact_at: float | None = None
        self._settled_at = 0.0
        self._ends_of_any_role = True

    @property
    def _settle_for(self) -> timedelta:
        return self.options.lease_for / 2

    def note_contact(self) -> None:
        """The database answers. Call it before and after each beat: one that hung is a time without contact."""
        now = time.monotonic()
        if self._contact_at is not None and now - self._contact_at > self._settle_for.total_seconds():
            self.wait_until_settled()
        self._contact_at = now

    def forget_contact(self) -> None:
        """There will be none for a while, and nothing follows from that."""
        self._contact_at = None

    def wait_until_settled(self) -> None:
        self._settled_at = time.monotonic() + self._settle_for.total_seconds()

    def run_once(self, connection: OwnConnection) -> int:
        if time.monotonic() < self._settled_at:
            return 0
        self._end_transactions(connection)
        rescued = rescue(connection, self.options.lease_for, self._settle_for)
        emit_rescued(rescued)
        self.stats.count_rescued(rescued)
        for payload in payloads_for_one(rescued):
            self.tell(payload)
        for payload in payloads_for_all(rescued):
            notify.send(connection, payload)
            self.tell(payload)
        return len(rescued)

    def _end_transactions(self, connection: OwnConnection) -> None:
        """See queue.rescue. Transactions of roles that may not be ended here keep no others from being ended."""
        terms = (connection, self.options.lease_for, self._settle_for)
        try:
            ended = end_transactions(*terms, of_any_role=self._ends_of_any_role)
        except errors.InsufficientPrivilege as error:
            self._ends_of_any_role = False
            message = f"What dead workers have open as another role keeps its locks: {str(error).strip()}"
            emit("worker.transactions_not_ended", message, level=logging.WARNING)
            ended = end_transactions(*terms, of_any_role=False)
        for worker_id, pid in ended:
            message = f"Ended the transaction that the dead worker {worker_id} had open (process {pid} of the server)."
            emit(
                "worker.transaction_ended", message, level=logging.WARNING, worker_id=str(worker_id), pid=pid
            )
