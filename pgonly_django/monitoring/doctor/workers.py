"""Workers: whether one lives, and which are silent."""

from __future__ import annotations

from collections.abc import Iterator

from pgonly_django.conf import settings
from pgonly_django.models import Job, Worker
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import belongs_to
from pgonly_django.monitoring.doctor.reading import reading
from pgonly_django.monitoring.doctor.words import counted, database_flag, named
from pgonly_django.monitoring.workers import WorkerFigures, workers
from pgonly_django.wording import duration


def examine_workers(alias: str) -> Iterator[Finding]:
    """D121: no worker is live. D122: one is silent. D123: they are of several versions."""
    if not belongs_to(alias, Worker):
        return
    with reading(alias):
        found, has_jobs = workers(alias), Job.objects.using(alias).exists()
    live = [each for each in found if each.is_live]
    if not live:
        yield _none(alias, has_jobs=has_jobs)
    for each in found:
        if not each.is_live:
            yield _silent(each, live)
    versions = sorted({each.row.version or "0.1.0 or older" for each in live})
    if len(versions) > 1:
        yield Finding(
            id="D123",
            level=Level.INFO,
            fact=f"Live workers are of {len(versions)} versions: {named(versions)}.",
            advice="That is as it should be during a deploy. Else restart those of the older version.",
            data={"versions": versions},
        )


def _none(alias: str, *, has_jobs: bool) -> Finding:
    """Where there never was a job, the database may be that of a cache alone."""
    return Finding(
        id="D121",
        level=Level.WARNING if has_jobs else Level.INFO,
        fact="No worker is live." if has_jobs else "No worker is live, and there is no job.",
        advice=f"manage.py runworker{database_flag(alias)} (docs/how-to/deploy.md)",
    )


def _silent(worker: WorkerFigures, live: list[WorkerFigures]) -> Finding:
    silent = worker.silent_for.total_seconds()
    jobs = f"holds {counted(len(worker.jobs), 'job')}" if worker.jobs else "holds no job"
    level = Level.INFO
    if worker.jobs:
        level = Level.WARNING if silent < settings().lease_seconds and live else Level.ERROR
    return Finding(
        id="D122",
        level=level,
        fact=f"The worker {worker.row.name} ({worker.row.hostname}, process {worker.row.pid}) has been silent for "
        f"{duration(silent)} and {jobs}.",
        advice=f"Look at process {worker.row.pid} on {worker.row.hostname} and at its log."
        + (" A live worker takes its jobs over when their leases end." if worker.jobs else "")
        + ("" if live else " None is live: start one."),
        data={
            "worker": worker.row.name, "hostname": worker.row.hostname, "pid": worker.row.pid,
            "silent_seconds": silent, "jobs": [str(job.pk) for job in worker.jobs],
        },
    )  # fmt: skip
