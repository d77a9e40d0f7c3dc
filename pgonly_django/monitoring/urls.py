"""`path("", include("pgonly_django.monitoring.urls"))`: the metrics over HTTP, at metrics/, for callers that have
PGONLY["METRICS_TOKEN"], and for staff that may view jobs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.db import Error, connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import path
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache

from pgonly_django.conf import settings
from pgonly_django.monitoring.prometheus import SECONDS, exposition

METHODS = ["GET", "HEAD"]
TEXT = "text/plain; charset=utf-8"
REFUSAL = 'Send "Authorization: Bearer ..." with PGONLY["METRICS_TOKEN"].\n'
# Prometheus says how long it waits. The answer has to arrive by then.
WAITS = "X-Prometheus-Scrape-Timeout-Seconds"
FOR_THE_WAY_SECONDS, LEAST_SECONDS = 0.5, 0.5


def metrics(request: HttpRequest) -> HttpResponse:
    """Answers with the metrics. Without a token in the settings the page does not exist for callers that may not see
    it."""
    token = settings().metrics_token
    if not (_has_token(request, token) or _is_staff(request)):
        if not token:
            return HttpResponse("Not Found\n", TEXT, status=404)
        return HttpResponse(REFUSAL, TEXT, status=401, headers={"WWW-Authenticate": "Bearer"})
    if request.method not in METHODS:
        return HttpResponseNotAllowed(METHODS)
    names = request.GET.getlist("name[]")
    text, content_type = exposition(request.headers.get("Accept", ""), names, _seconds(request))
    return HttpResponse(text, content_type)


def _has_token(request: HttpRequest, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_bearer = bool(token) and scheme.lower() == "bearer"
    return is_bearer and constant_time_compare(given.strip().encode(), token.encode())


def _is_staff(request: HttpRequest) -> bool:
    """Returns False where the sessions cannot be read: a scraper with a session then gets no answer."""
    user: Any = getattr(request, "user", None)
    with suppress(Error):
        return bool(user and user.is_active and user.is_staff and user.has_perm("pgonly_django.view_job"))
    return False


def _seconds(request: HttpRequest) -> float:
    try:
        waits = float(request.headers.get(WAITS, ""))
    except ValueError:
        return SECONDS
    return min(max(LEAST_SECONDS, waits - FOR_THE_WAY_SECONDS), SECONDS)  # the least of NaN too


def _open_to_scrapers(view: Any) -> Any:
    """Opens the view: no login, no cache (and so no ETag), and no transaction of ATOMIC_REQUESTS: a database may be
    dead."""
    view = login_not_required(never_cache(view))
    for alias in connections.settings:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


metrics = _open_to_scrapers(metrics)
app_name = "pgonly_monitoring"
urlpatterns = [path("metrics", metrics, name="metrics"), path("metrics/", metrics)]
