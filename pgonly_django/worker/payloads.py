"""Who of a worker learns of a NOTIFY, and of what its own threads say in the same form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgonly_django.database import notify
from pgonly_django.worker.claiming import PollTimer, Promotion
from pgonly_django.worker.connection import ALL
from pgonly_django.worker.duties.dead_letters import LETTERS_SENT, DeadLettersWanted
from pgonly_django.worker.following import FailureCalls, FinishedSignals
from pgonly_django.worker.heartbeat import RESCUED_FAILED, RESCUED_FINISHED
from pgonly_django.worker.limited_claims import LimitedClaims
from pgonly_django.worker.maintenance import CALM, HELD, NEEDED
from pgonly_django.worker.scheduler import Scheduler
from pgonly_django.worker.sleep import Sleep
from pgonly_django.worker.stopping import REQUESTED, StopRequests
from pgonly_django.worker.watchdog import CancelRequests

# For this worker alone: anything may have been said; it ends once its jobs are finished.
WAKE, RETIRE = "wake", "retire"


class Payloads:
    """For the main loop alone. A payload is a kind and, behind a space, a name."""

    def __init__(
        self, queues: Sequence[str], *, sleep: Sleep, poll_timer: PollTimer,
        limited: LimitedClaims, promotion: Promotion, cancel_requests: CancelRequests, scheduler: Scheduler,
        stop_requests: StopRequests, dead_letters: DeadLettersWanted, failure_calls: FailureCalls,
        finished_signals: FinishedSignals, retire: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._queues, self.sleep = queues, sleep
        self.poll_timer, self.limited, self.promotion = poll_timer, limited, promotion
        self.dead_letters, self.failure_calls = dead_letters, failure_calls
        self._takers: dict[str, Callable[[str], None]] = {
            notify.READY: self._take_ready,
            notify.LIMITED: self._take_limited,
            notify.DUE: self._take_due,
            notify.CANCEL: lambda _: cancel_requests.hear_cancel(),
            notify.SCHEDULES: lambda _: scheduler.hear_changed(),
            notify.WORKER: stop_requests.hear,
            REQUESTED: stop_requests.take,
            RESCUED_FAILED: self._take_failed,
            LETTERS_SENT: lambda number: dead_letters.note_sent(int(number)),
            WAKE: self._take_all,
            RETIRE: retire,
            RESCUED_FINISHED: finished_signals.send_for_row,
            CALM: lambda _: sleep.note_checked(is_calm=True),
            NEEDED: lambda _: sleep.note_checked(is_calm=False),
            HELD: lambda seconds: sleep.note_checked(is_calm=True, resets_in=float(seconds)),
        }

    def take(self, payload: str) -> None:
        """One that is unknown, from a newer worker or another program, is left out."""
        kind, _, name = payload.partition(" ")
        taker = self._takers.get(kind)
        if taker is not None:
            taker(name)

    def _take_all(self, _: str) -> None:
        for payload in ALL:
            self.take(payload)

    def _is_ours(self, queue: str) -> bool:
        return not self._queues or queue == notify.ANY_QUEUE or queue in self._queues

    def _take_ready(self, queue: str) -> None:
        if self._is_ours(queue):
            self.sleep.hear()
            self.limited.hear(notify.READY, queue)
            self.poll_timer.hear_ready()

    def _take_limited(self, queue: str) -> None:
        if self._is_ours(queue):
            self.sleep.hear()
            self.limited.hear(notify.LIMITED, queue)

    def _take_due(self, _: str) -> None:
        self.sleep.hear()
        self.promotion.hear_due()

    def _take_failed(self, job_id: str) -> None:
        """A job of a dead worker, which we have rescued."""
        self.dead_letters.want()
        self.failure_calls.call_later(job_id)
