"""The backend with what Django's tests ask of Django's two: to look at what was enqueued, and to run it at once."""

from __future__ import annotations

from pgonly_django.models import Job
from pgonly_django.tasks import PostgresBackend
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.worker import WorkerLoop


class Kept(PostgresBackend):
    """In the place of Django's DummyBackend."""

    @property
    def results(self):
        return [self.get_result(str(job.pk)) for job in Job.objects.order_by("pk")]

    def clear(self):
        Job.objects.all().delete()


class RunAtOnce(PostgresBackend):
    """In the place of Django's ImmediateBackend: a real worker has run the job when enqueue() returns."""

    def enqueue(self, task, args, kwargs):
        result = super().enqueue(task, args, kwargs)
        WorkerLoop(WorkerOptions(burst=True, threads=1)).run()
        result.refresh()
        return result
