"""Tasks whose options say what follows an error."""

from __future__ import annotations

from datetime import timedelta

from asgiref.sync import sync_to_async

from pgonly_django import JobTimedOut, task
from tests.gate import GATE
from tests.jobs import AT_ONCE, mark, read_marks, stay


class RateLimitedError(Exception):
    pass


class BurstLimitedError(RateLimitedError):
    pass


class AskedError(RateLimitedError):
    def __init__(self, text):
        super().__init__(text)
        self.headers = {"Retry-After": "120"}


class BrieflyLimitedError(RateLimitedError):
    def __init__(self, seconds=1):
        super().__init__("soon")
        self.headers = {"Retry-After": str(seconds)}


class OddlyLimitedError(RateLimitedError):
    @property
    def response(self):
        raise SystemExit(3)


class NoMoneyError(Exception):
    pass


class QuotaError(NoMoneyError, RateLimitedError):
    pass


ERRORS = {
    "value": ValueError,
    "unicode": UnicodeError,
    "rate": RateLimitedError,
    "burst": BurstLimitedError,
    "asked": AskedError,
    "odd": OddlyLimitedError,
    "money": NoMoneyError,
    "other": RuntimeError,
}


@task(
    max_attempts=3,
    backoff=AT_ONCE,
    never_retry=(ValueError, "json.JSONDecodeError"),
    snooze_on="tests.jobs.policies.RateLimitedError",
    hold_on=NoMoneyError,
)
def judged(*names):
    errors = [ERRORS[name](name) for name in names]
    raise errors[0] if len(errors) == 1 else ExceptionGroup("several", errors)


async def _fail():
    raise ValueError("inside")


@task(max_attempts=3, backoff=AT_ONCE)
def plain(name):
    raise ERRORS[name](name)


@task(takes_context=True, backoff=AT_ONCE, snooze_on=RateLimitedError)
def saves_and_is_limited(context, number):
    context.step(f"step {context.task_result.job.lease_epoch}", int, number)
    raise RateLimitedError


def by_result(exception, task_result):
    """Django's own signature."""
    if len(task_result.errors) > 1:
        return None
    return timedelta(hours=len(task_result.errors[-1].traceback) > 0 and task_result.attempts)


@task(max_attempts=5, backoff=by_result)
def backs_off_by_result():
    raise ValueError("x")


def hours(attempt):
    return timedelta(hours=attempt)


@task(backoff=hours, snooze_on=RateLimitedError)
def snoozed_for_an_hour_each():
    raise RateLimitedError


@task(max_runtime=timedelta(seconds=0.1), backoff=AT_ONCE, never_retry=JobTimedOut)
def too_slow():
    stay(20)


@task(backoff=AT_ONCE, max_attempts=3, retry_on=(LookupError, "tests.jobs.policies.RateLimitedError"))
def allowed(name):
    raise ERRORS[name](name)


def provide(number, seconds, refusals):
    """Each paper is refused so often before its answer."""
    mark(f"call {number}")
    if read_marks().count(f"call {number}") <= refusals:
        GATE.reached.set()
        raise BrieflyLimitedError(seconds)
    return number


@task(takes_context=True, snooze_on=RateLimitedError)
def ask_for_papers(context, papers, seconds, refusals=1):
    mark("run")
    return [context.step(f"{number}", provide, number, seconds, refusals) for number in range(papers)]


@task(takes_context=True, snooze_on=RateLimitedError)
async def ask_for_papers_async(context, papers, seconds, refusals=1):
    await sync_to_async(mark)("run")
    ask = sync_to_async(provide)
    return [await context.astep(f"{number}", ask, number, seconds, refusals) for number in range(papers)]


@task(snooze_on=RateLimitedError)
def briefly_limited(seconds):
    raise BrieflyLimitedError(seconds)
