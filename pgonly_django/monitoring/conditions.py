"""The table of conditions of queues, workers, jobs and transactions, and their judges.

Each condition is judged here, with one threshold, for all that report it: the overview of the admin, the doctor,
`pgonly_health` and the health checks. Conditions that only the doctor reports are in `doctor/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from pgonly_django.conf import settings
from pgonly_django.monitoring.findings import Condition, Finding, Level, database_flag
from pgonly_django.monitoring.queues import Counted, QueueFigures, capped
from pgonly_django.monitoring.snapshots import OldSnapshot
from pgonly_django.monitoring.workers import Served, WorkerFigures
from pgonly_django.wording import duration

MINUTE, HOUR, DAY = 60, 3600, 86_400
WAITS_READ = 100

NO_WORKER = Condition(
    "D121",
    Level.WARNING,
    "No worker is live.",
    "manage.py runworker{_database} (docs/how-to/deploy.md)",
    limit=1,  # this many are enough
)
# A worker that is just being replaced, or a tick, may take a job so late.
QUEUE_UNSERVED = Condition(
    "D111",
    Level.ERROR,
    _("No live worker serves “{queue}”: {_waiting}."),
    "Start one: manage.py runworker --queues {queue}{_database}",
    limit=15,
)
QUEUES_UNSERVED = Condition(
    "D111",
    Level.ERROR,
    _("No worker is live: {_jobs} jobs wait in {queues} queues, the oldest for {oldest_seconds:time}."),
    "Start one: manage.py runworker{_database}",
)
QUEUE_LATE = Condition(
    "D112",
    Level.WARNING,
    "In the queue “{queue}” {_waiting}; {_running} run.",
    "Start more workers, or raise runworker --threads. If its jobs wait for a limit of the queue, of a key or of a "
    "limiter, that limit is what to raise: the page of a job in the admin says what it waits for.",
    limit=5 * MINUTE,
    error_from=HOUR,
    measure="oldest_seconds",
)
QUEUE_PAUSED = Condition(
    "D113",
    Level.INFO,
    _("The queue “{queue}” has been paused since {_since}: {_waiting}."),
    "manage.py pgonly_jobs resume {queue}{_database}",
)
WAITS_FORGOTTEN = Condition(
    "D114",
    Level.WARNING,
    "{_jobs} for an event without a deadline for more than 7 d{_oldest}: {keys:names}.",
    "Answer it in the admin or with send_event(), or cancel its job: manage.py pgonly_jobs cancel {job}{_database}. "
    "A timeout of wait_for_event() tells the job when no answer comes.",
    limit=7 * DAY,  # as the words say
)
TAKEN_OVER = _("Another worker takes over when their leases end")
NOT_TAKEN_OVER = _("No worker is live that could take over")
WORKER_SILENT = Condition(
    "D122",
    Level.INFO,
    _(
        "The worker {worker} ({hostname}, process {pid}) has been silent for {silent_seconds:time} and {_holds}."
    ),
    "Look at process {pid} on {hostname} and at its log.{_start}",
)
OLD_SNAPSHOT = Condition(
    "D021",
    Level.WARNING,
    _("A transaction has been open for {seconds:time} and keeps vacuum from removing dead rows: {_who}."),
    "{_end}SELECT pg_terminate_backend({pid});",
    limit=5 * MINUTE,
    error_from=HOUR,
)
NOTIFY_LOST = Condition(
    "D061",
    Level.WARNING,
    "A NOTIFY that was sent on {sent_on!r} was not heard on {listened_on!r}: {_why}. Workers look for jobs every 2 s "
    "instead, and a cancel waits as long.",
    "{_remedy}",
    limit=2.0,  # as in a worker's own test
)
JOBS_FAILED = Condition("", Level.ERROR, _("{_jobs} of {task} failed ({error}), {_last}{seconds:ago}."))
JOBS_RETRIED = Condition(
    "",
    Level.WARNING,
    _("{task}: {_jobs} for another attempt; {attempts} of {max_attempts} are used."),
    limit=3,  # failures of these jobs together
)
BUDGET_HOLDS = Condition("", Level.WARNING, _("The budget “{name}” holds {_jobs}."))
SCHEDULE_FAILS = Condition("", Level.ERROR, _("The schedule “{name}” could not enqueue its job: {problem}"))
LIMITER_COOLS_DOWN = Condition(
    "", Level.WARNING, _("The limiter “{name}” cools down for another {seconds:time}.")
)


def of_queues(queues: Iterable[QueueFigures], served: Served, alias: str = "default") -> Iterator[Finding]:
    """Yields at most one finding for each queue in which jobs wait; without any worker one for all."""
    waiting = [queue for queue in queues if queue.waiting.number or queue.oldest_seconds]
    waits_long = [each for each in waiting if (each.oldest_seconds or 0) >= QUEUE_UNSERVED.limit]
    unserved = [each for each in waits_long if each.paused_at is None and not served.has(each.name)]
    is_none_live = not served.all and not served.names and len(unserved) > 1
    if is_none_live:
        yield _of_all(unserved, alias)
    for queue in waiting:
        if (since := queue.paused_at) is not None:
            local = timezone.localtime(since) if timezone.is_aware(since) else since
            yield _of_queue(QUEUE_PAUSED, queue, alias, _since=f"{local:%Y-%m-%d %H:%M:%S}")
        elif queue in unserved:
            if not is_none_live:
                yield _of_queue(QUEUE_UNSERVED, queue, alias)
        elif (queue.oldest_seconds or 0) >= QUEUE_LATE.limit:
            yield _of_queue(QUEUE_LATE, queue, alias, _running=queue.running.label)


def of_waits(waits: Sequence[Any], alias: str = "default") -> Iterator[Finding]:
    """Yields one finding for all of them, of which the oldest is the first."""
    for oldest in waits[:1]:
        jobs, seconds = capped(len(waits), WAITS_READ), (oldest.now - oldest.began_at).total_seconds()
        yield WAITS_FORGOTTEN.finding(
            waits=jobs.number,
            seconds=seconds,
            keys=[wait.key for wait in waits],
            job=str(oldest.job_id),
            _jobs=ngettext("%s job waits", "%s jobs wait", jobs.number) % jobs.label,
            _oldest=f", the oldest for {duration(int(seconds))}" if jobs.number > 1 else "",
            _database=database_flag(alias),
        )


def _of_queue(condition: Condition, queue: QueueFigures, alias: str, **more: Any) -> Finding:
    waiting = ngettext("%s job waits", "%s jobs wait", queue.waiting.number) % queue.waiting.label
    if queue.oldest_seconds is not None:
        facts = {"jobs": waiting, "time": duration(int(queue.oldest_seconds))}
        texts = "%(jobs)s, for %(time)s", "%(jobs)s, the oldest for %(time)s"
        waiting = ngettext(*texts, queue.waiting.number) % facts
    return condition.finding(
        about=queue,
        queue=queue.name,
        waiting=queue.waiting.number,
        running=queue.running.number,
        oldest_seconds=queue.oldest_seconds,
        _waiting=waiting,
        _database=database_flag(alias),
        **more,
    )


def _of_all(queues: Sequence[QueueFigures], alias: str) -> Finding:
    jobs = Counted(
        sum(queue.waiting.number for queue in queues), any(queue.waiting.has_more for queue in queues)
    )
    return QUEUES_UNSERVED.finding(
        queues=len(queues),
        waiting=jobs.number,
        oldest_seconds=max(queue.oldest_seconds or 0 for queue in queues),
        _jobs=jobs.label,
        _database=database_flag(alias),
    )


def of_workers(workers: Sequence[WorkerFigures]) -> Iterator[Finding]:
    """Yields findings about silent workers. One that holds jobs is a warning until its lease ends and another one may
    take them."""
    is_one_live = any(worker.is_live for worker in workers)
    for worker in workers:
        if not worker.is_live:
            yield _silent(worker, is_one_live=is_one_live)


def _silent(worker: WorkerFigures, *, is_one_live: bool) -> Finding:
    seconds, count, level = worker.silent_for.total_seconds(), len(worker.jobs), Level.INFO
    holds = gettext("holds no job")
    if count:
        level = Level.WARNING if is_one_live and seconds < settings().lease_seconds else Level.ERROR
        holds = ngettext("holds %d job", "holds %d jobs", count) % count
        holds += ". " + (TAKEN_OVER if is_one_live else NOT_TAKEN_OVER)
    return WORKER_SILENT.finding(
        level=level,
        about=worker,
        worker=worker.row.name,
        hostname=worker.row.hostname,
        pid=worker.row.pid,
        silent_seconds=seconds,
        jobs=[str(job.pk) for job in worker.jobs],
        _holds=holds,
        _start="" if is_one_live else " None is live: start one.",
    )


def of_snapshots(snapshots: Iterable[OldSnapshot], alias: str = "default") -> Iterator[Finding]:
    for each in snapshots:
        yield OLD_SNAPSHOT.finding(
            about=each,
            pid=each.pid,
            seconds=each.seconds,
            application_name=each.application_name,
            state="idle in transaction" if each.is_idle else "active",
            worker=each.worker,
            jobs=[{"id": str(job.pk), "task": job.task} for job in each.jobs],
            _who=_holder(each),
            _end=_how_to_end(each, alias),
        )


def _holder(snapshot: OldSnapshot) -> str:
    """Names the jobs of which one holds it, and the process of the server."""
    session = gettext("process %(pid)s of the server (%(name)s)") % {
        "pid": snapshot.pid,
        "name": (snapshot.application_name or gettext("no application_name"))
        + (gettext(", which waits for its client") if snapshot.is_idle else ""),
    }
    if not snapshot.jobs:
        return session
    tasks = " or ".join(f"{job.task} (job {job.pk})" for job in snapshot.jobs)
    facts = {"tasks": tasks, "worker": snapshot.worker, "session": session}
    return gettext("%(tasks)s of the worker %(worker)s, %(session)s") % facts


def _how_to_end(snapshot: OldSnapshot, alias: str) -> str:
    if len(snapshot.jobs) != 1:
        return "If it was forgotten, end it: "
    cancel = f"manage.py pgonly_jobs cancel {snapshot.jobs[0].pk}{database_flag(alias)}"
    return f"Let the task commit more often. To stop it now: {cancel}, and if it does not end: "
