"""Errors of this package. Each carries the facts it speaks of and builds its own message."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from numbers import Real

from django.db.transaction import TransactionManagementError


class PgonlyError(Exception):
    """Base of every error this package raises on its own account."""


class CacheError(PgonlyError):
    """A cache call that PostgreSQL refused."""


class CacheUnavailableError(CacheError):
    """The database behind the cache could not be reached, or did not answer in time."""


class UnansweredError(CacheUnavailableError):
    """The call was sent, and no answer came: whether PostgreSQL did what it says is unknown."""


class ValueTooLargeError(CacheError):
    """A value beyond what one PostgreSQL field can hold, or beyond the MAX_BYTES of its whole cache."""

    def __init__(self, key: str, size: int, limit: int, bound: str) -> None:
        self.key, self.size, self.limit, self.bound = key, size, limit, bound
        super().__init__(
            f"A cached value must be at most {limit:,} bytes after serializing, got {size:,} for {key!r} ({bound}). "
            "Store it as a file and cache its name, or cut it into parts."
        )


class CircularComputationError(PgonlyError, RuntimeError):
    """get_or_set was called for a key by the function that computes it, and would wait for itself."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        super().__init__(
            f"get_or_set would wait for itself: {' -> '.join(map(repr, keys))}. The function that computes a key "
            "may not ask for that key again; let it compute the value itself, or take another key."
        )


class UnreadableEntryError(CacheError):
    """An entry whose value this process cannot make of its bytes: a class is gone, a module missing."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(f"A cached value cannot be read: {reason!r}")


class LockError(PgonlyError):
    """A lock was released or extended by someone who does not hold it (any more)."""

    def __init__(self, name: str, verb: str) -> None:
        super().__init__(
            f"Lock {name!r} cannot be {verb}: it is not held, or its time is over and it may be another's."
        )


class LockNotAcquiredError(LockError):
    """`blocking_timeout` passed while somebody else held the lock."""

    def __init__(self, name: str, seconds: float | None) -> None:
        PgonlyError.__init__(self, f"Lock {name!r} was not free within {seconds} s.")


class EmbeddedPostgresError(PgonlyError):
    """The PostgreSQL from the wheel could not be started; the message says what to do."""


class NotStorableError(PgonlyError, TypeError, ValueError):
    """A value that a JSONB column cannot hold; a TypeError, as Django's tasks have it, and a ValueError."""

    def __init__(self, what: str, reason: str) -> None:
        self.what, self.reason = what, reason
        super().__init__(
            f"{what} cannot be stored as JSON: {reason}. Pass ids, text, numbers, lists or dicts."
        )


class ManualCommitError(PgonlyError, TransactionManagementError):
    """A call that belongs to Django's transactions, where autocommit is off; nothing was written."""

    def __init__(self, alias: str, what: str) -> None:
        self.alias = alias
        super().__init__(
            f"{what} needs Django's autocommit, which is off for {alias!r}: no on_commit() would tell of your own "
            "commit. Call it inside transaction.atomic(), or after set_autocommit(True); AUTOCOMMIT in DATABASES "
            "stays True."
        )


class TransactionLeftOpenError(PgonlyError):
    """A job that returned without the commit of what it had written."""

    def __init__(self, aliases: list[str]) -> None:
        super().__init__(
            f"The job returned with its transaction on {', '.join(map(repr, aliases))} open, so what it wrote there "
            "was rolled back. Write inside `with transaction.atomic():`, or commit before the return."
        )


class UnreadableJobError(PgonlyError, ValueError):
    """A row that PostgreSQL holds and this Python cannot load: written by other means than enqueue()."""

    def __init__(self, column: str, reason: str) -> None:
        self.column, self.reason = column, reason
        super().__init__(
            f"The {column} of this job cannot be loaded: {reason}. Enqueue it again, with values that are flatter "
            "and shorter."
        )


class WrongArgumentsError(PgonlyError, TypeError):
    """The arguments given to enqueue do not fit the task's signature, or those of another call are of a wrong type."""

    def __init__(self, task: str, reason: str) -> None:
        self.task, self.reason = task, reason
        super().__init__(f"{task} cannot be called with these arguments: {reason}.")


class OptionError(PgonlyError, ValueError):
    """A task option, worker flag or TASKS option with a value it cannot have."""


class StepNameError(PgonlyError, ValueError):
    """A name that a step cannot be kept under; raised before the call that it would cost."""

    def __init__(self, name: object, limit: int) -> None:
        self.name = name
        super().__init__(
            f"A step's name must be a str of 1 to {limit} characters, got {str(name)[:80]!r}"
            + (
                f" ({len(name)} characters). Shorten it, or use a hash of it."
                if isinstance(name, str)
                else "."
            )
        )


class LoopNameError(PgonlyError, ValueError):
    """A second loop under a name that is taken in this run: it would skip the items that the first one has done."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"This run has begun a loop named {name!r} already, so another would begin where that one stands. Give "
            "each loop a name of its own, in a nested loop with the outer item's key in it: iterate(items, name=...). "
            "To go on with the same loop after an error, catch the error inside the loop, or let the run fail."
        )


class NotStoppingError(PgonlyError, RuntimeError):
    """stop() in a run that was not asked to end."""

    def __init__(self) -> None:
        super().__init__(
            "context.stop() is for a run that was asked to end: call it when context.should_stop is true. "
            "To run again later raise Snooze(delay), to give up raise Discard(reason)."
        )


class WaitTimeoutError(PgonlyError, TimeoutError):
    """A job was not finished within the time that `wait()` was given."""

    def __init__(self, job_id: str, seconds: float) -> None:
        self.job_id, self.seconds = job_id, seconds
        super().__init__(f"Job {job_id} was not finished after {seconds:g} s.")


# What a task raises to end its run on purpose.


class Snooze(PgonlyError):  # noqa: N818 - an instruction to the worker, not an error
    """Raise it to run again after `delay`, without using up an attempt."""

    def __init__(self, delay: timedelta | float) -> None:
        self.delay = _as_timedelta(delay, "Snooze()")
        super().__init__(f"Snoozed for {self.delay}.")


class Retry(PgonlyError):  # noqa: N818 - an instruction to the worker, not an error
    """Raise it to use up this attempt and run again after `delay` instead of the task's backoff."""

    def __init__(self, delay: timedelta | float, reason: str = "") -> None:
        self.delay = _as_timedelta(delay, "Retry()")
        super().__init__(reason or f"Asked to be retried after {self.delay}.")


class Discard(PgonlyError):  # noqa: N818 - an instruction to the worker, not an error
    """Raise it to fail now, with `reason`, however many attempts are left."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def _as_timedelta(delay: timedelta | float, where: str) -> timedelta:
    """What is too long for a timedelta is the longest there is; the worker has a bound of its own."""
    if isinstance(delay, timedelta):
        return delay
    if isinstance(delay, bool) or not isinstance(delay, Real) or delay != delay:  # noqa: PLR0124 - NaN alone is not
        raise WrongArgumentsError(where, f"delay must be a timedelta or seconds, got {delay!r}")
    try:
        return timedelta(seconds=float(delay))
    except OverflowError:
        return timedelta.max if delay > 0 else timedelta(0)


# What the worker raises inside a task. BaseException, so that `except Exception` does not swallow it.


class JobInterrupt(BaseException):
    """Base of what ends a run from outside. Clean up and let it pass."""


class JobStopped(JobInterrupt):
    """The worker stops: the job goes back with its checkpoint and costs no attempt."""


class JobCancelled(JobInterrupt):
    """Somebody cancelled the job."""


class JobTimedOut(JobInterrupt):
    """The job ran longer than its max_runtime. Counts as an error."""


class LeaseLost(JobInterrupt):
    """The job belongs to another worker by now: this run may not write any more."""


class CannotListKeysError(PgonlyError):
    """A cache that cannot say which keys it holds, so its sessions cannot be copied in one go."""

    def __init__(self, cache: str) -> None:
        super().__init__(
            f"{cache} cannot list its keys. Leave its sessions where they are and set "
            'PGONLY["SESSION_FALLBACK_ENGINE"]: each is moved when it is next used.'
        )
