"""The reason why the job waits, in words: the first line of its page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import router
from django.db.models import Model
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext_lazy

from pgonly_django.admin.base import Links
from pgonly_django.admin.formats import age, brief, exact_time, whole
from pgonly_django.admin.jobs.answers import answer_address, answer_buttons, for_reader
from pgonly_django.admin.jobs.members import open_members
from pgonly_django.amounts import shown
from pgonly_django.database.on_django import in_time
from pgonly_django.masking import MASK
from pgonly_django.models import Budget, Job, Limiter, Queue, State, Worker
from pgonly_django.models.job import BY_A_PERSON, WAITING
from pgonly_django.monitoring.clicks import person_at
from pgonly_django.monitoring.waiting import Kind, Reason, why_it_waits
from pgonly_django.outcomes import Outcome

TIME_LIMIT = timedelta(milliseconds=250)
REASON_SHOWN = 300
# Nothing starts until a person does something.
NEEDS_A_PERSON = (Kind.UNSERVED, Kind.TOO_FEW_THREADS, Kind.OVERDUE)
# Of a scheduled job: what its last run said.
AFTER: dict[str, Promise] = {
    Outcome.FAILED: gettext_lazy("its next attempt after an error"),
    Outcome.TIMED_OUT: gettext_lazy("its next attempt after it took too long"),
    Outcome.RETRIED: gettext_lazy("it asked for another attempt"),
    Outcome.SNOOZED: gettext_lazy("it asked to run later"),
    Outcome.POSTPONED: gettext_lazy("its last worker did not know the task"),
}
WORDS: dict[Kind, Any] = {
    Kind.OVERDUE: gettext_lazy("due for %(age)s: no worker has made it ready"),
    Kind.BUDGET: gettext_lazy("by the budget “%(name)s”: %(spent)s of %(cap)s is spent"),
    Kind.UNSERVED: gettext_lazy("no live worker serves “%(queue)s”"),
    Kind.TOO_FEW_THREADS: gettext_lazy(
        "it takes %(slots)d threads, and the largest live worker of its queue has %(threads)d"
    ),
    Kind.PAUSED: gettext_lazy("the queue “%(queue)s” has been paused since %(time)s"),
    Kind.COOLS_DOWN: gettext_lazy("the limiter “%(limiter)s” cools down until %(time)s"),
    Kind.FULL: gettext_lazy("the queue “%(queue)s” is full: %(running)d of %(limit)d run"),
    Kind.RATE: gettext_lazy("the queue “%(queue)s” waits for its rate: %(count)d starts in %(seconds)g s"),
    Kind.KEY_FULL: gettext_lazy("its concurrency key “%(key)s” is full: %(running)d of %(limit)d run"),
    Kind.SUSPECT: gettext_lazy(
        "it is a suspect: its worker died %(crashes)d times while it ran, so a process runs one at a time"
    ),
    Kind.AHEAD: ngettext_lazy("%(label)s job comes first", "%(label)s jobs come first", "number"),
    Kind.BUSY: ngettext_lazy(
        "the only thread that serves “%(queue)s” is busy",
        "all %(threads)d threads that serve “%(queue)s” are busy",
        "threads",
    ),
    Kind.ASLEEP: gettext_lazy("all workers of its queue are asleep, and the next one that wakes takes it"),
    Kind.IGNORED: gettext_lazy(
        "the live workers of “%(queue)s” have not taken it yet: they may run other queues first, or their log says why"
    ),
    Kind.SOON: gettext_lazy("a worker is about to take it"),
}
# The row whose page says more, and the fact that is its key.
PAGES: dict[Kind, tuple[type[Model], str]] = {
    Kind.BUDGET: (Budget, "name"),
    Kind.PAUSED: (Queue, "queue"),
    Kind.COOLS_DOWN: (Limiter, "limiter"),
    Kind.FULL: (Queue, "queue"),
    Kind.RATE: (Queue, "queue"),
}


def reasons_to_wait(job: Job, links: Links, *, hides_keys: bool) -> dict[str, Any] | None:
    """Returns them for the page's head; None where the job does not wait, or finding out takes too long."""
    if job.state not in (*WAITING, State.HELD):
        return None
    alias = router.db_for_read(Job, instance=job)
    reasons = in_time(alias, TIME_LIMIT, lambda: why_it_waits(alias, job))
    if not reasons:
        return None
    for_reader([reason.facts["wait"] for reason in reasons if reason.kind is Kind.WAITS], links)
    return {
        "opening": _opening(job, reasons[0]),
        "lines": [
            {"text": _text(reason, job, hides_keys=hides_keys), "url": _url(reason, links)}
            for reason in reasons
        ],
        # When it began to wait for an event or a time.
        "since": next(
            (reason.facts["wait"].began_at for reason in reasons if reason.kind is Kind.WAITS), None
        ),
        "is_bad": reasons[0].kind in NEEDS_A_PERSON,
        "buttons": _buttons(reasons[0], links),
        "is_due": reasons[0].kind in (Kind.DUE, Kind.OVERDUE),
        "answers": [answer for reason in reasons if (answer := _answer(reason, links))],
    }


def _answer(reason: Reason, links: Links) -> str:
    wait: Any = reason.facts.get("wait")
    return answer_buttons(wait, answer_address(wait, links)) if wait and not wait.is_answered else ""


def _buttons(reason: Reason, links: Links) -> list[dict[str, Any]]:
    budget = reason.facts.get("budget")
    return links.buttons(budget, "raise") if isinstance(budget, Budget) else []


def _opening(job: Job, reason: Reason) -> str:
    if job.state == State.READY:
        return _("Waiting %s:") % age(job.waiting_since)
    if reason.kind is Kind.WAITS:
        return _("Waiting %s:") % age(reason.facts["wait"].began_at)
    return _("Held:") if job.state == State.HELD else _("Scheduled:")


def _url(reason: Reason, links: Links) -> str:
    if reason.kind in (Kind.UNSERVED, Kind.IGNORED):
        return links.to_list(Worker)
    is_gone = reason.kind == Kind.BUDGET and reason.facts["budget"] is None
    if is_gone or reason.kind not in PAGES:
        return ""
    model, key = PAGES[reason.kind]
    return links.to_page(model, reason.facts[key])


def in_words(reason: Reason, links: Links) -> dict[str, Any]:
    """Returns why no job of a queue starts, with the address of the page that says more."""
    return {"text": _of_all(reason), "url": _url(reason, links)}


def _text(reason: Reason, job: Job, *, hides_keys: bool) -> str:
    facts = dict(reason.facts)
    if (tell := OF_THE_JOB.get(reason.kind)) is not None:
        (fact,) = facts.values()
        return tell(fact, job)
    if reason.kind is Kind.KEY_FULL and hides_keys:
        facts["key"] = MASK
    return _of_all(Reason(reason.kind, facts))


def _of_all(reason: Reason) -> str:
    """Returns what is true of every job that the reason keeps from running."""
    facts = dict(reason.facts)
    match reason.kind:
        case Kind.BUDGET if facts["budget"] is None:
            return _("by the budget “%(name)s”, which does not exist any more") % facts
        case Kind.BUDGET:
            facts |= {"spent": shown(facts["budget"].spent_now), "cap": shown(facts["budget"].usd)}
        case Kind.OVERDUE:
            facts["age"] = age(facts["run_at"])
        case Kind.PAUSED:
            return _paused(facts)
        case Kind.COOLS_DOWN:
            facts["time"] = exact_time(facts["until"])
        case Kind.AHEAD:
            facts = {"number": facts["jobs"].number, "label": facts["jobs"].label}
    return str(WORDS[reason.kind] % facts)


def _due(run_at: datetime, job: Job) -> str:
    facts = {"wait": whole(run_at - timezone.now()), "time": exact_time(run_at)}
    text = _("due in %(wait)s, at %(time)s") % facts
    after = AFTER.get(job.errors[-1].get("outcome")) if job.errors else None
    return f"{text}: {after}" if after else text


def _waits(wait: Any, _job: Job) -> str:
    """Returns what the job waits for, since when, and until when."""
    until = _("without a deadline") if wait.until is None else _("until %s") % exact_time(wait.until)
    facts = {"since": exact_time(wait.began_at), "until": until, "key": wait.key, "question": wait.question}
    if wait.is_answered:
        return _("“%(key)s” is answered, so the job continues as soon as a worker is free") % facts
    if wait.key is None:
        return _("it has been asleep since %(since)s, %(until)s") % facts
    if wait.question:
        return _("for an answer to “%(question)s” (%(key)s), since %(since)s, %(until)s") % facts
    if wait.batch_id:
        members = open_members(str(wait._state.db), wait.batch_id)  # noqa: SLF001 - Django's documented API
        told = _("for the jobs that it gathers, since %(since)s") % facts
        return f"{told}: {members}" if members else told
    return _("for “%(key)s”, since %(since)s, %(until)s") % facts


def _held(by: str, job: Job) -> str:
    """Returns a person's reason, which names the person, where there is one."""
    last = job.errors[-1] if job.errors else {}
    if by == BY_A_PERSON and last.get("outcome") == Outcome.HELD and "started_at" not in last:
        return brief(last.get("reason") or "", REASON_SHOWN).removeprefix("Held ").rstrip(".")
    return _("by %s, until a person resumes it") % (by or _("a person"))


# What the job itself says: each is called with the only fact.
OF_THE_JOB: dict[Kind, Callable[[Any, Job], str]] = {
    Kind.DUE: _due, Kind.HELD: _held, Kind.WAITS: _waits,
}  # fmt: skip


def _paused(facts: dict[str, Any]) -> str:
    """Names the person, where the admin's log does: a pause that was not a click there has no entry."""
    text = WORDS[Kind.PAUSED] % {**facts, "time": exact_time(facts["since"])}
    person = person_at(Queue, facts["queue"], facts["since"])
    return _("%(text)s, by %(person)s") % {"text": text, "person": person} if person else str(text)
