"""gather(): a job enqueues others, waits until they have ended, and gets their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from asgiref.sync import sync_to_async

from pgonly_django.context.leaving import Leaving
from pgonly_django.exceptions import GatherError, WrongArgumentsError
from pgonly_django.models.job import Job, State
from pgonly_django.queue import batches, waits
from pgonly_django.queue.batches import Gathered
from pgonly_django.queue.checkpoints import check_step_name
from pgonly_django.queue.enqueue import Members

PAGE = 1000
COLUMNS = ("pk", "state", "result", "task", "errors")
IfFailed = Literal["raise", "return"]
MemberCalls = Iterable[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class FailedJob:
    """Stands, where gather() returns them, for the result of a job that has failed or was cancelled."""

    id: str
    task: str
    state: str
    reason: str  # of its last error

    def __str__(self) -> str:
        return f"{self.task} {self.id} {self.state}: {self.reason or 'no reason is known'}"


class Gathering(Leaving):
    """The part of the job context by which a job waits for others."""

    # Makes members of calls, in the database of an alias; None: without a worker.
    _members: Callable[[MemberCalls, str], Members] | None

    def gather(self, name: str, calls: MemberCalls, *, failed: IfFailed = "raise") -> list[Any]:
        """Enqueues many calls as jobs of a batch, lets this job wait until all have ended, and returns what they have
        returned, in the order of the calls.

            rows = context.gather("papers", [screen.bind(pk) for pk in pks])

        The calls, of which each is one that enqueue_many() takes, are enqueued once in the life of the job, all in one
        transaction; a later run takes the jobs that are there, whatever its `calls` are. `name` is unique in the job.
        The job waits as sleep() does. When it is cancelled, so are they.

        Where some have failed or were cancelled, it raises GatherError after all have ended, with `failed="return"` it
        returns a FailedJob in the place of each. A later run reads the results again, so it sees what a retry has
        changed, and waits where one is unfinished again. Raises what sleep() and enqueue_many() raise, OptionError for
        unique tasks, and GatherError where some of the jobs were deleted."""
        _check(name, failed)
        self._begin()
        gathered = self._begun(name, calls)
        while not gathered.is_finished:
            self._wait(_wait_for(gathered))
            gathered = self._ended(name, gathered)
        return self._results(name, gathered, failed)

    async def agather(self, name: str, calls: MemberCalls, *, failed: IfFailed = "raise") -> list[Any]:
        """See gather()."""
        _check(name, failed)
        await self._abegin()
        gathered = await sync_to_async(self._begun)(name, calls)
        while not gathered.is_finished:
            await self._await(_wait_for(gathered))
            gathered = await sync_to_async(self._ended)(name, gathered)
        return await sync_to_async(self._results)(name, gathered, failed)

    def _begun(self, name: str, calls: MemberCalls) -> Gathered:
        with self._calls.around():
            if (found := self._memory.find_batch(name)) is not None:
                return found
            assert self._members is not None
            return self._memory.begin_batch(name, self._members(calls, self._run.alias))

    def _ended(self, name: str, before: Gathered) -> Gathered:
        """Returns how the batch stands after it has ended once more. A retry may have opened it since."""
        with self._calls.around():
            gathered = self._memory.find_batch(name)
        if gathered is None or gathered.closes <= before.closes:
            raise GatherError(name, "it was not the end of its batch that has answered for it")
        return gathered

    def _results(self, name: str, gathered: Gathered, failed: IfFailed) -> list[Any]:
        with self._calls.around():
            results = [_result_of(*row) for row in self._rows(gathered.batch_id)]
        if len(results) != gathered.size:
            raise GatherError(name, f"{gathered.size - len(results):,} of its jobs were deleted")
        gone = [each for each in results if isinstance(each, FailedJob)] if failed == "raise" else []
        if gone:
            what = f"{len(gone):,} of its {len(results):,} jobs have not succeeded: {gone[0]}"
            raise GatherError(name, what, gone)
        return results

    def _rows(self, batch_id: str) -> Iterator[tuple[Any, ...]]:
        """Yields the members in the order of their enqueue, and waits for the database while it is down."""
        alias = self._run.alias
        jobs = Job.objects.using(alias).filter(batch_id=batch_id).order_by("pk").values_list(*COLUMNS)
        page: list[tuple[Any, ...]] = self._memory.read(alias, partial(list, jobs[:PAGE]))
        while page:
            yield from page
            page = self._memory.read(alias, partial(list, jobs.filter(pk__gt=page[-1][0])[:PAGE]))


def _check(name: str, failed: str) -> None:
    check_step_name(name)
    if failed not in ("raise", "return"):
        raise WrongArgumentsError("gather()", f'failed must be "raise" or "return", got {failed!r}')


def _wait_for(gathered: Gathered) -> waits.NewWait:
    key = batches.end_of(gathered.batch_id, gathered.closes + 1)
    return waits.for_event(key, None, (), "", keeps_key=False)


def _result_of(pk: Any, state: str, result: Any, task: str, errors: list[dict[str, Any]]) -> Any:
    if state == State.SUCCEEDED:
        return result
    last = errors[-1] if errors else {}
    reason = last.get("message") or last.get("reason") or ""
    return FailedJob(str(pk), task, str(state), f"{last.get('exception', '')} {reason}".strip())
