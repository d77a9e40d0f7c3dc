"""The URLs that progress.js asks: the news of the jobs of a page, once or as server-sent events; and Cancel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.core.handlers.asgi import ASGIRequest
from django.db import connections, transaction
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST, require_safe

from pgonly_django.progress.look import OF_AN_ANSWER, Wanted, cancel, look
from pgonly_django.progress.stream import is_full, stream, with_tokens
from pgonly_django.progress.tokens import TokenRefusedError, grant_of, owner_of
from pgonly_django.queue.output import Cursor

JOBS_AT_MOST = 20
RETRY_AFTER_SECONDS = 30


@login_not_required
@never_cache
@require_safe
def progress(request: HttpRequest) -> HttpResponseBase:
    """Answers ?token=...&after=... for each job of the page, with 403 where a token was made for another user."""
    try:
        wanted, owner = _wanted(request, request.GET.getlist("after"))
    except TokenRefusedError:
        return _refused()
    size = OF_AN_ANSWER // len(wanted)
    wanted = [each._replace(size=size) for each in wanted]
    return JsonResponse({"jobs": with_tokens(look(wanted), wanted, owner)})


@login_not_required
@csrf_protect
@require_POST
def cancel_job(request: HttpRequest) -> HttpResponseBase:
    """Cancels the job of the button. With JavaScript it answers with JSON, without by the button's page."""
    try:
        grant = grant_of(request.POST.get("token", ""), owner_of(request))
    except TokenRefusedError:
        return _refused()
    if not grant.may_cancel:
        return _refused()
    is_asked = cancel(grant)
    if "application/json" in request.headers.get("Accept", ""):
        return JsonResponse({"is_cancelled": is_asked})
    following = request.POST.get("next", "")
    hosts = {request.get_host()}
    is_ours = url_has_allowed_host_and_scheme(following, hosts, require_https=request.is_secure())
    # Not redirect(), which takes a word for the name of a view.
    return HttpResponseRedirect(following if is_ours and following.startswith("/") else "/")


@login_not_required
async def events(request: HttpRequest) -> HttpResponseBase:
    """Answers what progress() does, as events: for up to 5 minutes, while its user is signed in, and only under ASGI.
    All streams of a process share one thread and one connection to the database."""
    if not isinstance(request, ASGIRequest):
        return HttpResponse("Server-sent events need ASGI.", status=501, content_type="text/plain")
    if is_full():
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return HttpResponse("Too many streams.", status=503, content_type="text/plain", headers=headers)
    last = request.headers.get("Last-Event-ID", "")
    after = last.split("-") if last else request.GET.getlist("after")
    try:
        wanted, owner = await _apart(lambda: _wanted(request, after))
    except TokenRefusedError:
        return _refused()
    response = StreamingHttpResponse(stream(request, wanted, owner), content_type="text/event-stream")
    response["Cache-Control"], response["X-Accel-Buffering"] = "no-store", "no"
    return response


def _wanted(request: HttpRequest, after: Sequence[str]) -> tuple[list[Wanted], str]:
    """Returns what the request asks for, each job once, and the owner. Raises TokenRefusedError."""
    tokens, owner = request.GET.getlist("token"), owner_of(request)
    if not 0 < len(tokens) <= JOBS_AT_MOST or owner is None:
        raise TokenRefusedError
    asked = dict.fromkeys(zip(tokens, [*after, *["0"] * len(tokens)], strict=False))
    return [Wanted(grant_of(token, owner), Cursor.of(at)) for token, at in asked], owner


async def _apart(question: Callable[[], Any]) -> Any:
    """Runs a function in a thread of the event loop's pool, which is free afterwards, and closes connections there."""

    def ask() -> Any:
        try:
            return question()
        finally:
            connections.close_all()

    return await sync_to_async(ask, thread_sensitive=False)()


def _refused() -> HttpResponse:
    return JsonResponse({"error": _("This page is too old, or was made for another user.")}, status=403)


# Django refuses ATOMIC_REQUESTS for async views.
for _alias in connections.settings:
    events = transaction.non_atomic_requests(using=_alias)(events)
