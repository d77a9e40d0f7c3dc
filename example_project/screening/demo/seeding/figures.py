"""The statistics of the last week, as busy as the days and nights of a small site, and of the last three hours."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

from django.utils import timezone

from example_project.screening.demo.seeding.rows import MODULE
from pgonly_django.models import JobStats
from pgonly_django.models.job_stats import BOUNDS, Granularity

# Of each task: runs an hour at noon, the share that fails, how long it usually waits and runs, in seconds.
TASKS = {
    ("mail", "send_mail"): (900, 0.04, 0.05, 0.6),
    ("mail", "new_work"): (240, 0.0, 0.03, 0.2),
    ("reports", "make_report"): (60, 0.02, 9.0, 40.0),
    ("imports", "import_references"): (12, 0.08, 0.4, 14.0),
    ("translations", "translate"): (20, 0.01, 1.5, 8.0),
}
HOURS, MINUTES = 24 * 7, 180
NOON = 13
# An evening three days ago, on which a mail server was down.
OUTAGE_HOURS, OUTAGE_SHARE = range(66, 70), 0.45


def write() -> None:
    """Replaces what an earlier demo has left. The present minute and hour are the workers'."""
    JobStats.objects.filter(task__startswith=f"{MODULE}.").delete()
    now = timezone.now()
    hour, minute = now.replace(minute=0, second=0, microsecond=0), now.replace(second=0, microsecond=0)
    hours = [(Granularity.HOUR, hour - timedelta(hours=back), back) for back in range(1, HOURS)]
    minutes = [(Granularity.MINUTE, minute - timedelta(minutes=back), 0) for back in range(1, MINUTES)]
    rows = [
        _row(granularity, at, hours_ago, *name)
        for granularity, at, hours_ago in [*hours, *minutes]
        for name in TASKS
    ]
    JobStats.objects.bulk_create([row for row in rows if row is not None], batch_size=500)


def _row(granularity: Granularity, at: datetime, hours_ago: int, queue: str, task: str) -> JobStats | None:
    an_hour, share, waited, took = TASKS[queue, task]
    if task == "send_mail" and hours_ago in OUTAGE_HOURS:
        share, waited = OUTAGE_SHARE, 30.0
    seconds = 3600 if granularity == Granularity.HOUR else 60
    expected = an_hour * _business(at) * seconds / 3600
    runs = round(expected * random.uniform(0.7, 1.3) + random.random() - 0.5)
    if runs < 1:
        return None
    unsuccessful = min(round(runs * share + random.random() - 0.5), runs)
    failed = unsuccessful // 3
    ends = {"succeeded": runs - unsuccessful, "failed": failed, "retried": unsuccessful - failed}
    times = {"waiting_times": _histogram(runs, waited), "run_times": _histogram(runs, took)}
    name = f"{MODULE}.{task}"
    return JobStats(granularity=granularity, starts_at=at, queue=queue, task=name, **ends, **times)


def _business(at: datetime) -> float:
    """1 at noon of a weekday, a tenth at night."""
    day = 0.55 + 0.45 * math.cos((at.hour - NOON) / 24 * 2 * math.pi)
    return day * (0.4 if at.weekday() >= 5 else 1.0)  # noqa: PLR2004 - Saturday and Sunday


def _histogram(count: int, usual: float) -> list[int]:
    """`count` durations around `usual` seconds, a few of them much longer."""
    up_to = [round(count * share) for share in _shares(usual)]
    return [here - before for before, here in pairwise([0, *up_to])]


@lru_cache
def _shares(usual: float) -> list[float]:
    """Which share of the durations is at most as long as each bucket's bound."""
    lengths = NormalDist(math.log(usual), 0.7)
    return [lengths.cdf(math.log(bound)) for bound in BOUNDS[:-1]] + [1.0]
