"""The backend with what Django's tests ask of Django's two: to look at what was enqueued, and to run it at once."""

from __future__ import annotations

from dataclasses import fields, replace

from django.db.models.functions import Now

from pgonly_django.compat import TaskResult, TaskResultStatus
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.tasks import PostgresBackend
from pgonly_django.tasks.result import JobResult
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions


class OneAttempt(PostgresBackend):
    """Runs a task once, as Django's backends do, without an entry in OPTIONS: some of the tests want none there."""

    def options_of(self, task):
        return replace(super().options_of(task), max_attempts=1)


class Kept(OneAttempt):
    """In the place of Django's DummyBackend."""

    @property
    def results(self):
        return [OfARow(self.get_result(str(job.pk))) for job in Job.objects.order_by("pk")]

    def clear(self):
        Job.objects.all().delete()


class OfARow(JobResult):
    """DummyBackend keeps its results as objects, so a test that changes one changes what refresh() finds. Here the
    status of a result is set in its row."""

    def __init__(self, result):
        vars(self).update(vars(result))

    def __eq__(self, other):
        names = [*(field.name for field in fields(TaskResult)), "attempts"]
        return [getattr(self, name) for name in names] == [getattr(other, name) for name in names]

    __hash__ = None

    @property
    def status(self):
        return vars(self)["status"]

    @status.setter
    def status(self, status):
        assert status is TaskResultStatus.SUCCESSFUL
        self._rows.update(state=State.SUCCEEDED, finished_at=Now())


class RunAtOnce(OneAttempt):
    """In the place of Django's ImmediateBackend: a real worker has run the job when enqueue() returns."""

    def enqueue(self, task, args, kwargs):
        result = super().enqueue(task, args, kwargs)
        WorkerLoop(WorkerOptions(burst=True, threads=1)).run()
        result.refresh()
        if any(error.exception_class is KeyboardInterrupt for error in result.errors):
            raise KeyboardInterrupt  # ended the job and not its worker; in the caller's thread it would have gone on
        return result
