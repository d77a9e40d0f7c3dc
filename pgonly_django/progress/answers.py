"""A page for a person who was sent a link: the question of a job that waits, with a button for each answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from django.contrib.auth.decorators import login_not_required
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.db import router
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

from pgonly_django.models import Event, Wait
from pgonly_django.queue.waits import send_event

SALT = "pgonly_django.answer"
REFRESH_SECONDS = 5
NO_URLS = (
    "answer_url() needs the URLs of pgonly_django. Add them to your urlpatterns: "
    'path("pgonly/", include("pgonly_django.urls")).'
)


class Page(NamedTuple):
    title: Promise | str
    text: Promise | str
    status: int = 200
    choices: Sequence[str] = ()


INVALID = Page(gettext_lazy("This link is not valid"), gettext_lazy("Please copy all of it."), 404)
EXPIRED = Page(gettext_lazy("This link has expired"), gettext_lazy("Please ask for a new one."), 410)
ANSWERED = Page(gettext_lazy("Already answered"), gettext_lazy("The first answer counts."), 410)
GONE = Page(
    gettext_lazy("No longer waited for"),
    gettext_lazy("The time for an answer has passed, or the question was withdrawn."),
    410,
)
SOON = Page(
    gettext_lazy("One moment"),
    gettext_lazy(
        "The job runs again, and has not come to its question yet. This page looks again by itself."
    ),
    503,
)
NO_CHOICES = gettext_lazy("This question has no answers to choose from. It is answered elsewhere.")


def answer_url(key: str, expires: timedelta = timedelta(days=7), *, using: str | None = None) -> str:
    """Returns the path of a page with the question of the job that waits for `key`, and a button for each of its
    choices. Whoever has the link may answer without logging in, once, and until `expires` has passed; put the address
    of your site before it. `using`: as for send_event(). Raises ImproperlyConfigured where the site does not include
    pgonly_django.urls."""
    until = int(time.time() + expires.total_seconds())
    token = signing.dumps([key, using or router.db_for_write(Event), until], salt=SALT)
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
    page = _page(token, request.POST.get("choice") if request.method == "POST" else None)
    response = render(request, "pgonly_django/progress/answer.html", page._asdict(), status=page.status)
    # The address is the right to answer. Django's own check of a POST needs it on this site.
    response["Referrer-Policy"] = "same-origin"
    response["X-Robots-Tag"] = "noindex"
    if page is SOON:
        response["Refresh"] = str(REFRESH_SECONDS)
    return response


def _page(token: str, choice: str | None) -> Page:
    try:
        key, alias, until = signing.loads(token, salt=SALT)
    except signing.BadSignature:
        return INVALID
    if time.time() > until:
        return EXPIRED
    waits = Wait.objects.using(alias).filter(key=key)
    found: Any = waits.asked().order_by("began_at")  # one look: at any moment a job may come to its wait
    asked = [wait for wait in found if not wait.runs_again]
    if not asked:
        is_answered = Event.objects.using(alias).filter(key=key).exists()
        return ANSWERED if is_answered else SOON if found else GONE
    if not any(choice in wait.choices for wait in asked):
        return _question(asked[0])
    if not send_event(key, choice, using=alias):
        return ANSWERED
    text = _("Your answer is: %s.") % choice
    if waits.answerable().exists():
        text = _("%s Another job asks the same with other answers, and still waits for one of them.") % text
    return Page(_("Thank you"), text)


def _question(wait: Any) -> Page:
    title = wait.question or _("A decision is needed")
    if not wait.choices:
        return Page(title, NO_CHOICES)
    if wait.until is None:
        return Page(title, ANSWERED.text, choices=wait.choices)
    until = timezone.localtime(wait.until) if timezone.is_aware(wait.until) else wait.until
    text = _("Please answer before %s.") % date_format(until, "DATETIME_FORMAT")
    return Page(title, text, choices=wait.choices)
