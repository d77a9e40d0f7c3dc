"""A verb over many jobs: those that are selected, or all that a list shows; and the redrive of failed ones. A page asks
first, and a message reports.

At most AT_ONCE jobs change at a time, the newest first, in transactions of BATCH jobs each. A process
that is killed in the middle has done whole batches; the same action again does the rest.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import ValidationError
from django.db import OperationalError
from django.db.models import BooleanField, Case, CharField, F, QuerySet, Value, When
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Coalesce
from django.forms.fields import InvalidJSONInput
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pgonly_django.admin.formats import brief, short_name
from pgonly_django.admin.jobs.change_list import JobChangeList
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.jobs.verbs import CANCEL, DISCARD, IS_CANCELLING, JobVerb
from pgonly_django.admin.paging import label_of
from pgonly_django.admin.verbs import AT_ONCE, Done, VerbAdmin, log_once
from pgonly_django.database.on_django import in_time, time_limit, timed_out
from pgonly_django.exceptions import PgonlyError
from pgonly_django.models import Job, State
from pgonly_django.models.job import FINISHED
from pgonly_django.models.related import gathered_by
from pgonly_django.tasks.redrive import Redriven, redrive
from pgonly_django.tasks.registry import UnknownTaskError

REASONS_SHOWN = PARTS_SHOWN = 5
SEARCH_LIMIT = timedelta(seconds=5)
NO_JOB = UUID(int=0)  # Django wants a selection, also for "all"


def bulk_action(verb: JobVerb) -> Any:
    """Returns an action for ModelAdmin.actions: it asks, and does it after the person has confirmed."""

    def act(model_admin: VerbAdmin, request: HttpRequest, jobs: QuerySet[Job]) -> HttpResponse | None:
        if "confirmed" not in request.POST:
            return _page(model_admin, request, verb, jobs, request.get_full_path())
        _perform(model_admin, request, verb, jobs)
        return None

    act.__name__ = f"{verb.name}_jobs"
    description = format_lazy(gettext_lazy("{} selected %(verbose_name_plural)s ..."), verb.label)
    return admin.action(act, permissions=["operate"], description=description)


def bulk_view(model_admin: VerbAdmin, request: HttpRequest, name: str) -> HttpResponse:
    """Shows the page that asks, for all jobs that the list with the filters of this address shows."""
    model_admin.check_may_operate(request)
    verb: Any = model_admin.verb_named(name)
    address = model_admin.links(request).address(Job, "changelist")
    try:
        changelist: Any = model_admin.get_changelist_instance(request)
    except IncorrectLookupParameters:
        return HttpResponseRedirect(address)
    address = f"{address}?{request.GET.urlencode()}"
    return _page(model_admin, request, verb, changelist.get_queryset(request), address, changelist)


def _perform(model_admin: VerbAdmin, request: HttpRequest, verb: JobVerb, jobs: QuerySet[Job]) -> None:
    try:
        with time_limit(jobs.db, SEARCH_LIMIT):
            refused, keys = refusals(verb, jobs), list(verb.keys_of(jobs))
        done = verb.perform(request, Job, keys)
    except OperationalError as error:
        if not timed_out(error):
            raise
        text = _(
            "It took too long to find the jobs: some may have been changed. Use other filters, or do it again."
        )
        model_admin.message_user(request, text, messages.ERROR)
    else:
        _report(model_admin, request, verb, done, refused)


def _report(
    model_admin: VerbAdmin, request: HttpRequest, verb: JobVerb, done: Done, refused: list[str]
) -> None:
    has_more, done.more = done.more, False  # said below, with a link
    told, level = verb.outcome(model_admin.opts, done)
    gone = _counted_before(request) - done.changed - done.asked - done.missed
    if gone > 0:
        fewer = ngettext(
            "That is %s fewer than the page had counted: another person or a worker has changed it since.",
            "That is %s fewer than the page had counted: another person or a worker has changed them since.",
            gone,
        )
        told, level = f"{told} {fewer % f'{gone:,}'}", messages.WARNING
    if refused:
        told = " ".join([told, _("Left alone: %s.") % ", ".join(refused)])
    if has_more:
        links = model_admin.links(request)
        told = format_html(
            '{} <a href="{}bulk/{}/?{}">{}</a>',
            told, links.address(Job, "changelist"), verb.name, request.GET.urlencode(),
            _("Do it again for the next ones"),
        )  # fmt: skip
        level = messages.WARNING
    model_admin.message_user(request, told, level)


def _counted_before(request: HttpRequest) -> int:
    """Returns the count of the page that asked; 0 where it had none."""
    try:
        return min(int(request.POST.get("counted", 0)), AT_ONCE)
    except ValueError:
        return 0


def refusals(verb: JobVerb, jobs: QuerySet[Job]) -> list[str]:
    """Returns why some of `jobs` are left alone, with their number: "12 running", of up to AT_ONCE of them."""
    reason = Case(
        When(IS_CANCELLING, then=Value("cancelling")),
        When(state__in=verb.states, then=Value("key")),
        default=F("state"),
        output_field=CharField(),
    )
    is_allowed = Case(When(verb.allowed, then=True), default=False, output_field=BooleanField())
    others = jobs.alias(is_allowed=is_allowed).filter(is_allowed=False).order_by("-pk")
    found = Counter(others.annotate(reason=reason).values_list("reason", flat=True)[:AT_ONCE])
    return [f"{count:,} {_words(reason, count)}" for reason, count in found.most_common()]


def breakdown(verb: JobVerb, jobs: QuerySet[Job]) -> list[tuple[str, list[str]]]:
    """Returns the numbers of jobs of each task, queue and error, as words, of the AT_ONCE newest that `verb`
    changes."""
    error = KeyTextTransform("exception", KeyTransform(-1, "errors"))
    is_failed = When(state=State.FAILED, then=Coalesce(error, Value(""), output_field=CharField()))
    error_of = Case(is_failed, default=Value(""), output_field=CharField())
    allowed = jobs.filter(verb.allowed).order_by("-pk").annotate(error=error_of)
    rows = list(allowed.values_list("task", "queue", "error")[:AT_ONCE])
    columns = [
        (_("By task"), [short_name(task) for task, _queue, _error in rows]),
        (_("By queue"), [queue for _task, queue, _error in rows]),
        (_("By error"), [short_name(error) for _task, _queue, error in rows if error]),
    ]
    return [(label, _parts(Counter(names))) for label, names in columns if names]


def members_left(jobs: QuerySet[Job]) -> int:
    """Counts the unfinished jobs that those of `jobs` have gathered that a discard changes, one more than AT_ONCE at
    most. Index: pgonly_batch_once, then pgonly_job_batch_unfinished."""
    keys = list(DISCARD.keys_of(jobs)[:AT_ONCE])
    batches = (
        gathered_by(Job.objects.using(jobs.db).filter(pk__in=keys)).filter(finished_at=None).values("pk")
    )
    rows = Job.objects.using(jobs.db).filter(batch_id__in=batches).exclude(state__in=FINISHED)
    return rows.values("pk")[: AT_ONCE + 1].count()


def _parts(counts: Counter[str]) -> list[str]:
    parts = [f"{count:,} {brief(name)}" for name, count in counts.most_common(PARTS_SHOWN)]
    if others := sum(counts.values()) - sum(count for _name, count in counts.most_common(PARTS_SHOWN)):
        parts.append(_("%s others") % f"{others:,}")
    return parts


def _words(reason: str, count: int) -> str:
    if reason == "cancelling":
        return _("already asked to stop")
    if reason == "key":
        return ngettext("whose unique key another job has", "whose unique keys other jobs have", count)
    return str(State(reason).label).lower()


def _page(
    model_admin: VerbAdmin,
    request: HttpRequest,
    verb: JobVerb,
    jobs: QuerySet[Job],
    address: str,
    changelist: JobChangeList | None = None,
) -> TemplateResponse:
    """Returns the page that asks. It says how many jobs there are, and why the others are left alone, unless that takes
    too long. `address`: of the list, to which the answer goes."""
    found = in_time(
        jobs.db,
        SEARCH_LIMIT,
        lambda: (
            verb.keys_of(jobs).count(),
            refusals(verb, jobs),
            breakdown(verb, jobs),
        ),
    )
    count, refused, parts = found or (0, [], [])
    members = in_time(jobs.db, SEARCH_LIMIT, lambda: members_left(jobs)) if verb is DISCARD and count else 0
    shown = min(count, AT_ONCE)
    named = {"verb": verb.label, "count": f"{shown:,}"}
    is_all = changelist is not None or request.POST.get("select_across") == "1"
    return model_admin.page(
        request,
        "job/bulk.html",
        _("%s jobs") % verb.label,
        took_too_long=found is None,
        count=count,
        count_label=label_of(count, AT_ONCE),
        has_more=count > AT_ONCE,
        at_once=f"{AT_ONCE:,}",
        refused=refused,
        breakdown=parts if count > 1 else [],
        act=ngettext("%(verb)s %(count)s job", "%(verb)s %(count)s jobs", shown) % named,
        is_end=verb in (CANCEL, DISCARD),
        members=label_of(members, AT_ONCE) if members else "",
        verb=verb,
        is_all=is_all,
        changelist=changelist,
        selected=[NO_JOB] if is_all else request.POST.getlist(ACTION_CHECKBOX_NAME),
        address=address,
    )


class RedriveForm(forms.Form):
    per_minute = forms.FloatField(
        label=gettext_lazy("Jobs a minute"),
        required=False,
        min_value=0.001,
        help_text=gettext_lazy("They start evenly spread. Empty: all now."),
    )
    arguments = forms.JSONField(
        label=gettext_lazy("New arguments"),
        required=False,
        initial=InvalidJSONInput(""),  # without it the box has "null" in it
        widget=forms.Textarea(attrs={"rows": 4, "cols": 60}),
        help_text=gettext_lazy('By name, as JSON: {"model": "deepseek-chat"}. Empty: as they are.'),
    )

    def __init__(self, data: Any, *, sees_data: bool) -> None:
        """A person who may not see the arguments does not choose others: they could send a job's data elsewhere."""
        super().__init__(data)
        if not sees_data:
            del self.fields["arguments"]

    def clean_arguments(self) -> dict[str, Any]:
        arguments = self.cleaned_data["arguments"] or {}
        if not isinstance(arguments, dict):
            raise ValidationError(_('It must be an object of names and values, such as {"model": "x"}.'))
        return arguments


@admin.action(
    permissions=["operate"], description=gettext_lazy("Redrive selected %(verbose_name_plural)s ...")
)
def redrive_jobs(
    model_admin: VerbAdmin, request: HttpRequest, queryset: QuerySet[Job]
) -> TemplateResponse | None:
    """Asks first, and then does it: for up to AT_ONCE jobs, those that have failed longest ago."""
    oldest: Any = queryset.filter(state=State.FAILED).order_by("pk")[: AT_ONCE + 1]
    form = RedriveForm(request.POST if "apply" in request.POST else None, sees_data=may_see_data(request))
    if form.is_valid():
        try:
            done = redrive(oldest[:AT_ONCE], **form.cleaned_data)
        except (PgonlyError, UnknownTaskError) as error:
            form.add_error("arguments" if "arguments" in form.fields else None, str(error))
        else:
            _tell_of_redrive(model_admin, request, done, form.cleaned_data)
            return None
    count = len(oldest.values_list("pk", flat=True))
    return model_admin.page(
        request,
        "job/redrive.html",
        _("Redrive failed jobs"),
        form=form,
        number=min(count, AT_ONCE),
        count=f"{min(count, AT_ONCE):,}",
        has_jobs=count > 0,
        has_more=count > AT_ONCE,
        selected=request.POST.getlist(ACTION_CHECKBOX_NAME),
        select_across=request.POST.get("select_across", "0"),
        checkbox_name=ACTION_CHECKBOX_NAME,
        back=request.get_full_path(),
    )


def _tell_of_redrive(
    model_admin: VerbAdmin, request: HttpRequest, done: Redriven, how: dict[str, Any]
) -> None:
    counted = ngettext("%s job", "%s jobs", done.jobs) % f"{done.jobs:,}"
    if done.jobs:
        names = ", ".join(how.get("arguments", ()))
        said = _("Redriven with another %s.") % names if names else _("Redriven.")
        log_once(request.user.pk, Job, counted, said)
        model_admin.message_user(request, _("Redriven: %s.") % counted, messages.SUCCESS)
    if done.left or not done.jobs:
        left = ngettext("%s was left alone.", "%s were left alone.", done.left) % f"{done.left:,}"
        told = [*done.reasons.items()][:REASONS_SHOWN] if may_see_data(request) else []
        reasons = [f"{job_id}: {reason}" for job_id, reason in told]
        text = " ".join([left, *reasons]) if done.left else _("None of them has failed.")
        model_admin.message_user(request, text, messages.WARNING)
