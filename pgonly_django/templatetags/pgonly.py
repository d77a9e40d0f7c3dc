"""`{% load pgonly %}{% job_progress result %}`: a job as the users of a site see it. See docs/how-to/progress.md."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.middleware.csrf import get_token
from django.template import RequestContext
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

register = template.Library()

NO_URLS = (
    "job_progress asks URLs of pgonly_django. Add them to your urlpatterns: "
    'path("pgonly/", include("pgonly_django.urls")).'
)
NO_REQUEST = (
    "job_progress needs the request: render the template with it, and have "
    '"django.template.context_processors.request" among the context_processors of TEMPLATES.'
)


@register.inclusion_tag("pgonly_django/progress/job.html", takes_context=True)
def job_progress(
    context: RequestContext, job: Any, *, cancel: bool = False, output: bool = False, backend: str = ""
) -> dict[str, Any]:
    """Shows the progress of a job. `job`: a result of enqueue(), a row of Job, or an id. Nothing of another user's job
    is shown: the page decides whose jobs it names. `cancel`: with a button. `output`: with what the job emits.
    `backend`: the alias in TASKS, for an id."""
    from pgonly_django.progress.look import Wanted, look
    from pgonly_django.progress.tokens import Grant, owner_of

    request = getattr(context, "request", None) or context.get("request")
    if request is None:
        raise ImproperlyConfigured(NO_REQUEST)
    grant = Grant(backend or getattr(job, "backend", "default"), id_of(job), cancel, output)
    owner = owner_of(request, make=True)
    assert owner is not None
    (shown,) = look([Wanted(grant)])
    try:
        urls = {name: reverse(f"pgonly:{name}") for name in ("progress", "progress_events", "cancel")}
    except NoReverseMatch as error:
        raise ImproperlyConfigured(NO_URLS) from error
    is_first = not hasattr(request, "_pgonly_progress")
    request._pgonly_progress = True  # noqa: SLF001 - ours, on this request
    return {
        "job": shown,
        "token": grant.token(owner),
        "url": urls["progress"],
        "events_url": urls["progress_events"] if isinstance(request, ASGIRequest) else "",
        "cancel_url": urls["cancel"] if cancel else "",
        "csrf_token": get_token(request) if cancel else "",
        "next": request.get_full_path(),
        "output": output,
        "is_first": is_first,
        "now": timezone.now(),
    }


def id_of(job: Any) -> str:
    """Raises ValueError for anything that is not a job."""
    given = getattr(job, "pk", None) or getattr(job, "id", None) or job
    try:
        return str(UUID(str(given)))
    except ValueError:
        raise ValueError(f"job_progress needs a result of enqueue(), a job or its id, got {job!r}.") from None
