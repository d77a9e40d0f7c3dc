"""A page for a person who was sent a link: the question of a job that waits, with a button for each answer."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from pgonly_django.current_job import current_job
from pgonly_django.models import Event, Job, Step, Wait
from pgonly_django.models.job import FINISHED
from pgonly_django.monitoring.clicks import people_at
from pgonly_django.queue.waits import send_event

SALT = "pgonly_django.answer"
REFRESH_SECONDS, EARLY_SECONDS = 5, 3600
JOBS_ASKED = 20  # of which the log is asked who has answered
NO_URLS = (
    "answer_url() needs the URLs of pgonly_django. Add them to your urlpatterns: "
    'path("pgonly/", include("pgonly_django.urls")).'
)


class Link(NamedTuple):
    """What the address says."""

    key: str
    alias: str
    until: int  # an epoch
    job_id: str = ""  # of the job that made the link
    made_at: int = 0  # an epoch


class Page(NamedTuple):
    title: Promise | str
    text: Promise | str
    status: int = 200
    choices: Sequence[str] = ()
    chosen: str | None = None  # and not confirmed


INVALID = Page(gettext_lazy("This link is not valid"), gettext_lazy("Please copy all of it."), 404)
EXPIRED = Page(gettext_lazy("This link has expired"), gettext_lazy("Please ask for a new one."), 410)
GONE = Page(
    gettext_lazy("No longer waited for"),
    gettext_lazy("The time for an answer has passed, or the question was withdrawn."),
    410,
)
SOON = Page(
    gettext_lazy("One moment"),
    gettext_lazy("The job has not come to its question yet. This page looks again by itself."),
    503,
)
FIRST_COUNTS = gettext_lazy("The first answer counts.")
NO_CHOICES = gettext_lazy("This question has no answers to choose from. It is answered elsewhere.")


def answer_url(key: str, expires: timedelta = timedelta(days=7), *, using: str | None = None) -> str:
    """Returns the path of a page with the question of the job that waits for `key`, and a button for each of its
    choices. Whoever has the link may answer without logging in, once, and until `expires` has passed; put the address
    of your site before it. `using`: as for send_event(). Raises ImproperlyConfigured where the site does not include
    pgonly_django.urls."""
    until = int(time.time() + expires.total_seconds())
    run = current_job.get()
    job_id, alias = str(run.job.id) if run else "", using or router.db_for_write(Event)
    link = Link(key, alias, until, job_id, int(time.time()))
    token = signing.dumps(link, salt=SALT)
    try:
        return reverse("pgonly:answer", args=[token])
    except NoReverseMatch as error:
        raise ImproperlyConfigured(NO_URLS) from error


@login_not_required
@never_cache
@csrf_protect
@xframe_options_deny
@require_http_methods(["GET", "HEAD", "POST"])
def answer(request: HttpRequest, token: str) -> HttpResponse:
    """Shows the question of the link, and takes the answer. A GET changes nothing: programs open the links of mails."""
    post = request.POST if request.method == "POST" else {}
    page = _page(token, post.get("choice"), is_confirmed="confirmed" in post)
    response = render(request, "pgonly_django/progress/answer.html", page._asdict(), status=page.status)
    # The address is the right to answer. Django's own check of a POST needs it on this site.
    response["Referrer-Policy"] = "same-origin"
    response["X-Robots-Tag"] = "noindex"
    if page is SOON:
        response["Refresh"] = str(REFRESH_SECONDS)
    return response


def _page(token: str, choice: str | None, *, is_confirmed: bool) -> Page:
    try:
        link = Link(*signing.loads(token, salt=SALT))
    except signing.BadSignature:
        return INVALID
    if time.time() > link.until:
        return EXPIRED
    waits = Wait.objects.using(link.alias).filter(key=link.key)
    found: Any = waits.asked().order_by("began_at")  # one look: at any moment a job may come to its wait
    asked = [wait for wait in found if not wait.runs_again]
    if not asked:
        return _answered(link) or (SOON if found or _is_early(link) else GONE)
    offering = next((wait for wait in asked if choice in wait.choices), None)
    if choice is None or offering is None:
        return _question(asked[0])
    if not is_confirmed:
        text = _("Your answer is “%s”. It is final.") % choice
        return _question(offering)._replace(text=text, choices=(), chosen=choice)
    if not send_event(link.key, choice, using=link.alias):
        return _answered(link) or GONE
    Event.objects.using(link.alias).filter(key=link.key).update(is_choice=True)
    text = _("Your answer is: %s.") % choice
    if waits.answerable().exists():
        text = _("%s Another job asks the same with other answers, and still waits for one of them.") % text
    return Page(_("Thank you"), text)


def _question(wait: Any) -> Page:
    title = wait.question or _("A decision is needed")
    if not wait.choices:
        return Page(title, NO_CHOICES)
    if wait.until is None:
        return Page(title, FIRST_COUNTS, choices=wait.choices)
    return Page(title, _("Please answer before %s.") % _in_its_zone(wait.until), choices=wait.choices)


def _answered(link: Link) -> Page | None:
    """Says what was answered, when, and by whom, as far as that was a click in the admin. Only the text of a choice is
    shown: what code has sent may be meant for the job alone."""
    event = Event.objects.using(link.alias).filter(key=link.key).first()
    if event is None:
        return None
    waits = Wait.objects.using(link.alias).filter(key=link.key)
    jobs = {link.job_id, *map(str, waits.values_list("job_id", flat=True)[:JOBS_ASKED])} - {""}
    people = people_at(Job, dict.fromkeys(jobs, event.sent_at), f"“{link.key}”")
    person = next(iter(people.values()), None)
    facts = {"time": _in_its_zone(event.sent_at), "person": person, "answer": event.payload}
    said = _("It was answered on %(time)s by %(person)s.") if person else _("It was answered on %(time)s.")
    what = [_("The answer is “%(answer)s”.")] if event.is_choice else []
    text = " ".join(each % facts for each in (said, *what))
    return Page(_("Already answered"), f"{text} {FIRST_COUNTS}", 410)


def _is_early(link: Link) -> bool:
    """Returns whether the job that made the link has not come to its question yet, as far as one can know: it may have
    gone another way, so that a link is early for EARLY_SECONDS at most."""
    if not link.job_id or time.time() - link.made_at > EARLY_SECONDS:
        return False
    job_id = UUID(link.job_id)
    job = Job.objects.using(link.alias).filter(pk=job_id).exclude(state__in=FINISHED)
    of_first = Q(name__startswith="first of ", name__contains=json.dumps(link.key))
    steps = Step.objects.using(link.alias).filter(Q(name=f"event {link.key}") | of_first, job=job_id)
    waits = Wait.objects.using(link.alias).filter(key=link.key, job=job_id)
    return job.exists() and not (waits.exists() or steps.exists())


def _in_its_zone(moment: datetime) -> str:
    """Formats date and time with the zone in parentheses, after which no text of a language has a full stop."""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return f"{date_format(local, 'DATETIME_FORMAT')} ({local.tzname() or settings.TIME_ZONE})"
