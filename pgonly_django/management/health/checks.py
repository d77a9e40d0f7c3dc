"""What `pgonly_health` looks at, and whether it is as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from pgonly_django.monitoring.workers import WorkerTotals, worker_totals
from pgonly_django.queue import health
from pgonly_django.wording import duration


@dataclass(frozen=True)
class Limits:
    """None: it is shown, and not judged."""

    min_workers: int = 1
    max_worker_age: timedelta | None = None  # None: as the admin has it
    max_oldest_ready: timedelta | None = None
    max_latency: timedelta | None = None
    max_failed: int | None = None
    within: timedelta = timedelta(minutes=15)


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    text: str  # for people
    value: float | None  # seconds, or a number; what the limit is for
    limit: float | None
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        del facts["text"], facts["facts"]
        return {**facts, **self.facts}


def examine(alias: str, limits: Limits, queues: Sequence[str] = ()) -> list[Check]:
    """Raises django.db.Error."""
    oldest = health.oldest_waiting(alias, queues)
    began = health.latency(alias, limits.within, queues, before=oldest.job_id if oldest else None)
    return [
        of_workers(worker_totals(alias, queues, limits.max_worker_age), limits.min_workers),
        of_oldest(oldest, limits.max_oldest_ready),
        of_latency(began, limits),
        of_failures(health.failures(alias, limits.within, queues), limits),
    ]


def of_workers(found: WorkerTotals, min_workers: int) -> Check:
    text = f"{found.live} live"
    if found.newest_heartbeat_seconds is not None:
        text += f", the last heartbeat {duration(found.newest_heartbeat_seconds)} ago"
    if found.silent:
        text += f"; {found.silent} silent"
    is_ok = found.live >= min_workers
    return Check(
        "workers", is_ok, text + _unless(is_ok, f"at least {min_workers}"), found.live, min_workers,
        {"silent": found.silent, "newest_heartbeat_seconds": found.newest_heartbeat_seconds},
    )  # fmt: skip


def of_oldest(found: health.Waiting | None, limit: timedelta | None) -> Check:
    seconds = found.seconds if found else 0.0
    text = f"{duration(seconds)} in the queue {found.queue}" if found else "no job waits"
    facts = {"queue": found.queue if found else None, "job": found and found.job_id and str(found.job_id)}
    return _of_seconds("oldest_ready", seconds, limit, text, facts)


def of_latency(found: health.Latency | None, limits: Limits) -> Check:
    within = duration(limits.within)
    if found is None:
        return _of_seconds("latency", None, limits.max_latency, f"no run began within {within}", {"jobs": 0})
    p50, p95, longest = (duration(seconds) for seconds in found[1:])
    text = f"p95 {p95}, p50 {p50}, longest {longest}, of {_counted(found.jobs, 'run')} within {within}"
    return _of_seconds("latency", found.p95_seconds, limits.max_latency, text, found._asdict())


def of_failures(failed: int, limits: Limits) -> Check:
    limit, within = limits.max_failed, limits.within
    is_ok = limit is None or failed <= limit
    text = f"{failed} within {duration(within)}" + _unless(is_ok, f"at most {limit}")
    return Check("failures", is_ok, text, failed, limit, {"within_seconds": within.total_seconds()})


def _of_seconds(
    name: str, seconds: float | None, limit: timedelta | None, text: str, facts: dict[str, Any]
) -> Check:
    most = None if limit is None else limit.total_seconds()
    is_ok = most is None or seconds is None or seconds <= most
    return Check(name, is_ok, text + _unless(is_ok, f"at most {duration(limit or 0)}"), seconds, most, facts)


def _unless(is_ok: bool, wanted: str) -> str:
    return "" if is_ok else f" ({wanted})"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
