"""Finds the task of a job, and the options of its run."""

import inspect
from dataclasses import dataclass
from typing import Any

from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.options import TaskOptions, restored
from pgonly_django.tasks.registry import UnfitArgumentsError, UnknownTaskError, backend_of, find_task


@dataclass(frozen=True, slots=True)
class FoundTask:
    """A task as its jobs were enqueued, with what each of its runs needs."""

    task: Any
    backend: Any
    options: TaskOptions
    is_async: bool


class TaskLookup:
    """Keeps each task that it has found. Others are looked up again: the code may come with a deploy."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str, int], FoundTask] = {}
        self.missing: set[str] = set()  # no task is at these paths, or was when it was last looked for

    def known(self, job: ClaimedJob) -> FoundTask | None:
        """Returns the job's task, if it was found before, so that nothing is left to import."""
        return self._found.get((job.task, job.backend, job.queue, job.priority))

    def find(self, job: ClaimedJob) -> FoundTask:
        """Imports the task's module, which may raise anything. Raises UnknownTaskError."""
        key = (job.task, job.backend, job.queue, job.priority)
        if (known := self._found.get(key)) is not None:
            return known
        try:
            task = find_task(*key)
        except UnknownTaskError:
            self.missing.add(job.task)
            raise
        self.missing.discard(job.task)
        backend = backend_of(task)
        is_async = inspect.iscoroutinefunction(task.func)
        found = self._found[key] = FoundTask(task, backend, backend.options_of(task), is_async)
        return found

    def is_async(self, job: ClaimedJob) -> bool:
        """Returns whether the job's function is a coroutine function; False where its task cannot be found or set up,
        which the run then fails with."""
        try:
            return self.find(job).is_async
        except BaseException:  # noqa: BLE001 - code of the project is imported, which may even exit
            return False

    def options_of(self, job: ClaimedJob) -> TaskOptions:
        """Returns the options of the job; the built-in ones where they are not known."""
        try:
            return options_of(self.find(job), job)
        except BaseException:  # noqa: BLE001 - whatever is wrong with them, the row gets its end
            return TaskOptions()

    def misfit(self, job: ClaimedJob) -> UnfitArgumentsError | None:
        """Returns an error if the job was enqueued for other parameters than the task has. Asked after a TypeError."""
        task = self.find(job).task
        try:
            call_signature(task.func, task.takes_context).check(job.args, job.kwargs or {})
        except WrongArgumentsError as error:
            return UnfitArgumentsError(str(error))
        return None


def options_of(found: FoundTask, job: ClaimedJob) -> TaskOptions:
    """Raises UnknownTaskError where the job's own backoff cannot be imported."""
    if job.options is None:
        return found.options
    try:
        overrides = restored(job.options)
    except ImportError as error:
        raise UnknownTaskError(f"{job.task}: its backoff cannot be imported: {error}") from error
    options: TaskOptions = found.backend.options_of(found.task, overrides)
    return options
