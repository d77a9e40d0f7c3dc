"""The errors of this package. Each builds its own message and has its facts as attributes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

from django.db.transaction import TransactionManagementError

from pgonly_django.wording import brief, timedelta_of


class PgonlyError(Exception):
    """The base of all errors of this package, except the interrupts."""


class OptionError(PgonlyError, ValueError):
    """An option of a task, of the worker or of TASKS has a value that it cannot have."""


class DatabaseAwayError(PgonlyError):
    """PostgreSQL does not answer, and the caller does not wait until it does."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        super().__init__(f"PostgreSQL ({alias}) does not answer; the log says why.")


class WrongArgumentsError(PgonlyError, TypeError):
    """Arguments do not fit the signature of a task, or have a wrong type in another call."""

    def __init__(self, task: str, reason: str) -> None:
        self.task, self.reason = task, reason
        end = "" if reason.endswith(("?", ".")) else "."
        super().__init__(f"{task} cannot be called with these arguments: {reason}{end}")


class NotStorableError(PgonlyError, TypeError, ValueError):
    """A JSONB column cannot hold the value. It is a TypeError, as in Django's tasks, and a ValueError."""

    def __init__(self, what: str, reason: str) -> None:
        self.what, self.reason = what, reason
        super().__init__(f"{what} cannot be stored as JSON: {reason}. Pass text, numbers, lists or dicts.")


class UniqueKeyError(PgonlyError):
    """A unique job could be neither written nor found: other jobs took its key and gave it up again and again."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"The unique key {key!r} was taken and given up again and again. Enqueue again.")


class BatchFinishedError(PgonlyError, RuntimeError):
    """Jobs were enqueued to a batch that has finished or was cancelled. Nothing was written."""

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"Batch {batch_id} has finished or was cancelled. Enqueue all in one call, or let its jobs enqueue more."
        )


class GatherError(PgonlyError):
    """A gather() has no whole result. `failed` are the jobs that have not succeeded, each a FailedJob."""

    def __init__(self, name: str, reason: str, failed: Sequence[object] = ()) -> None:
        self.name, self.failed = name, tuple(failed)
        super().__init__(f"gather({name!r}) has no result: {reason}.")


class StepNameError(PgonlyError, ValueError):
    """The name of a step, or the key of an event, cannot be stored. Raised before anything is done."""

    def __init__(self, name: object, limit: int, what: str = "A step's name") -> None:
        self.name = name
        shown = repr(str(name)[:80])
        if isinstance(name, str):
            shown += f" ({len(name)} characters). Shorten it, or use a hash of it"
        super().__init__(f"{what} must be a str of 1 to {limit} characters without NUL, got {shown}.")


class StepNameOfWaitError(StepNameError):
    """A step has the name under which a wait keeps its answer. Raised before the call."""

    def __init__(self, name: str) -> None:
        self.name = name
        begins = "'sleep ', 'event ' or 'first of '"
        ValueError.__init__(
            self,
            f"A step's name must not begin with {begins}, as those of waits do, got {name!r}. Rename the step.",
        )


class AtomicStepError(PgonlyError, RuntimeError):
    """A step was called in a job with atomic=True. Raised before the call."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"Step {name!r} was not called: this job has atomic=True, so a kill or an error would roll the step back "
            "with the job's transaction, and the next run would pay for it again. Leave out atomic=True, and write "
            "what belongs together in `with transaction.atomic():` after the steps."
        )


class CannotWaitError(PgonlyError, RuntimeError):
    """A job can wait neither inside atomic() nor in a task with atomic=True, nor outside of a worker."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(f"The job cannot wait here for {name!r}: {reason}.")


class EventTimeout(PgonlyError):  # noqa: N818 - as users know it from other queues
    """No event came before the `timeout` of a wait. The job hears the same in each later run."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"No event {key!r} came in time.")


class LoopNameError(PgonlyError, ValueError):
    """A run begins a second loop with the same name, which would skip the items that the first one has done."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"This run has begun a loop named {name!r} already, so another would begin where that one stands. Give "
            "each loop its own name, in a nested loop with the outer item's key in it: iterate(items, name=...). "
            "To continue the same loop after an error, catch the error inside the loop, or let the run fail."
        )


class ManualCommitError(PgonlyError, TransactionManagementError):
    """A call needs Django's transactions, and its connection has autocommit off."""

    def __init__(self, alias: str, what: str) -> None:
        self.alias = alias
        super().__init__(
            f"{what} needs Django's autocommit, which is off for {alias!r}: no on_commit() would tell of your own "
            "commit. Call it inside transaction.atomic(), or after set_autocommit(True); AUTOCOMMIT in DATABASES "
            "stays True."
        )


class UnreadableJobError(PgonlyError, ValueError):
    """This Python cannot load the row of a job, which was not written by enqueue()."""

    def __init__(self, column: str, reason: str) -> None:
        self.column, self.reason = column, reason
        remedy = "Enqueue it again, with values that are flatter and shorter."
        super().__init__(f"The {column} of this job cannot be loaded: {reason}. {remedy}")


class TransactionLeftOpenError(PgonlyError):
    """A job returned without committing what it had written."""

    def __init__(self, aliases: list[str]) -> None:
        super().__init__(
            f"The job returned with its transaction on {', '.join(map(repr, aliases))} open, so what it wrote there "
            "was rolled back. Write inside `with transaction.atomic():`, or commit before the return."
        )


class NotStoppingError(PgonlyError, RuntimeError):
    """stop() was called in a run that was not asked to end."""

    def __init__(self) -> None:
        rule = "context.stop() is for a run that was asked to end: call it when context.should_stop is true."
        super().__init__(f"{rule} To run again later raise Snooze(delay), to give up raise Discard(reason).")


class WaitTimeoutError(PgonlyError, TimeoutError):
    """A job did not finish within the time given to `wait()`."""

    def __init__(self, job_id: str, seconds: float) -> None:
        self.job_id, self.seconds = job_id, seconds
        super().__init__(f"Job {job_id} was not finished after {seconds:g} s.")


# A task raises one of these to end its run on purpose.


class Snooze(PgonlyError):  # noqa: N818 - an instruction to the worker, not an error
    """Raised by a task to run again after `delay`, a timedelta or seconds. It uses up no attempt."""

    def __init__(self, delay: timedelta | float) -> None:
        self.delay = as_timedelta(delay, "Snooze()")
        super().__init__(f"Snoozed for {self.delay}.")


class Retry(PgonlyError):  # noqa: N818 - an instruction to the worker, not an error
    """Raised by a task to run again after `delay` instead of the task's backoff. It uses up an attempt."""

    def __init__(self, delay: timedelta | float, reason: str = "") -> None:
        self.delay = as_timedelta(delay, "Retry()")
        super().__init__(reason or f"Asked to be retried after {self.delay}.")


class Discard(PgonlyError):  # noqa: N818 - an instruction to the worker, not an error
    """Raised by a task to fail at once with `reason`, however many attempts are left."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Hold(PgonlyError):  # noqa: N818 - an instruction to the worker, not an error
    """Raised by a task to wait until a person, or your code, calls resume(). The job is held with `reason`, occupies no
    slot and uses up no attempt, and then continues from its checkpoint and steps. `by` groups held jobs (at most 255
    characters): Job.objects.filter(held_by=...)."""

    def __init__(self, reason: str, by: str = "the job") -> None:
        self.reason, self.by = reason, by
        super().__init__(reason)


def as_timedelta(delay: timedelta | float, where: str) -> timedelta:
    if (found := timedelta_of(delay)) is None:
        raise WrongArgumentsError(where, f"delay must be a timedelta or seconds, got {delay!r}")
    return found


# The worker raises these inside a task. They are not Exceptions, so that `except Exception` does not swallow them.


class JobInterrupt(BaseException):
    """The base of the exceptions that end a run from outside. Clean up and let them pass."""


class JobStopped(JobInterrupt):
    """The worker stops: the job returns to its queue with its checkpoint, and uses up no attempt."""


class JobCancelled(JobInterrupt):
    """The job was cancelled."""


class JobTimedOut(JobInterrupt):
    """The job ran longer than its max_runtime, which counts as an error."""


class JobHeld(JobInterrupt):
    """The job exceeds its budget: it is held until a person resumes it, and uses up no attempt."""


class JobWaiting(JobInterrupt):
    """The job waits for an event or a time, and continues then in another run. It uses up no attempt."""


class LeaseLost(JobInterrupt):
    """The job belongs to another worker now, so this run cannot write anything any more."""


class DatabaseCallError(PgonlyError):
    """PostgreSQL refused a statement on a connection of this package. The error of psycopg is the cause."""


class DatabaseUnavailableError(DatabaseCallError):
    """PostgreSQL could not be reached, or did not answer in time."""


class DatabaseUnansweredError(DatabaseUnavailableError):
    """The statement was sent and no answer came: PostgreSQL may or may not have executed it."""


class CacheError(PgonlyError):
    """PostgreSQL refused a call of the cache."""


class CacheUnavailableError(CacheError):
    """The database of the cache could not be reached, or did not answer in time."""


class UnansweredError(CacheUnavailableError):
    """The call was sent and no answer came: PostgreSQL may or may not have done it."""


class ValueTooLargeError(CacheError):
    """A value is larger than a field of PostgreSQL can be, or than MAX_BYTES of its cache."""

    def __init__(self, key: str, size: int, limit: int, bound: str) -> None:
        self.key, self.size, self.limit, self.bound = key, size, limit, bound
        super().__init__(
            f"A cached value must be at most {limit:,} bytes after serializing, got {size:,} for {key!r} ({bound}). "
            "Store it as a file and cache its name, or cut it into parts."
        )


class UnreadableEntryError(CacheError):
    """This process cannot load the value of an entry, for example because a class or a module is missing."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(f"A cached value cannot be read: {reason!r}")


class CircularComputationError(PgonlyError, RuntimeError):
    """The function that computes the value of a key called get_or_set for the same key, and would wait for itself."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        super().__init__(
            f"get_or_set would wait for itself: {' -> '.join(map(repr, keys))}. The function that computes a key "
            "may not ask for that key again; let it compute the value itself, or take another key."
        )


class LockError(PgonlyError):
    """A lock was released or extended by a caller that does not hold it (any more)."""

    def __init__(self, name: str, verb: str) -> None:
        reason = "it is not held, or its time has passed and another may hold it"
        super().__init__(f"Lock {name!r} cannot be {verb}: {reason}.")


class LockNotAcquiredError(LockError):
    """Another holder kept the lock for longer than `blocking_timeout`."""

    def __init__(self, name: str, seconds: float | None) -> None:
        PgonlyError.__init__(self, f"Lock {name!r} was not free within {seconds} s.")


class LimitsError(PgonlyError):
    """PostgreSQL refused a call of a limiter or a budget."""


class LimitsUnavailableError(LimitsError):
    """The database of the limiters and budgets could not be reached, or did not answer in time."""


class LimitsUnansweredError(LimitsUnavailableError):
    """The call was sent and no answer came: PostgreSQL may or may not have done it."""


class UnknownLimiterError(PgonlyError, LookupError):
    """Neither PGONLY["LIMITERS"] nor a row in the admin has the limiter. `hint` names the nearest one."""

    def __init__(self, name: str, hint: str) -> None:
        self.name = name
        super().__init__(f"There is no limiter {name!r}. {hint}")


class LimiterTimeoutError(PgonlyError, TimeoutError):
    """A limiter had no room for this caller within its `timeout`."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        super().__init__(
            f"Limiter {name!r} had no room within {seconds:g} s. Give it a longer `timeout`, or raise its limits."
        )


class NestedLimiterError(PgonlyError, RuntimeError):
    """A caller enters a limiter that it is inside of: with the last slot it would wait for itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"This caller is inside limiter {name!r} already, and would wait for itself when all other slots are "
            "taken. Leave the limiter before you enter it again, or make both calls inside one `with`."
        )


class AmountError(PgonlyError, ValueError):
    """A value that was given as an amount of money is not one."""

    def __init__(self, what: str, value: object) -> None:
        self.what, self.value = what, value
        rule = "must be an amount of US dollars, a number from 0 to below a trillion, such as 0.02"
        super().__init__(f"{what} {rule}, got {brief(value)}.")


class BudgetError(PgonlyError, ValueError):
    """A budget has a name or a declaration that it cannot have, or a call of it makes no sense."""


class UnknownBudgetError(PgonlyError, LookupError):
    """A budget has no cap in its call, in PGONLY["BUDGETS"] or in a row of the admin."""

    def __init__(self, name: str, hint: str) -> None:
        self.name = name
        remedy = f'Give it one: budget({name!r}, usd=5), or in PGONLY["BUDGETS"].'
        super().__init__(f"The budget {name!r} has no cap. {hint}{remedy}")


class BudgetExceededError(PgonlyError):
    """A reservation does not fit into its budget. Raised outside of jobs; a job is held instead."""

    def __init__(self, name: str, wanted: Decimal, usd: Decimal, spent: Decimal, reserved: Decimal) -> None:
        self.name, self.wanted, self.usd, self.spent, self.reserved = name, wanted, usd, spent, reserved
        super().__init__(
            f"Budget {name!r} has no {wanted.normalize():f} USD left: {spent.normalize():f} of its cap of "
            f"{usd.normalize():f} is spent and {reserved.normalize():f} is reserved. Raise its cap in the admin, or "
            f"by Budget.objects.filter(name={name!r}).raise_cap(...)."
        )


class CannotListKeysError(PgonlyError):
    """A cache cannot list its keys, so its sessions cannot be copied all at once."""

    def __init__(self, cache: str) -> None:
        super().__init__(
            f"{cache} cannot list its keys. Keep "
            'PGONLY["SESSION_PREVIOUS_ENGINE"] for SESSION_COOKIE_AGE: each session is moved when it is next used.'
        )


class EmbeddedPostgresError(PgonlyError):
    """The PostgreSQL from the wheel could not be started; the message says what to do."""
