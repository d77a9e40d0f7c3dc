"""One entry of settings.TASKS: judges what it says, and names what is wrong before anything is made of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import router

from pgonly_django.conf import unknown_key
from pgonly_django.tasks.options import NO_DEFAULTS, OPTION_NAMES, Defaults
from pgonly_django.tasks.task_fields import NAME_LENGTH, what_is_wrong_with_name

KEYS = ("BACKEND", "QUEUES", "OPTIONS")


class TasksEntry:
    """TASKS[alias] as the project wrote it.

    `problems`: sentences that name the place, the value and the remedy. Where there are any, `queues`, `options` and
    `defaults` are usable all the same, so that a check can report them.
    """

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        self.alias, self.place = alias, f"TASKS[{alias!r}]"
        self.problems = [self._unknown_key(key) for key in params if key not in KEYS]
        if len(alias) > NAME_LENGTH:
            self.problems.append(
                f"{self.place}: an alias must be at most {NAME_LENGTH} characters long, got {len(alias)}."
            )
        queues = params.get("QUEUES", ["default"])
        wrong_queues = self._what_is_wrong_with_queues(queues)
        self.problems += wrong_queues
        self.queues: list[str] = [] if wrong_queues else list(queues)
        self.options: Mapping[str, Any] = {}
        self.defaults = Defaults({}, {})
        try:
            self.options = self._valid_options(params.get("OPTIONS", {}))
            self.defaults = Defaults.from_options(alias, self.options)
        except ImproperlyConfigured as error:
            self.problems.append(str(error))

    @property
    def database(self) -> str:
        """The alias in DATABASES that holds the jobs."""
        from pgonly_django.models import Job

        chosen: str = self.options.get("database") or router.db_for_write(Job)
        return chosen

    def unknown_queue(self, name: str) -> str:
        """The message about a queue that QUEUES lacks; begins as Django's own does."""
        known = ", ".join(map(repr, sorted(self.queues)))
        return (
            f"Queue '{name}' is not valid for backend. {self.place}[\"QUEUES\"] has {known}"
            f"{self._nearest_queue(name)}: add it there; an empty list allows every name."
        )

    def unused_defaults(self) -> list[str]:
        """The names in OPTIONS["queues"] that no task can have, since QUEUES lacks them; each as a message has it."""
        unused = [name for name in self.defaults.by_queue if self.queues and name not in self.queues]
        return [f"{name!r}{self._nearest_queue(name)}" for name in unused]

    def _nearest_queue(self, name: str) -> str:
        near = difflib.get_close_matches(name, sorted(self.queues), n=1)
        return f" (did you mean {near[0]!r}?)" if near else ""

    def _unknown_key(self, key: object) -> str:
        name = str(key)
        if name.lower() in (*OPTION_NAMES, *NO_DEFAULTS):
            return f'{self.place}["{name}"] has no effect beside OPTIONS. Put {name.lower()!r} in it.'
        return unknown_key(f'{self.place}["%s"]', name, (*KEYS, *OPTION_NAMES))

    def _what_is_wrong_with_queues(self, queues: Any) -> list[str]:
        if isinstance(queues, str) or not isinstance(queues, Iterable):
            return [f'{self.place}["QUEUES"] must be a list of names, [] for any name, got {queues!r}.']
        wrong = [(name, reason) for name in queues if (reason := what_is_wrong_with_name(name))]
        return [f'{self.place}["QUEUES"]: a name must be {reason}, got {name!r}.' for name, reason in wrong]

    def _valid_options(self, options: Any) -> Mapping[str, Any]:
        if not isinstance(options, Mapping):
            raise ImproperlyConfigured(f'{self.place}["OPTIONS"] must be a dict, got {options!r}.')
        database = options.get("database")
        if database is not None and not isinstance(database, str):
            raise ImproperlyConfigured(
                f'{self.place}["OPTIONS"]: database must be an alias of DATABASES, got {database!r}.'
            )
        return options
