"""`@task` for every supported Django, and the Task that carries this package's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ParamSpec, Self, TypeVar, overload

from pgonly_django.compat import InvalidTask, Task, TaskContext, task_backends
from pgonly_django.exceptions import OptionError
from pgonly_django.queue.retry import BackoffFunction
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.error_policies import ErrorClasses
from pgonly_django.tasks.keys import call_columns, uniqueness
from pgonly_django.tasks.metadata import metadata_text
from pgonly_django.tasks.options import OF_ONE_CALL, OPTION_NAMES, OnFailure, TaskOptions, validated
from pgonly_django.tasks.registry import claim, first_path, validated_aliases

P = ParamSpec("P")
T = TypeVar("T")


# The default of an option. Not None, which is a value ("no limit", "for ever"). Copies and pickles are this object.
UNSET: Any = ...
# Django's own parameters of @task and of .using().
DJANGO_TASK = ("priority", "queue_name", "backend", "takes_context")
DJANGO_USING = ("priority", "queue_name", "backend", "run_after")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresTask(Task):  # type: ignore[type-arg] # generic in the stubs only
    """Django's Task with the options of this package, each a field: Django's own decorator passes them on, from 6.1 on.
    `overrides` holds those that .using() set for some calls."""

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
    unique_while: str | None = UNSET
    debounce: timedelta | None = UNSET
    aliases: Sequence[str] = ()
    overrides: tuple[tuple[str, Any], ...] = ()
    stored_metadata: str | None = None  # JSON, of .using(metadata=...)

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
        **options: Any,
    ) -> Self:
        """The same task with other defaults; takes every option of @task but aliases, for the calls made through it.

        `metadata`: a dict of at most 8 KB of JSON that its jobs carry beside their arguments (`context.metadata`,
        `result.metadata`), as it is now. Raises OptionError and NotStorableError for what cannot be such."""
        given = {"priority": priority, "queue_name": queue_name, "run_after": run_after, "backend": backend}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        place = f"{self.func.__qualname__}.using()"
        if metadata is not UNSET:
            changes["stored_metadata"] = metadata_text(metadata, place)
        if options:
            if "aliases" in options:
                raise OptionError(f"{place}: aliases belong to the task. Set them there: @task(aliases=...).")
            checked = validated(options, place, (*DJANGO_USING, *OF_ONE_CALL), of_one_call=True)
            changes["overrides"] = tuple({**dict(self.overrides), **checked}.items())
        return replace(self, **changes)

    def get_backend(self) -> Any:
        """Django's own imports `task_backends` in each call: eight calls of enqueue()'s 130."""
        return task_backends[self.backend]

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function here and now. Another backend's plain TaskContext becomes a DetachedContext."""
        return Task.call(self, *self._with_context(args), **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """See call()."""
        return await Task.acall(self, *self._with_context(args), **kwargs)

    def _with_context(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        from pgonly_django.context.context import JobContext
        from pgonly_django.context.detached import DetachedContext

        context = args[0] if self.takes_context and args else None
        if isinstance(context, TaskContext) and not isinstance(context, JobContext):
            return (DetachedContext(context.task_result), *args[1:])
        return args


def _place(function: Any) -> str:
    """For messages; the decorated object may be anything."""
    return f"@task {getattr(function, '__qualname__', repr(function))}"


@overload
def task(function: Callable[P, T], /) -> PostgresTask: ...
@overload
def task(
    *,
    priority: int = ...,
    queue_name: str = ...,
    backend: str = ...,
    takes_context: bool = ...,
    aliases: Sequence[str] = ...,
    **options: Any,
) -> Callable[[Callable[..., T]], PostgresTask]: ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    priority: int = 0,
    queue_name: str = "default",
    backend: str = "default",
    takes_context: bool = False,
    aliases: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Make a module-level function a task: `@task` or `@task(max_attempts=2, ...)`.

    Besides Django's parameters it takes the options in docs/reference/tasks.md, and `aliases`: former paths of the
    task, the oldest first, under which stored jobs may name it.
    Raises InvalidTask for an option that does not exist or a value it cannot have, and as Django's own decorator
    TypeError for `run_after`.
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
