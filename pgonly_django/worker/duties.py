"""The duties of the maintenance thread.

To add a duty, make a class of Duty (worker/maintenance.py) and name it in `duties()`; for rows that only have to be
deleted, an entry of `PRUNES`. What has to be done on time is done elsewhere: worker/loop.py has the timers of the main
loop, and the heartbeat rescues when it learns that some lease has ended.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from django.db import connections, transaction

from pgonly_django.cache.prune import prunable_databases
from pgonly_django.cache.prune import prune_expired as prune_cache
from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.conf import settings
from pgonly_django.database import notify
from pgonly_django.database.connect import SET_LOCAL
from pgonly_django.events import emit
from pgonly_django.limits import expiry
from pgonly_django.limits.budget_settings import exact_names
from pgonly_django.limits.renewal import LEASE_SECONDS
from pgonly_django.models import Budget, CostEntry, Session
from pgonly_django.queue import batches, liveness, stats
from pgonly_django.queue.declared_queues import declare_queues
from pgonly_django.queue.failed_jobs import queues_with_unsent
from pgonly_django.queue.prune import prune as prune_jobs
from pgonly_django.queue.waits import prune_events
from pgonly_django.sessions import prune_expired as prune_sessions
from pgonly_django.tasks import PostgresBackend
from pgonly_django.tasks.failures import dead_letter_tasks, send_dead_letters
from pgonly_django.worker.inbox import LettersSent, Notification, Tell
from pgonly_django.worker.maintenance import (
    BATCH,
    BUSY_SECONDS,
    LOCK_WAIT,
    Duty,
    Maintenance,
    database_of,
    no_timeout,
    tried,
)
from pgonly_django.worker.timers import NEVER

WORKERS_FORGOTTEN_AFTER = timedelta(days=1)
KEPT_NAMED = 10


def duties() -> list[Duty]:
    pruning = [Pruning(name, prune) for name, prune in PRUNES.items()]
    return [SendDeadLetters(), *pruning, SettleBudgets(), Declare()]


class SendDeadLetters(Duty):
    """Tells the tasks of PGONLY["QUEUES"] of jobs that have failed, and this worker of the jobs that do so."""

    name, may_not_wait = "Sending dead letters", True

    def __init__(self) -> None:
        self.interval = BUSY_SECONDS if dead_letter_tasks() else Duty.interval
        self._warned: set[str] = set()

    def run_once(self, thread: Maintenance) -> int:
        waiting, known = queues_with_unsent(thread.alias), dead_letter_tasks()
        for queue in set(waiting) - known.keys() - self._warned:
            self._warned.add(queue)
            message = f'Dead letters of failed jobs wait: PGONLY["QUEUES"][{queue!r}] has no "task".'
            emit("queue.dead_letters_unsent", message, level=logging.WARNING, queue=queue)
        ours = [queue for queue in waiting if queue in known]
        return max(sum(self._send(queue, thread) for queue in ours), len(ours))

    def _send(self, queue: str, thread: Maintenance) -> int:
        send = partial(send_dead_letters, thread.alias, queue, BATCH)
        sent = tried(f"Sending dead letters to {queue!r}", partial(thread.in_batches, send))
        if sent:
            for kind in (notify.READY, notify.LIMITED):  # whichever claim takes them
                thread.tell(Notification(kind, queue))
        return sent


class DeadLettersWanted:
    """What the main loop knows of dead letters. A burst waits for the letters of its own failures, and runs them."""

    def __init__(self, maintenance: Maintenance, tell: Tell) -> None:
        self.maintenance = maintenance
        self.tell = tell
        self._wanted = self._sent = 0
        self._are_used = bool(dead_letter_tasks())

    def want(self) -> None:
        """Called when a job has failed."""
        if self._are_used:
            self._wanted += 1
            done = partial(self.tell, LettersSent(self._wanted))
            self.maintenance.run_soon(SendDeadLetters, done)

    def note_sent(self, number: int) -> None:
        self._sent = number

    @property
    def are_due(self) -> bool:
        return self._sent < self._wanted


class Pruning(Duty):
    """Deletes expired rows of one kind."""

    def __init__(self, name: str, prune: Callable[[Maintenance], int]) -> None:
        self.name, self._prune = name, prune

    def run_once(self, thread: Maintenance) -> int:
        return self._prune(thread)


def _forget_workers(thread: Maintenance) -> int:
    return liveness.forget(thread.connection(), WORKERS_FORGOTTEN_AFTER)


def _prune_jobs(thread: Maintenance) -> int:
    connection, deleted = thread.connection(), 0

    def prune_batch() -> int:
        nonlocal deleted
        pruned = prune_jobs(connection, BATCH)
        deleted += pruned.deleted
        if kept := pruned.kept:
            named = "; ".join(f"{job.id}: {job.reason}" for job in kept[:KEPT_NAMED])
            message = f"{len(kept)} finished job(s) cannot be deleted and are kept for a day more. {named}"
            emit("worker.jobs_kept", message, level=logging.WARNING, jobs=[job.id for job in kept])
        return pruned.found

    found = thread.in_batches(prune_batch)
    if deleted:
        message = f"{deleted} finished job(s) whose retention had ended were deleted."
        emit("worker.jobs_pruned", message, count=deleted)
    return found


def _prune_events(thread: Maintenance) -> int:
    return thread.in_batches(partial(prune_events, thread.connection(), BATCH))


def _prune_batches(thread: Maintenance) -> int:
    return thread.in_batches(partial(batches.prune, thread.connection()))


def _prune_job_stats(thread: Maintenance) -> int:
    return thread.in_batches(partial(stats.prune, thread.connection()))


def _prune_sessions(thread: Maintenance) -> int:
    """Deletes them where the router keeps them, which may be another database than that of the jobs."""
    alias = database_of(Session)
    count = _prune_on_django(alias, prune_sessions, thread)
    if count:
        emit("sessions.pruned", f"{count} expired sessions were deleted.", count=count, database=alias)
    return count


def _prune_caches(thread: Maintenance) -> int:
    aliases = sorted(prunable_databases(thread.alias))
    return sum(
        tried(f"Pruning the cache in {each!r}", partial(_prune_cache, each, thread)) for each in aliases
    )


def _prune_cache(alias: str, thread: Maintenance) -> int:
    count = _prune_on_django(alias, prune_cache, thread)
    if count:
        emit("cache.pruned", f"{count} expired entries of caches were deleted.", count=count, database=alias)
    return count


def _prune_costs(thread: Maintenance) -> int:
    return _prune_on_django(database_of(CostEntry), expiry.prune_costs, thread)


def _prune_on_django(alias: str | None, prune: Callable[[str, int], int], thread: Maintenance) -> int:
    """`alias` None: that database has no such table."""
    if alias is None:
        return 0
    with no_timeout(alias):
        return thread.in_batches(partial(prune, alias, BATCH))


# By the names of the duties, as their failures are logged.
PRUNES: dict[str, Callable[[Maintenance], int]] = {
    "Forgetting workers": _forget_workers,
    "Pruning jobs": _prune_jobs,
    "Pruning events": _prune_events,
    "Pruning batches": _prune_batches,
    "Pruning the statistics of jobs": _prune_job_stats,
    "Pruning sessions": _prune_sessions,
    "Pruning caches": _prune_caches,
    "Pruning costs": _prune_costs,
}


class SettleBudgets(Duty):
    """Counts reservations of dead processes as spent, and resumes the jobs of budgets that have room again."""

    name, may_not_wait = "Settling budgets", True

    def __init__(self, settle_seconds: float = LEASE_SECONDS) -> None:
        self._settle_seconds = settle_seconds

    def run_once(self, thread: Maintenance) -> int:
        """Returns more than 0 where jobs are held or calls are under way: then it comes again soon."""
        self.resets_in = None
        if (alias := database_of(Budget)) is None:
            return 0
        with no_timeout(alias):
            found = thread.in_batches(self._expire) + expiry.is_any_open()
            holding = expiry.holding_budgets(thread.alias)
            if holding:
                _resume(thread.alias, holding)
                if not found:
                    seconds = expiry.next_period_in_seconds(holding)
                    self.resets_in = NEVER if seconds is None else seconds
            return found + len(holding)

    def _expire(self) -> int:
        expired = expiry.expire(self._settle_seconds)
        for each in expired:
            _tell_expired(each)
        return len(expired)


def _resume(alias: str, names: list[str]) -> None:
    if count := expiry.resume_held(alias, names):
        message = f"{count} job(s) that a budget held continue: it has room again."
        emit("limits.jobs_resumed", message, jobs=count)


def _tell_expired(expired: expiry.ExpiredReservation) -> None:
    whose = f" for {expired.task} {expired.job_id}" if expired.job_id else ""
    was, why = (
        ("paid", "the step was saved") if expired.is_known else ("reserved", "the call may have been paid")
    )
    message = (
        f"{expired.usd} USD of budget {expired.budget!r} were {was}{whose} by a process that has ended. They count as "
        f"spent: {why}."
    )
    facts = {"budget": expired.budget, "usd": expired.usd, "job_id": expired.job_id and str(expired.job_id)}
    emit("limits.reservation_expired", message, level=logging.WARNING, **facts)


class Declare(Duty):
    """Repeats what the settings declare of queues and budgets: an older process may have said something else, and a
    declaration that no process confirms can be replaced by any. Budgets are in the admin before they are used."""

    name = "Declaring queues and budgets"

    def run_once(self, thread: Maintenance) -> int:
        tried("Declaring queues", partial(_declare_queues, thread.alias))
        tried("Declaring budgets", _declare_budgets)
        return 0


def _declare_queues(alias: str) -> None:
    with _declaring_in(alias):
        if declare(alias) and settings().queues:
            notify.wake_after_commit(alias, notify.limited(notify.ANY_QUEUE))


def _declare_budgets() -> None:
    if (alias := database_of(Budget)) is not None:
        with _declaring_in(alias):
            rows = {name: declaration.columns for name, declaration in exact_names().items()}
            Budget.objects.using(alias).declare(rows)


@contextmanager
def _declaring_in(alias: str) -> Iterator[None]:
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(SET_LOCAL, {"wait": LOCK_WAIT})
        yield


def declare(alias: str) -> int:
    """Declares queues: those of PGONLY["QUEUES"] with their limits, and all that TASKS names, so that the admin lists
    them. Returns how many rows are new or have changed. Raises ImproperlyConfigured, and django.db.Error."""
    backends = [backend for backend in map(_backend, task_backends) if backend is not None]
    names = {str(name) for backend in backends if backend.database == alias for name in backend.queues}
    was_open = connections[alias].connection is not None
    changed = declare_queues(alias, names)
    if not was_open:
        connections[alias].close()
    return changed


def _backend(alias: str) -> PostgresBackend | None:
    """Returns None for an entry in TASKS that is not ours or cannot be imported: no business of this worker."""
    try:
        backend = task_backends[alias]
    except InvalidTaskBackend:
        return None
    return backend if isinstance(backend, PostgresBackend) else None
