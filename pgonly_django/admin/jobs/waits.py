"""Why the job waits, in words: the first line of its page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import router
from django.db.models import Model
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pgonly_django.admin.base import Links
from pgonly_django.admin.formats import age, brief, exact_time, money, whole
from pgonly_django.admin.paging import in_time
from pgonly_django.masking import MASK
from pgonly_django.models import Budget, Job, Limiter, Queue, State, Worker
from pgonly_django.models.job import BY_A_PERSON, WAITING
from pgonly_django.monitoring.waiting import Kind, Reason, why_it_waits
from pgonly_django.outcomes import Outcome

TIME_LIMIT = timedelta(milliseconds=250)
# A person's pause and its entry in the admin's log are made in one request.
SAME_REQUEST = timedelta(seconds=5)
REASON_SHOWN = 300
# Nothing starts until somebody does something.
NEEDS_A_PERSON = (Kind.UNSERVED, Kind.TOO_FEW_THREADS, Kind.OVERDUE)
# Of a scheduled job: what its last run said.
AFTER: dict[str, Promise] = {
    Outcome.FAILED: gettext_lazy("its next attempt after an error"),
    Outcome.TIMED_OUT: gettext_lazy("its next attempt after it took too long"),
    Outcome.RETRIED: gettext_lazy("it asked for another attempt"),
    Outcome.SNOOZED: gettext_lazy("it asked to run later"),
    Outcome.POSTPONED: gettext_lazy("its last worker did not know the task"),
}


class Line(NamedTuple):
    """A reason in words, and the page that says more: that of the row with this key, or the list of all rows."""

    text: str
    model: type[Model] | None = None
    key: str = ""

    def url(self, links: Links) -> str:
        if self.model is None:
            return ""
        return links.to_page(self.model, self.key) if self.key else links.to_list(self.model)


def reasons_to_wait(job: Job, links: Links, *, hides_keys: bool) -> dict[str, Any] | None:
    """For the page's head; None where the job does not wait, or where finding out takes too long."""
    if job.state not in (*WAITING, State.HELD):
        return None
    alias = router.db_for_read(Job, instance=job)
    reasons = in_time(alias, TIME_LIMIT, lambda: why_it_waits(alias, job))
    if not reasons:
        return None
    lines = [_line(reason, job, hides_keys=hides_keys) for reason in reasons]
    return {
        "opening": _opening(job),
        "lines": [{"text": line.text, "url": line.url(links)} for line in lines],
        "is_bad": reasons[0].kind in NEEDS_A_PERSON,
    }


def _opening(job: Job) -> str:
    if job.state == State.READY:
        return _("Waiting %s:") % age(job.waiting_since)
    return _("Held:") if job.state == State.HELD else _("Scheduled:")


def _line(reason: Reason, job: Job, *, hides_keys: bool) -> Line:
    facts = dict(reason.facts)
    if reason.kind == Kind.DUE:
        return Line(_due(facts["run_at"], job))
    if reason.kind == Kind.HELD:
        return Line(_held(facts["by"], job))
    if hides_keys and "key" in facts:
        facts["key"] = MASK
    line = WORDS[reason.kind](facts)
    return line if isinstance(line, Line) else Line(line)


def _due(run_at: datetime, job: Job) -> str:
    facts = {"wait": whole(run_at - timezone.now()), "time": exact_time(run_at)}
    text = _("due in %(wait)s, at %(time)s") % facts
    after = AFTER.get(job.errors[-1].get("outcome")) if job.errors else None
    return f"{text}: {after}" if after else text


def _held(by: str, job: Job) -> str:
    """A person's reason, which names who did it, where there is one."""
    last = job.errors[-1] if job.errors else {}
    if by == BY_A_PERSON and last.get("outcome") == Outcome.HELD and "started_at" not in last:
        return brief(last["reason"], REASON_SHOWN).removeprefix("Held ").rstrip(".")
    return _("by %s, until somebody resumes it") % (by or _("a person"))


def _paused(facts: dict[str, Any]) -> Line:
    text = _("the queue “%(queue)s” is paused since %(time)s")
    text %= {"queue": facts["queue"], "time": exact_time(facts["since"])}
    if person := _who_paused(facts["queue"], facts["since"]):
        text = _("%(text)s, by %(person)s") % {"text": text, "person": person}
    return Line(text, Queue, facts["queue"])


def _who_paused(queue: str, since: datetime) -> str:
    """From the admin's log; "" where it was no click in the admin."""
    entries = LogEntry.objects.filter(content_type=ContentType.objects.get_for_model(Queue), object_id=queue)
    near = entries.filter(action_time__range=(since - SAME_REQUEST, since + SAME_REQUEST))
    entry = near.select_related("user").order_by("-pk").first()
    return str(entry.user) if entry else ""


def _cools_down(facts: dict[str, Any]) -> Line:
    text = _("the limiter “%(limiter)s” cools down until %(time)s")
    text %= {"limiter": facts["limiter"], "time": exact_time(facts["until"])}
    return Line(text, Limiter, facts["limiter"])


def _budget(facts: dict[str, Any]) -> Line:
    budget = facts["budget"]
    if budget is None:
        return Line(_("by the budget “%(name)s”, which is not there any more") % facts)
    spent = {"name": budget.name, "spent": money(budget.spent_now), "cap": money(budget.usd)}
    text = _("by the budget “%(name)s”: %(spent)s of %(cap)s are spent") % spent
    return Line(text, Budget, budget.name)


def _busy(facts: dict[str, Any]) -> str:
    text = ngettext(
        "all %(threads)d threads of %(workers)d worker run jobs",
        "all %(threads)d threads of %(workers)d workers run jobs",
        facts["workers"],
    )
    return str(text % facts)


WORDS: dict[Kind, Callable[[dict[str, Any]], Line | str]] = {
    Kind.OVERDUE: lambda facts: _("due for %s: no worker has made it ready") % age(facts["run_at"]),
    Kind.BUDGET: _budget,
    Kind.UNSERVED: lambda facts: Line(_("no live worker serves “%(queue)s”") % facts, Worker),
    Kind.TOO_FEW_THREADS: lambda facts: (
        _("it takes %(slots)d threads, and the largest live worker of its queue has %(threads)d") % facts
    ),
    Kind.PAUSED: _paused,
    Kind.COOLS_DOWN: _cools_down,
    Kind.FULL: lambda facts: Line(
        _("the queue “%(queue)s” is full: %(running)d of %(limit)d run") % facts, Queue, facts["queue"]
    ),
    Kind.RATE: lambda facts: Line(
        _("the queue “%(queue)s” waits for its rate: %(count)d starts in %(seconds)g s") % facts,
        Queue,
        facts["queue"],
    ),
    Kind.KEY_FULL: lambda facts: (
        _("its concurrency key “%(key)s” is full: %(running)d of %(limit)d run") % facts
    ),
    Kind.SUSPECT: lambda facts: (
        _("it is a suspect: its worker died %(crashes)d times while it ran, so a process runs one at a time")
        % facts
    ),
    Kind.AHEAD: lambda facts: (
        ngettext("%s job comes first", "%s jobs come first", facts["jobs"].number) % facts["jobs"].label
    ),
    Kind.BUSY: _busy,
    Kind.ASLEEP: lambda _facts: _(
        "all workers of its queue are asleep, and the next one that wakes takes it"
    ),
    Kind.SOON: lambda _facts: _("a worker is about to take it"),
}
