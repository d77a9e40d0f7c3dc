"""One entry of settings.TASKS. It is validated, and its problems are named, before anything is made of it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router

from pgonly_django.conf import unknown_key
from pgonly_django.database.connect import check_vendor
from pgonly_django.exceptions import OptionError
from pgonly_django.tasks.keys import check_together
from pgonly_django.tasks.options import (
    NAME_LENGTH,
    OPTION_NAMES,
    TaskOptions,
    validated,
    what_is_wrong_with_name,
)

KEYS = ("BACKEND", "QUEUES", "OPTIONS")
NO_DEFAULTS = ("database", "queues")  # in OPTIONS, and no defaults of tasks
DOCS = "docs/how-to/databases.md#only-the-jobs-apart"


class TasksEntry:
    """TASKS[alias] as the project wrote it. `problems`: sentences that name the place, the value and the remedy. Where
    there are any, the other attributes are usable all the same, so that a check can report them."""

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        self.place = f"TASKS[{alias!r}]"
        self.problems = [self._unknown_key(str(key)) for key in params if key not in KEYS]
        if len(alias) > NAME_LENGTH:
            limit = f"an alias must be at most {NAME_LENGTH} characters long"
            self.problems.append(f"{self.place}: {limit}, got {len(alias)}.")
        queues = params.get("QUEUES", ["default"])
        wrong_queues = self._what_is_wrong_with_queues(queues)
        self.problems += wrong_queues
        self.queues: list[str] = [] if wrong_queues else list(queues)
        self.options: Mapping[str, Any] = {}
        self.defaults: dict[str, Any] = {}
        self.queue_defaults: dict[str, dict[str, Any]] = {}
        try:
            self._take_options(params.get("OPTIONS", {}), f'{self.place}["OPTIONS"]')
        except OptionError as error:
            self.problems.append(str(error))

    @property
    def database(self) -> str:
        chosen: str = self.options.get("database") or router.db_for_write(_job_model())
        return chosen

    def resolve(self, queue: str, *layers: Mapping[str, Any]) -> TaskOptions:
        """Returns options of a call on `queue`. Layers: .using() > @task(...) > the queue's > OPTIONS > built in."""
        merged: dict[str, Any] = {**self.defaults, **self.queue_defaults.get(queue, {})}
        for layer in layers:
            merged.update(layer)
        return TaskOptions(**merged)

    def unknown_queue(self, name: str) -> str:
        """Returns the message about a queue that QUEUES lacks, which begins as Django's own does."""
        known = ", ".join(map(repr, sorted(self.queues)))
        return (
            f"Queue '{name}' is not valid for backend. {self.place}[\"QUEUES\"] has {known}"
            f"{self.nearest_queue(name)}: add it there; an empty list allows every name."
        )

    def nearest_queue(self, name: str) -> str:
        """Returns a hint for messages about a name that QUEUES lacks."""
        near = difflib.get_close_matches(name, sorted(self.queues), n=1)
        return f" (did you mean {near[0]!r}?)" if near else ""

    def _unknown_key(self, name: str) -> str:
        if name.lower() in (*OPTION_NAMES, *NO_DEFAULTS):
            return f'{self.place}["{name}"] has no effect beside OPTIONS. Put {name.lower()!r} in it.'
        return unknown_key(f'{self.place}["%s"]', name, (*KEYS, *OPTION_NAMES))

    def _what_is_wrong_with_queues(self, queues: Any) -> list[str]:
        # No iterator: it would be empty after this look at it, and an empty list allows any name.
        if isinstance(queues, str) or not isinstance(queues, Collection):
            return [f'{self.place}["QUEUES"] must be a list of names, [] for any name, got {queues!r}.']
        wrong = [(name, reason) for name in queues if (reason := what_is_wrong_with_name(name))]
        return [f'{self.place}["QUEUES"]: a name must be {reason}, got {name!r}.' for name, reason in wrong]

    def _take_options(self, options: Any, where: str) -> None:
        """Raises OptionError, also for an option that @task() would refuse."""
        if not isinstance(options, Mapping):
            raise OptionError(f"{where} must be a dict, got {options!r}.")
        database, queues = options.get("database"), options.get("queues", {})
        if not isinstance(database, str | None):
            raise OptionError(f"{where}: database must be an alias of DATABASES, got {database!r}.")
        self.options = options
        rest = {name: value for name, value in options.items() if name not in NO_DEFAULTS}
        defaults = validated(rest, where, NO_DEFAULTS)
        place, where = where, f'{where}["queues"]'
        if not isinstance(queues, Mapping):
            remedy = 'The names that are allowed belong in "QUEUES", beside "OPTIONS".'
            raise OptionError(f"{where} must be a dict of options by queue name, got {queues!r}. {remedy}")
        for queue, values in queues.items():
            if wrong := what_is_wrong_with_name(queue):
                raise OptionError(f"{where}: a name must be {wrong}, got {queue!r}.")
            if not isinstance(values, Mapping):
                raise OptionError(f"{where}[{queue!r}] must be a dict of options, got {values!r}.")
        of_queues = {queue: validated(values, f"{where}[{queue!r}]") for queue, values in queues.items()}
        for queue, values in {"": {}, **of_queues}.items():
            try:
                check_together(TaskOptions(**defaults | values))
            except OptionError as error:
                raise OptionError(f"{f'{where}[{queue!r}]' if queue else place}: {error}") from error
        self.defaults, self.queue_defaults = defaults, of_queues


def check_tasks_entry(entry: TasksEntry) -> list[checks.CheckMessage]:
    """E002: the entry itself. E003, E004: the jobs' database. E009: limiters are in another one. W001: the router says
    another one. W002: defaults of a queue that QUEUES lacks."""
    if entry.problems:
        hint = "All options: docs/reference/tasks.md#options."
        return [checks.Error(problem, hint=hint, id="pgonly_django.E002") for problem in entry.problems]
    found = _check_database(entry, entry.database) or list(_warnings(entry, entry.database))
    return [*found, *_limiters_elsewhere(entry)]


def _check_database(entry: TasksEntry, database: str) -> list[checks.CheckMessage]:
    if database not in connections:
        message = f"{entry.place} keeps its jobs in the database {database!r}, which is not in DATABASES."
        hint = f'Set OPTIONS["database"] to one of: {", ".join(connections)}.'
        return [checks.Error(message, hint=hint, id="pgonly_django.E003")]
    how = 'OPTIONS["database"]' if entry.options.get("database") else 'a router or OPTIONS["database"]'
    instead = f"keep the jobs in another one, by {how}. See {DOCS}"
    if errors := check_vendor(database, f"{entry.place} keeps its jobs in", instead, "pgonly_django.E003"):
        return errors
    if not connections[database].settings_dict["AUTOCOMMIT"]:
        message = f"{entry.place} keeps its jobs in {database!r}, which has AUTOCOMMIT = False."
        hint = "Remove AUTOCOMMIT from it, and use atomic(): without autocommit workers do not start and get no NOTIFY."
        return [checks.Error(message, hint=hint, id="pgonly_django.E004")]
    return []


@cache
def _job_model() -> Any:
    """An import inside of a function takes half a microsecond of each enqueue()."""
    from pgonly_django.models import Job

    return Job


def _limiters_elsewhere(entry: TasksEntry) -> Iterator[checks.CheckMessage]:
    """E009: a claim reads the cool-down of its queue's limiter in the database of the jobs."""
    from pgonly_django.models import Limiter
    from pgonly_django.queue.declared_queues import declared_limits

    place = router.db_for_write(Limiter)
    with suppress(ImproperlyConfigured):  # check_queues() says so
        for queue, limits in declared_limits().items():
            is_here = not entry.queues or queue in entry.queues
            if limits["limiter"] is not None and is_here and place != entry.database:
                message = (
                    f'PGONLY["QUEUES"][{queue!r}] has the limiter {limits["limiter"]!r}, which is in {place!r}, but '
                    f"{entry.place} keeps its jobs in {entry.database!r}: the queue would not obey it."
                )
                hint = f"Route the models of limiters to {entry.database!r}. See {DOCS}."
                yield checks.Error(message, hint=hint, id="pgonly_django.E009")


def _warnings(entry: TasksEntry, database: str) -> Iterator[checks.CheckMessage]:
    routed = {router.db_for_read(_job_model()), router.db_for_write(_job_model())} - {database}
    if routed and entry.options.get("database"):
        others = " and ".join(map(repr, sorted(routed)))
        looked = f"but Job.objects and the admin look in {others}."
        message = f"{entry.place} keeps its jobs in {database!r}, {looked}"
        hint = f"Route the queue's models to {database!r}. See {DOCS}."
        yield checks.Warning(message, hint=hint, id="pgonly_django.W001")
    for name in entry.queue_defaults:
        if entry.queues and name not in entry.queues:
            lack = (
                f'{name!r}{entry.nearest_queue(name)}, which "QUEUES" lacks: no task can be enqueued there.'
            )
            message = f'{entry.place}["OPTIONS"]["queues"] has {lack}'
            hint = 'Add the name to "QUEUES", or correct it.'
            yield checks.Warning(message, hint=hint, id="pgonly_django.W002")
