"""The overview as one person sees it: the permitted panels, each read within its own time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

from django.db import Error, OperationalError, router
from django.db.models import Model
from django.utils.functional import Promise
from django.utils.translation import gettext as _

from pgonly_django.admin.base import Links
from pgonly_django.admin.charts import Charts
from pgonly_django.database.on_django import time_limit, timed_out
from pgonly_django.models import Budget, Job, Limiter, Worker
from pgonly_django.monitoring.limits import budgets, limiters
from pgonly_django.monitoring.queues import QueueFigures, queues
from pgonly_django.monitoring.workers import Served, WorkerFigures, served_queues, workers

TIME_LIMIT = timedelta(milliseconds=250)
SEEN_AT = "pgonly_failures_seen_at"  # in the session
DAY_SECONDS = 86_400
T = TypeVar("T")
logger = logging.getLogger("pgonly_django.admin")


class OverviewPage(Links):
    """One request for the page. Data that several panels need are read once."""

    @cached_property
    def charts(self) -> Charts:
        return Charts(self)

    @cached_property
    def reader(self) -> Reader:
        return Reader()

    @cached_property
    def failures_since(self) -> float:
        """Returns an epoch: of the newest failure that the person has marked as seen in this session, or a day ago."""
        return float(self.request.session.get(SEEN_AT) or time.time() - DAY_SECONDS)

    @cached_property
    def queues(self) -> list[QueueFigures]:
        return queues(alias_of(Job))

    @cached_property
    def served(self) -> Served:
        return served_queues(alias_of(Worker))

    @cached_property
    def workers(self) -> list[WorkerFigures]:
        return workers(alias_of(Worker))

    @cached_property
    def limiters(self) -> list[Any]:
        return limiters(alias_of(Limiter))

    @cached_property
    def budgets(self) -> list[Any]:
        return budgets(alias_of(Budget))

    def to_bulk(self, verb: str, **query: str) -> str:
        """Returns the page that asks before a verb is done to all jobs of a list; "" for a person who may not do it."""
        return self.address(Job, "bulk", verb, **query) if self.may_operate(Job) else ""


def alias_of(model: type[Model]) -> str:
    return router.db_for_read(model)


class Panel(NamedTuple):
    name: str
    title: Promise | str
    # It is shown to persons who may view one of these models.
    models: tuple[type[Model], ...]
    # The context of its template. Empty: there is nothing to show.
    figures: Callable[[OverviewPage], dict[str, Any]]
    # Whether each part of it has a limit of time by itself.
    has_limits: bool = False
    # Whether its heading leads to the list of the first of its models.
    has_list: bool = True
    is_wide: bool = False

    @property
    def template(self) -> str:
        return f"admin/pgonly_django/overview/{self.name}.html"


def shown(overview: OverviewPage, panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """Returns each panel with the `figures` that it has to show, or with the `problem` why it shows none."""
    found = []
    with closing(overview.reader) as reader:
        for panel in panels:
            if any(map(overview.may_view, panel.models)):
                aliases = () if panel.has_limits else {alias_of(model) for model in panel.models}
                figures, problem = reader.read(aliases, partial(panel.figures, overview))
                if figures or problem:
                    url = overview.to_list(panel.models[0]) if panel.has_list else ""
                    found.append({"panel": panel, "url": url, "figures": figures, "problem": problem})
    return found


class Reader:
    """Reads the parts of the page, each statement within TIME_LIMIT. No part stops the others.

    One transaction serves all parts until one of them fails: to begin, limit and end one for each took as long as half
    of what they read."""

    def __init__(self) -> None:
        self._transactions, self._aliases = ExitStack(), set[str]()

    def read(self, aliases: Iterable[str], read: Callable[[], T]) -> tuple[T | None, str]:
        """Returns what `read` returns, or the reason why there is nothing."""
        try:
            with self._rolled_back_on_error():
                for alias in sorted(set(aliases) - self._aliases):
                    self._transactions.enter_context(time_limit(alias, TIME_LIMIT))
                    self._aliases.add(alias)
                return read(), ""
        except OperationalError as error:
            if timed_out(error):
                return None, _("Reading this took too long, and was stopped.")
            return None, _("The database did not answer: %s") % _line(error)
        except Error as error:
            return None, _("This could not be read: %s") % _line(error)
        except Exception:
            logger.exception("A part of the overview failed")
            return None, _("This could not be shown; the log of the site says why.")

    @contextmanager
    def _rolled_back_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._aliases.clear()
            self._transactions.__exit__(type(error), error, error.__traceback__)
            raise

    def close(self) -> None:
        self._transactions.close()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
