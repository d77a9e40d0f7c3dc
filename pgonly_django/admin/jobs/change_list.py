"""The list of jobs as a page: its rows, the tabs above it, and its title."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from django.contrib.admin.views.main import ORDER_VAR, PAGE_VAR, SEARCH_VAR
from django.db import router
from django.db.models import Case, QuerySet, When
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from pgonly_django.admin.jobs import waits
from pgonly_django.admin.jobs.cells import (
    LISTED,
    OPTIONAL,
    RUN_TIME,
    enqueued,
    progress_cell,
    time_cell,
    took,
    worker,
)
from pgonly_django.admin.jobs.filters import SelectFilter, TimeFilter
from pgonly_django.admin.jobs.related import in_words
from pgonly_django.admin.jobs.verbs import JobVerb
from pgonly_django.admin.paging import TimedChangeList, capped_counts, label_of
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.database.on_django import in_time
from pgonly_django.models import Job, State
from pgonly_django.models.job_rows import LARGE_COLUMNS
from pgonly_django.monitoring.situations import (
    PARTS_OF_SCHEDULED,
    RETRYING,
    SCHEDULED,
    SITUATIONS,
    Situation,
    in_state,
)
from pgonly_django.monitoring.waiting import why_queues_wait
from pgonly_django.monitoring.workers import is_late
from pgonly_django.queue.known_names import KNOWN_QUEUES, known_names

STATE_VAR = "state__exact"
WHOLE_VAR = "whole"  # read all of the table, however long that takes
NO_FILTERS = {STATE_VAR, PAGE_VAR, WHOLE_VAR, ORDER_VAR}
STATE_VARS = [STATE_VAR, "state__isnull"]  # as JobStateFilter expects them
# By what the column of times sorts: in these states an index finds the jobs, and they are few or it has their order.
TIME_ORDERS: dict[str, str] = {
    State.RUNNING: "attempted_at", State.SCHEDULED: "run_at", State.FAILED: "finished_at",
    State.CANCELLED: "finished_at", RETRYING.name: "run_at",
}  # fmt: skip
# Of jobs that ended with a run. No index has that order: of very many jobs, the newest are sorted.
RUN_ORDERS = (State.SUCCEEDED, State.FAILED)
# What the rows of a tab leave out, which says why each of them failed.
LEFT_OUT: dict[str, tuple[Any, ...]] = {State.FAILED: (worker, progress_cell)}
# Columns by which the links of other pages choose jobs, with their words in the title of the list.
LINKED: dict[str, Callable[[str], str]] = {
    "held_by": lambda holder: _("held by %s") % holder,
    "enqueued_by": in_words,
    "batch_id": lambda batch: _("of batch %s") % batch,
}
OF_A_REASON = 1_000  # jobs are counted
COUNTS_LIMIT, SEARCH_COUNTS_LIMIT = timedelta(milliseconds=150), timedelta(milliseconds=40)


class JobChangeList(TimedChangeList):
    """Reads the whole table; when that takes too long, its newest rows, whose ids are ordered by time; when even that
    does, it stops and says so. With WHOLE_VAR in its address it takes its time for the whole table."""

    model_admin: VerbAdmin
    filters: tuple[Any, ...] | None = None
    sortable_by: Any
    quick_limit, patient_limit = timedelta(milliseconds=300), timedelta(seconds=20)  # for the whole table
    newest_rows = 100_000
    # Of a search, which reads the arguments of each row: 10,000 rows take 40 ms.
    search_limit, searched_rows = timedelta(milliseconds=80), 10_000

    def get_filters(self, request: HttpRequest) -> Any:
        """Reads them once for each page: the names that they offer cost statements. Django shows no column of filters:
        they stand in a form above the list."""
        if self.filters is None:
            specs, _has_filters, *others = super().get_filters(request)
            self.filters = (specs, False, *others)
        return self.filters

    def get_filters_params(self, params: Any = None) -> Any:
        given = super().get_filters_params(params)
        return {name: value for name, value in given.items() if name != WHOLE_VAR}

    def tries(self) -> tuple[tuple[int | None, timedelta], ...]:
        first = self.patient_limit if self.reads_all else min(self.quick_limit, self.statement_limit)
        return (None, first), (self.newest_rows, self.statement_limit), (0, self.statement_limit)

    @property
    def reads_all(self) -> bool:
        return WHOLE_VAR in self.params

    @property
    def address_of_all(self) -> str:
        """Returns the address of the same list over the whole table; "" where that would not help."""
        return "" if self.scope is None or self.reads_all else self.get_query_string({WHOLE_VAR: "1"})

    @property
    def scope_note(self) -> str:
        if self.scope is None:
            return ""
        facts = {"seconds": self.statement_limit.total_seconds(), "rows": f"{self.newest_rows:,}"}
        if self.scope and self.last:
            text = _(
                "Reading all of the table takes long, so only the %(rows)s rows before the end of that time were read."
            )
        elif self.scope:
            text = _("Reading all of the table takes long, so at most the newest %(rows)s rows were read.")
        else:
            text = _(
                "This took longer than %(seconds)g s even among the newest %(rows)s rows and was stopped. "
                "Search for an id or a task, or use fewer filters."
            )
        return text % facts

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Job]:
        jobs: QuerySet[Job] = super().get_queryset(request, exclude_parameters).defer(*LARGE_COLUMNS)
        return jobs.annotate(**LISTED)

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Job]) -> list[Any]:
        """Puts those running jobs first whose worker may be silent, where there are some: then all are sorted."""
        ordering: list[Any] = super().get_ordering(request, queryset)
        if self.state == State.RUNNING and ORDER_VAR not in self.params and self.some_are_late:
            return [Case(When(is_late(), then=0), default=1), *ordering]
        return ordering

    @cached_property
    def some_are_late(self) -> bool:
        """Index: pgonly_job_running."""
        running = Job.objects.using(router.db_for_read(Job)).filter(state=State.RUNNING)
        return running.filter(is_late()).exists()

    def get_ordering_field(self, field_name: Any) -> Any:
        """Returns None for a column by which no index sorts, also where the address asks for it."""
        if field_name is time_cell:
            return TIME_ORDERS.get(self.state)
        if field_name is took and self.state in RUN_ORDERS:
            return RUN_TIME
        return "pk" if field_name is enqueued else None

    def get_results(self, request: HttpRequest) -> None:
        self.request = request
        self.last = next((each.last_id for each in self.filter_specs if isinstance(each, TimeFilter)), None)
        if self.query or self.last:
            self.quick_limit = min(self.quick_limit, self.search_limit)
        if self.query:
            self.newest_rows = min(self.newest_rows, self.searched_rows)
        super().get_results(request)
        self.sortable_by = [column for column in self.list_display if self.get_ordering_field(column)]
        self.list_display = [
            column
            for column in self.list_display
            if column not in OPTIONAL
            or (column not in LEFT_OUT.get(self.state, ()) and any(map(column, self.result_list)))
        ]
        self.may_operate = self.model_admin.has_operate_permission(request)
        self.counts = self._counts(request)
        self.reasons = self._reasons() if self.state == State.READY and self.result_count else []

    def _counts(self, request: HttpRequest) -> dict[str, int]:
        """Counts the jobs of each situation under all other filters. Leaves out those whose count takes too long."""
        jobs = self.get_queryset(request, exclude_parameters=STATE_VARS)
        counts = self._by_state({state.value: jobs.filter(in_state(state)) for state in State})
        scheduled = counts.pop(SCHEDULED.name, None)
        if not scheduled:
            return counts if scheduled is None else counts | {SCHEDULED.name: 0}
        parts = self._counted({each.name: jobs.filter(each.rows) for each in PARTS_OF_SCHEDULED})
        if not parts:
            return counts
        if scheduled > self.paginator.counted_at_most:
            return counts | parts | self._counted({SCHEDULED.name: jobs.filter(SCHEDULED.rows)})
        return counts | parts | {SCHEDULED.name: max(scheduled - sum(parts.values()), 0)}

    def _by_state(self, jobs: dict[str, QuerySet[Job]]) -> dict[str, int]:
        if not self.is_narrowed:
            return self._counted(jobs)
        # No index knows the jobs that succeeded, and they are many.
        succeeded = jobs.pop(State.SUCCEEDED.value)
        others = self._counted(jobs)
        known = self._succeeded(others)
        if known is not None:
            return others | {State.SUCCEEDED.value: known}
        return others | self._counted({State.SUCCEEDED.value: succeeded}, SEARCH_COUNTS_LIMIT)

    def _succeeded(self, others: Mapping[str, int]) -> int | None:
        """Returns how many have succeeded, where that follows from `others` and from what the list has counted."""
        listed = self.paginator.counted
        if self.state == State.SUCCEEDED:
            return listed
        is_known = not self.state and others and listed <= self.paginator.counted_at_most
        return max(listed - sum(others.values()), 0) if is_known else None

    def _counted(self, jobs: Mapping[str, QuerySet[Job]], limit: timedelta | None = None) -> dict[str, int]:
        alias = self.queryset.db
        limit = limit or (SEARCH_COUNTS_LIMIT if self.query else COUNTS_LIMIT)
        return in_time(alias, limit, lambda: capped_counts(alias, jobs)) or {}

    def _reasons(self) -> list[dict[str, Any]]:
        """Returns why the listed jobs wait, once for each queue: how many, the reason, and the address of these."""
        alias = self.queryset.db
        jobs = self.queryset.order_by().values("pk")

        def read() -> tuple[dict[str, Any], dict[str, int]]:
            found = why_queues_wait(alias, known_names(alias, KNOWN_QUEUES))
            return found, capped_counts(alias, {name: jobs.filter(queue=name) for name in found}, OF_A_REASON)

        found, counts = in_time(alias, COUNTS_LIMIT, read) or ({}, {})
        links = self.model_admin.links(self.request)
        return [
            {
                "queue": name,
                "count": label_of(counts[name], OF_A_REASON),
                "jobs": self.get_query_string({"queue": name, PAGE_VAR: None}),
                **waits.in_words(found[name], links),
            }
            for name in sorted(counts, key=lambda name: -counts[name])
            if counts[name]
        ]

    @property
    def state(self) -> str:
        return str(self.params.get(STATE_VAR) or "")

    @property
    def situation(self) -> Situation | None:
        return SITUATIONS.get(self.state)

    @cached_property
    def tabs(self) -> list[dict[str, Any]]:
        """Returns links that keep the other filters: one for all jobs, and one for each situation. The parts of the
        scheduled jobs have one where there are some. A link whose count takes too long shows none."""
        shown = [
            each for each in SITUATIONS.values() if each not in PARTS_OF_SCHEDULED or self._has_tab(each)
        ]
        return [
            {
                "name": name,
                "label": label,
                "count": label_of(self.counts[name]) if name in self.counts else "",
                "address": self.get_query_string({STATE_VAR: name or None, PAGE_VAR: None, ORDER_VAR: None}),
                "is_chosen": self.state == name,
            }
            for name, label in [("", _("All")), *((each.name, each.label) for each in shown)]
        ]

    def _has_tab(self, part: Situation) -> bool:
        return part.name == self.state or self.counts.get(part.name, 0) > 0

    @property
    def verbs_for_all(self) -> list[tuple[JobVerb, str]]:
        """What may be done to all jobs of the tab at once, each with the address of the page that asks."""
        if not (self.may_operate and self.situation and self.result_count):
            return []
        state = self.situation.state
        query = self.get_query_string({PAGE_VAR: None})
        verbs: Any = self.model_admin.verbs
        return [(verb, f"bulk/{verb.name}/{query}") for verb in verbs if state in verb.states]

    @property
    def address_without_filters(self) -> str:
        return "?" + urlencode({STATE_VAR: self.state} if self.state else {})

    @property
    def selects(self) -> list[SelectFilter]:
        return [spec for spec in self.filter_specs if isinstance(spec, SelectFilter)]

    @property
    def shows_more(self) -> bool:
        return any(spec.opens_more for spec in self.selects)

    @property
    def is_narrowed(self) -> bool:
        """Whether a search or a filter, other than the tab, is in force."""
        return not NO_FILTERS.issuperset(self.filter_params)

    @property
    def kept_parameters(self) -> list[tuple[str, str]]:
        """What the form above the list sends with its own fields."""
        own = {name for spec in self.selects for name in spec.expected_parameters()}
        pairs = ((name, value) for name, values in self.filter_params.items() for value in values)
        return [(name, value) for name, value in pairs if name not in own | {SEARCH_VAR, PAGE_VAR}]

    @property
    def heading(self) -> str:
        """Which list it is, as "Failed jobs: queue ai"."""
        jobs = (
            (self.situation.heading or _("%s jobs") % self.situation.label) if self.situation else _("Jobs")
        )
        parts = [heading for spec in self.selects if (heading := spec.heading)]
        parts += [words(str(self.params[name])) for name, words in LINKED.items() if self.params.get(name)]
        if self.query:
            parts.append(_("with “%s”") % self.query)
        return f"{jobs}: {', '.join(parts)}" if parts else str(jobs)
