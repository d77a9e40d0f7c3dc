"""The jobs in flight: claimed by this process, with ends that are not yet written."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from pgonly_django.context.run import Run
from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.queue.finish import Finish
from pgonly_django.worker.ending import EndedRun, never_started
from pgonly_django.worker.exchange import ExchangeResult
from pgonly_django.worker.inbox import UnknownClaim
from pgonly_django.worker.timers import NEVER

# An end whose row was locked is tried again after half the time that the row has been locked, within these.
LOCKED_RETRY_SECONDS = (0.1, 1.0)


@dataclass(slots=True)
class Locked:
    """The time since when a row was found locked, and when to try again."""

    since: float
    retry_at: float


class InFlight:
    """The jobs in flight. Only the main loop changes it. Other threads may call held() and look whether a job is in
    `runs`. All times are time.monotonic()."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.ended: dict[str, EndedRun] = {}  # of these runs, those that are over here and not yet written
        # Still running here, though the job was lost, rescued and claimed again by us.
        self.superseded: list[Run] = []
        # Those that have emitted something: their threads put them in, worker/reports.py takes them out.
        self.emitting: set[Run] = set()
        self._suspects: set[Run] = set()
        self._heavy: dict[str, Run] = {}  # those that take up several slots
        self._of_batches: Counter[str] = Counter()  # how many are jobs of each batch
        self._unknown_claims: dict[str, Finish] = {}  # for rows in our name that we do not know
        self._locked: dict[str, Locked] = {}  # whose ends met a row that another transaction has locked

    def hold(self, runs: Iterable[Run]) -> None:
        """Adds claimed runs. A run of the same job that continues here has lost its lease."""
        for run in runs:
            job_id = run.job.id
            older = self.runs.get(job_id)
            if older is not None:
                older.lease_lost = True
                self._suspects.discard(older)
                if self.ended.pop(job_id, None) is None and not older.take():
                    self.superseded.append(older)
            self._unknown_claims.pop(job_id, None)
            self._locked.pop(job_id, None)
            run.emitting = self.emitting
            self.runs[job_id] = run
            if run.slots > 1:
                self._heavy[job_id] = run
            if older is None and run.job.batch_id is not None:
                self._of_batches[run.job.batch_id] += 1
            if run.job.crashes >= SUSPECT_FROM:
                self._suspects.add(run)

    def held(self) -> dict[str, Run]:
        return self.runs.copy()

    def end(self, ended: EndedRun) -> None:
        """Notes that the run has ended here; its finish has to be written."""
        self.ended[ended.run.job.id] = ended

    def release_unknown(self, claim: UnknownClaim) -> None:
        """Gives the job back, unless the run is known by now."""
        run = self.runs.get(claim.job_id)
        if run is None or run.job.lease_epoch != claim.lease_epoch:
            self._unknown_claims[claim.job_id] = never_started(claim.job_id, claim.lease_epoch)

    def finishes(self, now: float, under_way: Collection[str] = ()) -> list[Finish]:
        """Returns the finishes to write now. Those of jobs in `under_way` are being written already."""
        finishes = [ended.finish for ended in self.ended.values() if ended.finish is not None]
        finishes += self._unknown_claims.values()
        if under_way:
            finishes = [each for each in finishes if each.id not in under_way]
        return [each for each in finishes if self.is_due(each.id, now)] if self._locked else finishes

    def is_due(self, job_id: str, now: float) -> bool:
        """Returns whether the end of this job is not put off."""
        locked = self._locked.get(job_id)
        return locked is None or now >= locked.retry_at

    def settle(self, result: ExchangeResult) -> Iterator[EndedRun]:
        """Takes the results of the finishes. Yields each end that is written, or has `finish` None since the job was
        not ours any more; these have yet to be forgotten."""
        was_changed = bool(result.states or result.replaced)
        for job_id in result.finished:
            if self._unknown_claims:
                self._forget_unknown(job_id)
            ended = self.ended.get(job_id)
            if ended is not None:
                if was_changed and ended.finish is not None:
                    ended.finish = result.as_written(ended.finish)
                yield ended
        for finish in result.lost:
            self._forget_unknown(finish.id)
            ended = self.ended.get(finish.id)
            # A newer run of the job may have ended since: its own finish is still to be written.
            if ended is not None and ended.run.job.lease_epoch == finish.lease_epoch:
                yield EndedRun(ended.run, None)
        for finish in result.locked:
            self.put_off(finish.id)

    def put_off(self, job_id: str) -> None:
        """Called when the end of this job cannot be written now."""
        now, (shortest, longest) = time.monotonic(), LOCKED_RETRY_SECONDS
        locked = self._locked.setdefault(job_id, Locked(now, now))
        locked.retry_at = now + min(max((now - locked.since) / 2, shortest), longest)

    def forget(self, run: Run) -> None:
        """Forgets the job. A later run of it stays."""
        job_id = run.job.id
        self._suspects.discard(run)
        if self.runs.get(job_id) is run:
            del self.runs[job_id]
            self._heavy.pop(job_id, None)
            if run.job.batch_id is not None:
                self._of_batches -= Counter([run.job.batch_id])  # which keeps no zeros
            self.ended.pop(job_id, None)
            self._locked.pop(job_id, None)
        elif run in self.superseded:
            self.superseded.remove(run)

    def has_jobs_of(self, batch_id: str) -> bool:
        return batch_id in self._of_batches

    def forget_cleared(self) -> bool:
        """Forgets suspects that have saved something new. Returns whether there were any."""
        cleared = self._suspects and {run for run in self._suspects if run.saved_something_new}
        self._suspects -= cleared
        return bool(cleared)

    def going(self) -> list[Run]:
        """Returns the runs that have not ended here."""
        return [run for job_id, run in self.runs.items() if job_id not in self.ended] + self.superseded

    @property
    def slots_taken(self) -> int:
        """Returns the number of slots that are held, or waited for: an end that cannot be written yet takes none."""
        taken = len(self.runs) - len(self.ended)
        if self._heavy:
            taken += sum(
                run.slots - 1 for job_id, run in self._heavy.copy().items() if job_id not in self.ended
            )
        return taken

    def going_except(self, queues: Collection[str], short_seconds: float) -> int:
        """Returns the number of runs that have not ended here, without those of these queues which are short so far."""
        return sum(
            job_id not in self.ended and (run.job.queue not in queues or run.seconds > short_seconds)
            for job_id, run in self.runs.items()
        )

    @property
    def has_heavy(self) -> bool:
        """Whether a run occupies several slots. Beside it nothing is prefetched, or too many slots would be in use."""
        return bool(self._heavy)

    @property
    def has_suspect(self) -> bool:
        """Returns whether a job is among them that may have killed its workers, and has saved nothing new since."""
        return bool(self._suspects)

    @property
    def is_empty(self) -> bool:
        return not (self.runs or self._unknown_claims)

    @property
    def ids(self) -> list[str]:
        """Returns the jobs whose end, or release, is not in their row."""
        return list({**self.runs, **self._unknown_claims})

    def next_write(self, now: float) -> float:
        """Returns when there is something to write."""
        if any(job_id not in self._locked for each in (self.ended, self._unknown_claims) for job_id in each):
            return now
        return min((locked.retry_at for locked in self._locked.values()), default=NEVER)

    def _forget_unknown(self, job_id: str) -> None:
        if self._unknown_claims.pop(job_id, None) is not None:
            self._locked.pop(job_id, None)
