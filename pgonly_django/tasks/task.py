"""`@task` for every supported Django, and the Task that carries this package's options."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Concatenate, Literal, Protocol, Self, Unpack, overload

from pgonly_django.compat import GenericTask, InvalidTask, P, T, Task, TaskContext, task_backends
from pgonly_django.exceptions import OptionError
from pgonly_django.queue.retry import BackoffFunction
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.bound import BoundCall
from pgonly_django.tasks.error_policies import ErrorClasses
from pgonly_django.tasks.keys import call_columns, uniqueness
from pgonly_django.tasks.metadata import metadata_text
from pgonly_django.tasks.of_celery import attribute_error
from pgonly_django.tasks.options import (
    OF_ONE_CALL,
    OPTION_NAMES,
    CallOptions,
    JobOptions,
    OnFailure,
    TaskOptions,
    UniqueWhile,
    validated,
)
from pgonly_django.tasks.registry import claim, first_path, validated_aliases

if TYPE_CHECKING:
    from pgonly_django.context.context import JobContext
    from pgonly_django.tasks.result import JobResult

# The default of an option. Not None, which is a value ("no limit", "forever"). Copies and pickles are this object.
UNSET: Any = ...
# Django's own parameters of @task and of .using().
DJANGO_TASK = ("priority", "queue_name", "backend", "takes_context")
DJANGO_USING = ("priority", "queue_name", "backend", "run_after")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresTask(GenericTask[P, T]):
    """Django's Task with the options of this package, each a field, since Django's own decorator passes them on from
    6.1 on. `overrides` holds those that .using() set for some calls."""

    max_attempts: int = UNSET
    backoff: BackoffFunction = UNSET
    max_runtime: timedelta | None = UNSET
    atomic: bool = UNSET
    retention: timedelta | None = UNSET
    concurrency_key: str | Callable[..., Any] | None = UNSET
    concurrency_limit: int = UNSET
    slots: int = UNSET
    failed_retention: timedelta | None = UNSET
    dead_letter_queue: str | None = UNSET
    never_retry: ErrorClasses = UNSET
    retry_on: ErrorClasses = UNSET
    snooze_on: ErrorClasses = UNSET
    hold_on: ErrorClasses = UNSET
    on_failure: OnFailure | str | None = UNSET
    budget: str | None = UNSET
    unique: bool | Sequence[str] | Callable[..., Any] | None = UNSET
    unique_for: timedelta | None = UNSET
    unique_while: UniqueWhile | None = UNSET
    debounce: timedelta | None = UNSET
    aliases: Sequence[str] = ()
    overrides: tuple[tuple[str, Any], ...] = ()
    carried: tuple[tuple[str, Any], ...] = ()  # by column: text, or the call of .using(then=...)

    if TYPE_CHECKING:

        def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobResult[T]: ...
        async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobResult[T]: ...
        def get_result(self, result_id: str) -> JobResult[T]: ...
        async def aget_result(self, result_id: str) -> JobResult[T]: ...
    else:
        __class_getitem__ = classmethod(GenericAlias)

        def __getattr__(self, name: str) -> Any:
            """Answers .delay() and other habits of Celery: called for an attribute that is missing."""
            raise attribute_error(self, name)

    def __post_init__(self) -> None:
        """Raises InvalidTask, also for an option that names an argument which the function does not have, and for
        options that do not go together."""
        place, chosen = _place(self.func), self.declared | dict(self.overrides)
        object.__setattr__(self, "aliases", validated_aliases(self.aliases, place))
        options = TaskOptions(**validated(chosen, place, error=InvalidTask, of_one_call=True))
        if not isinstance(self.backend, str):
            raise InvalidTask(f"{place}: backend must be an alias of TASKS, got {self.backend!r}.")
        self.get_backend().validate_task(self)
        signature = call_signature(self.func, self.takes_context)
        try:
            call_columns(signature, options)
            uniqueness(first_path(self), signature, options)
        except OptionError as error:
            raise InvalidTask(f"{place}: {error}") from error
        if isinstance(self.unique, list):
            object.__setattr__(self, "unique", tuple(self.unique))  # tasks are hashable
        claim(self, place)

    @property
    def declared(self) -> dict[str, Any]:
        """The options that the decorator set."""
        values = {name: getattr(self, name) for name in OPTION_NAMES}
        return {name: value for name, value in values.items() if value is not UNSET}

    def using(
        self,
        *,
        priority: int | None = None,
        queue_name: str | None = None,
        run_after: datetime | None = None,
        backend: str | None = None,
        metadata: Mapping[str, Any] | None = UNSET,
        then: PostgresTask[..., Any] | BoundCall | None = UNSET,
        **options: Unpack[CallOptions],
    ) -> Self:
        """Returns the task with other options for the calls that are made through it:
        `send_invoice.using(run_after=tomorrow, max_attempts=2).enqueue(42)`.

        It takes `priority`, `queue_name`, `backend`, all options of @task except `aliases`, and those of one call:

        - `run_after=None`: The time, an aware datetime, before which the job does not start.
        - `metadata=None`: A dict of at most 8 KB of JSON that the job carries beside its arguments, as it is now:
          `context.metadata`, `result.metadata`.
        - `then=None`: The job that is enqueued in the transaction in which this one succeeds, a task or its bind():
          `load.using(then=send.bind(RESULT, "weekly"))`.
        - `idempotency_key=None`: A unique key of your own, such as the id of a webhook's event.

        Raises OptionError for an option that does not exist or a value that it cannot have, and NotStorableError for
        metadata that are not JSON or too large."""
        given = {"priority": priority, "queue_name": queue_name, "run_after": run_after, "backend": backend}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        place, carried = f"{self.func.__qualname__}.using()", dict(self.carried)
        if metadata is not UNSET:
            carried["metadata"] = metadata_text(metadata, place)
        if then is not UNSET:
            carried["then_job"] = _bound(then, place)
        changes["carried"] = tuple((name, value) for name, value in carried.items() if value is not None)
        if options:
            if "aliases" in options:
                raise OptionError(f"{place}: aliases belong to the task. Set them there: @task(aliases=...).")
            checked = validated(options, place, (*DJANGO_USING, *OF_ONE_CALL), of_one_call=True)
            changes["overrides"] = tuple({**dict(self.overrides), **checked}.items())
        return replace(self, **changes)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> BoundCall:
        """Returns the call with these arguments, which is not made now: for a batch, for gather(), or for
        `.using(then=...)`. Raises WrongArgumentsError."""
        call_signature(self.func, self.takes_context).check(args, kwargs)
        return BoundCall(self, args, kwargs)

    def get_backend(self) -> Any:
        """Returns the backend. Django's own imports `task_backends` in each call: eight calls of enqueue()'s 130."""
        return task_backends[self.backend]

    def call(self, *args: Any, **kwargs: Any) -> T:
        """Calls the function in this thread, without a job. Another backend's TaskContext becomes a DetachedContext."""
        result: T = Task.call(self, *self._with_context(args), **kwargs)
        return result

    async def acall(self, *args: Any, **kwargs: Any) -> T:
        """See call()."""
        result: T = await Task.acall(self, *self._with_context(args), **kwargs)
        return result

    def _with_context(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        from pgonly_django.context.context import JobContext
        from pgonly_django.context.detached import DetachedContext

        context = args[0] if self.takes_context and args else None
        if isinstance(context, TaskContext) and not isinstance(context, JobContext):
            return (DetachedContext(context.task_result), *args[1:])
        return args


def _bound(then: Any, place: str) -> BoundCall | None:
    if isinstance(then, BoundCall | None):
        return then
    if not isinstance(then, PostgresTask):
        raise OptionError(f"{place}: then must be a task, what its bind() returns, or None, got {then!r}.")
    call: BoundCall = then.bind()
    return call


def _place(function: Any) -> str:
    """Names the task in messages; the decorated object may be anything."""
    return f"@task {getattr(function, '__qualname__', repr(function))}"


class Decorator(Protocol):
    """The result of `@task(...)`: makes a task with the arguments of the function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> PostgresTask[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> PostgresTask[P, T]: ...


class ContextDecorator(Protocol):
    """The result of `@task(takes_context=True)`: makes a task whose enqueue() leaves the job context out."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, T]], /
    ) -> PostgresTask[P, T]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[JobContext, P], T], /) -> PostgresTask[P, T]: ...


@overload
def task(function: Callable[P, Coroutine[Any, Any, T]], /) -> PostgresTask[P, T]: ...
@overload
def task(function: Callable[P, T], /) -> PostgresTask[P, T]: ...
@overload
def task(
    *,
    priority: int = ...,
    queue_name: str = ...,
    backend: str = ...,
    takes_context: Literal[True],
    aliases: Sequence[str] = ...,
    **options: Unpack[JobOptions],
) -> ContextDecorator: ...
@overload
def task(
    *,
    priority: int = ...,
    queue_name: str = ...,
    backend: str = ...,
    takes_context: Literal[False] = ...,
    aliases: Sequence[str] = ...,
    **options: Unpack[JobOptions],
) -> Decorator: ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    priority: int = 0,
    queue_name: str = "default",
    backend: str = "default",
    takes_context: bool = False,
    aliases: Sequence[str] = (),
    **options: Unpack[JobOptions],
) -> Any:
    """Makes a module-level function a task, whose calls can be enqueued as jobs.

        @task(max_attempts=3, max_runtime=timedelta(minutes=5))
        def send_invoice(order_id): ...

        send_invoice.enqueue(42)

    `priority`, `queue_name`, `backend` and `takes_context` are Django's. `aliases`: the former paths of the task, the
    oldest first, under which stored jobs may name it. The other options, each with its default, which TASKS may change
    (docs/reference/tasks.md has the values that they take):

    - `max_attempts=8`: The number of runs that may end in an error. Planned stops, snoozes and the deaths of workers do
      not count.
    - `backoff=Backoff()`: How long a failed job waits for its next attempt.
    - `max_runtime=None`: The longest that a run may take. A longer one is ended as an error.
    - `atomic=False`: Whether the function and its result commit in one transaction. For sync tasks.
    - `retention=timedelta(days=7)`: How long a finished job is kept. None keeps it forever.
    - `concurrency_key=None`: At most `concurrency_limit` jobs with the same key run at a time, across all queues and
      workers.
    - `concurrency_limit=1`: See `concurrency_key`.
    - `slots=1`: The number of threads of its worker that the job occupies.
    - `failed_retention=timedelta(days=90)`: How long a failed job is kept, or `retention` where that is longer.
    - `dead_letter_queue=None`: The queue whose task is called for each job that has failed.
    - `never_retry=()`: After such an error the job fails at once, however many attempts are left.
    - `retry_on=()`: If given, only such an error is retried, and after any other the job fails at once.
    - `snooze_on=()`: Such an error is retried without using up an attempt.
    - `hold_on=()`: Such an error holds the job until a person resumes it.
    - `on_failure=None`: Called in the worker when a job has failed and has no attempt left.
    - `budget=None`: The budget that pays for the steps of the job.
    - `unique=None`: The arguments that make two calls the same, so that they share one job.
    - `unique_for=None`: How long after its enqueue a job keeps its unique key.
    - `unique_while=None`: The states in which a job keeps its unique key.
    - `debounce=None`: How long after the last of the same calls the job runs, with the arguments of that call.

    Returns a PostgresTask. Raises InvalidTask for an option that does not exist or a value that it cannot have, and
    TypeError for `run_after`, as Django's own decorator does.
    """
    if "run_after" in options:
        message = "run_after cannot be defined statically with the @task decorator. Set it by .using(run_after=...)."
        raise TypeError(message)

    def decorate(decorated: Callable[..., Any]) -> PostgresTask:
        validated(options, _place(decorated), (*DJANGO_TASK, "aliases"), error=InvalidTask)
        return PostgresTask(
            func=decorated,
            priority=priority,
            queue_name=queue_name,
            backend=backend,
            takes_context=takes_context,
            run_after=None,
            aliases=aliases,
            **options,
        )

    return decorate if function is None else decorate(function)
