"""The job that a log line belongs to. LOGGING may name JobFilter: nothing here needs the apps to be loaded."""

from __future__ import annotations

import logging
from typing import Any

from pgonly_django.current_job import CurrentJob, current_job

OUTSIDE = {"job_id": "-", "task": "-", "attempt": "-", "worker": "-"}


def facts_of(run: CurrentJob) -> dict[str, Any]:
    """Returns what JobFilter says of a job, for `extra`."""
    job = run.job
    return {"job_id": job.id, "task": job.task, "attempt": job.attempt, "worker": run.worker}


class JobFilter(logging.Filter):
    """Adds `job_id`, `task`, `attempt` and `worker` to each record: those of the job whose code logs it, and "-"
    outside of jobs.

    It is a filter for handlers, since a filter of a logger does not see the records that other loggers pass on to it.
    Attributes that a record has already stay. It lets every record through.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        run = current_job.get()
        for name, value in (OUTSIDE if run is None else facts_of(run)).items():
            record.__dict__.setdefault(name, value)
        return True
