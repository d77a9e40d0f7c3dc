"""A person's answer to a job that waits for one: the buttons of the job's page and of lists, and what they call."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.base import Links
from pgonly_django.admin.formats import brief, exact_time, short_name
from pgonly_django.admin.jobs.calls import JsonText
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.database.on_django import repeat_after_conflict
from pgonly_django.models import Event, Job, Wait
from pgonly_django.monitoring.clicks import person_at
from pgonly_django.queue.waits import send_event

BUTTON = """<button type="submit" class="button pgonly-button" formaction="{}" name="answer" value="{}" \
aria-label="{}">{}</button>"""
ANSWER_SHOWN = 200
STILL_ASKED = gettext_lazy("Another job asks “%s” with other answers, and still waits for one of them.")


def for_reader(waits: list[Any], links: Links) -> list[Any]:
    """Takes the questions away from who may neither answer them nor see the data of jobs: they may have values of the
    job in them."""
    if not (may_see_data(links.request) or links.may_operate(Job)):
        for wait in waits:
            wait.question = ""
    return waits


def answer_address(wait: Any, links: Links, **query: str) -> str:
    """Returns what takes an answer to the wait; "" where there is none to give, or the person may give none."""
    if wait.key is None or wait.batch_id or not links.may_operate(Job):
        return ""
    return links.address(Job, "answer", str(wait.job_id), key=wait.key, **query)


def answer_buttons(wait: Any, address: str) -> SafeString:
    """Returns a button for each choice, for a form with the CSRF token. Without choices a link to a form."""
    asked = wait.question or wait.key
    if address and not wait.choices:
        link = '<a class="button pgonly-button" href="{}" aria-label="{}: {}">{}</a>'
        return format_html(link, address, _("Send an answer"), asked, _("Send an answer"))
    choices = wait.choices if address else ()
    return format_html_join(" ", BUTTON, ((address, each, f"{each}: {asked}", each) for each in choices))


class AnswerForm(forms.Form):
    def __init__(self, wait: Any, data: Any) -> None:
        super().__init__(data)
        help_text = gettext_lazy('The answer in JSON, such as "yes" or {"by": 3}. Empty: null.')
        self.fields["answer"] = (
            forms.ChoiceField(
                label=_("Answer"), choices=[("", "---"), *((each, each) for each in wait.choices)]
            )
            if wait.choices
            else JsonText(label=_("Answer"), help_text=help_text)
        )


def answer_view(model_admin: VerbAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    """Answers what the job waits for under ?key=. A GET, and an answer that is none, lead to a form."""
    job: Job = model_admin.row_to_operate(request, object_id)
    key, told = request.GET.get("key", "").replace("\x00", ""), None
    waits = Wait.objects.using(router.db_for_write(Wait)).filter(key=key)
    wait = waits.answerable().filter(job=job.pk).first()
    if wait is not None:
        form = AnswerForm(wait, request.POST if request.method == "POST" else None)
        if not form.is_valid():
            return _form_page(model_admin, request, job, wait, form)
        told = _answered(request, job, wait, form.cleaned_data["answer"])
        if told is not None and waits.answerable().exists():
            model_admin.message_user(request, STILL_ASKED % key, messages.WARNING)
    model_admin.message_user(request, *(told or _too_late(request, job, key)))
    return HttpResponseRedirect(model_admin.page_after(request, job))


def _form_page(
    model_admin: VerbAdmin, request: HttpRequest, job: Job, wait: Wait, form: forms.Form
) -> HttpResponse:
    return model_admin.page(
        request,
        "job/call.html",
        wait.question or _("Answer “%s”") % wait.key,
        form=form,
        submit=_("Send an answer"),
        about=_("The job waits for “%s”. The first answer counts.") % wait.key,
        job_name=short_name(job.task),
        back=model_admin.page_after(request, job),
    )


def _answered(request: HttpRequest, job: Job, wait: Wait, answer: Any) -> tuple[str, int] | None:
    """Returns what to tell the person; None where another answer came first."""
    person, key = request.user.pk, wait.key
    assert person is not None
    assert key is not None
    said = _("Answered “%s”") % key + (f": {answer}." if wait.choices else ".")
    alias = router.db_for_write(Wait)

    def send() -> bool:
        with transaction.atomic(using=alias):
            is_first = send_event(key, answer, using=alias)
            if is_first:
                Event.objects.using(alias).filter(key=key).update(is_choice=bool(wait.choices))
                LogEntry.objects.log_actions(person, [job], CHANGE, said)
        return is_first

    return (said, messages.SUCCESS) if repeat_after_conflict(alias, send) else None


def _too_late(request: HttpRequest, job: Job, key: str) -> tuple[str, int]:
    """Says who answered first, as far as that was a click in the admin."""
    alias = router.db_for_write(Event)
    event = Event.objects.using(alias).filter(key=key).first()
    if event is None and Wait.objects.using(alias).asked().filter(job=job.pk, key=key).exists():
        return _(
            "The job runs again, and has not come to “%s” yet. Please try again."
        ) % key, messages.WARNING
    if event is None:
        return _("The job does not wait for “%s” any more.") % key, messages.WARNING
    person = person_at(Job, job.pk, event.sent_at, f"“{key}”") or _("a link or your code")
    facts = {"key": key, "time": exact_time(event.sent_at), "person": person}
    text = _("“%(key)s” was answered first by %(person)s, at %(time)s.") % facts
    if may_see_data(request):
        answer = brief(json.dumps(event.payload, ensure_ascii=False), ANSWER_SHOWN)
        text = _("%(text)s The answer is: %(answer)s") % {"text": text, "answer": answer}
    return text, messages.WARNING
