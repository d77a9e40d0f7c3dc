"""Makes what is written of a run that is over: the state after it, and the entry in the job's errors."""

import json
from dataclasses import dataclass
from typing import Any

from pgonly_django.conf import LONGEST
from pgonly_django.context.run import Run
from pgonly_django.database.statement import printable
from pgonly_django.models.job import HELD_BY_LENGTH, State
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.worker.tracebacks import formatted, path_of, text_of

TRACEBACK_LIMIT = 20_000
MESSAGE_LIMIT = 2_000


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    id: str
    name: str


def finish(
    run: Run, outcome: Outcome, state: State, worker: WorkerFacts,
    *, delay: float | None = None, free: bool = False, error: BaseException | None = None, reason: str = "",
    **facts: str | float,
) -> Finish:  # fmt: skip
    """`free`: it costs no attempt. `facts` stand in the entry, beside what is said of every run."""
    entry: dict[str, Any] = {"outcome": outcome.value, "worker_id": worker.id, "worker": worker.name, **facts}
    if reason:
        entry["reason"] = printable(reason[:MESSAGE_LIMIT])[:MESSAGE_LIMIT]
    if error is not None:
        entry |= {
            "exception": printable(path_of(error)),
            "message": printable(text_of(error)[:MESSAGE_LIMIT])[:MESSAGE_LIMIT],
            "traceback": printable(_shortened(formatted(error))),
        }
    seconds = min(delay or 0.0, LONGEST.total_seconds()) if state is State.SCHEDULED else None
    return Finish(
        run.job.id, run.job.lease_epoch, outcome, state,
        delay_seconds=seconds, entry=json.dumps(entry), costs_attempt=not free,
    )  # fmt: skip


def _shortened(text: str) -> str:
    """The beginning and the end, where the cause is."""
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n[... {len(text) - TRACEBACK_LIMIT} characters left out ...]\n{text[-half:]}"


def held(run: Run, worker: WorkerFacts, by: str, reason: str, error: BaseException | None = None) -> Finish:
    """The job waits for a person, at no cost."""
    ended = finish(run, Outcome.HELD, State.HELD, worker, free=True, reason=reason, error=error)
    ended.held_by = printable(str(by))[:HELD_BY_LENGTH]
    return ended
