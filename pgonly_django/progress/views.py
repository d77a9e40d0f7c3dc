"""The URLs that progress.js asks: what is new of the jobs of a page, once or as server-sent events; and Cancel."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.core.handlers.asgi import ASGIRequest
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST, require_safe

from pgonly_django.progress.look import Wanted, cancel, look
from pgonly_django.progress.tokens import RefusedError, grant_of, owner_of

JOBS_AT_MOST = 20
LONGEST_OFFSET = 20
LOOK_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
STREAM_SECONDS = 300.0


@login_not_required
@never_cache
@require_safe
def progress(request: HttpRequest) -> HttpResponseBase:
    """?token=...&after=... for each job of the page. 403 where a token is not for who asks."""
    try:
        wanted, owner = _wanted(request, request.GET.getlist("after"))
    except RefusedError:
        return _refused()
    return JsonResponse({"jobs": _answers(wanted, owner)})


@login_not_required
@csrf_protect
@require_POST
def cancel_job(request: HttpRequest) -> HttpResponseBase:
    """The button: with JavaScript answered with JSON, without by the page that it stands on."""
    try:
        grant = grant_of(request.POST.get("token", ""), owner_of(request))
    except RefusedError:
        return _refused()
    if not grant.may_cancel:
        return _refused()
    is_asked = cancel(grant)
    if "application/json" in request.headers.get("Accept", ""):
        return JsonResponse({"is_cancelled": is_asked})
    following = request.POST.get("next", "")
    hosts = {request.get_host()}
    is_ours = url_has_allowed_host_and_scheme(following, hosts, require_https=request.is_secure())
    return redirect(following if is_ours else "/")


@login_not_required
async def events(request: HttpRequest) -> HttpResponseBase:
    """The same as progress(), as events: for 5 minutes at most, under ASGI alone. Between two looks it holds neither a
    thread nor a connection to the database."""
    if not isinstance(request, ASGIRequest):
        return HttpResponse("Server-sent events need ASGI.", status=501, content_type="text/plain")
    last = request.headers.get("Last-Event-ID", "")
    after = last.split("-") if last else request.GET.getlist("after")
    try:
        wanted, owner = await _apart(lambda: _wanted(request, after))
    except RefusedError:
        return _refused()
    response = StreamingHttpResponse(_stream(wanted, owner), content_type="text/event-stream")
    response["Cache-Control"], response["X-Accel-Buffering"] = "no-store", "no"
    return response


def _wanted(request: HttpRequest, after: Sequence[str]) -> tuple[list[Wanted], str]:
    """What the request asks for, and who asks. Raises RefusedError."""
    tokens, owner = request.GET.getlist("token"), owner_of(request)
    if not 0 < len(tokens) <= JOBS_AT_MOST or owner is None:
        raise RefusedError
    offsets = [*map(_offset, after), *[0] * len(tokens)]
    return [Wanted(grant_of(token, owner), at) for token, at in zip(tokens, offsets, strict=False)], owner


def _offset(text: str) -> int:
    """0 for what no answer gave."""
    is_number = text.isascii() and text.isdigit() and len(text) < LONGEST_OFFSET
    return min(int(text), 2**63 - 1) if is_number else 0


def _answers(wanted: Sequence[Wanted], owner: str) -> list[dict[str, Any]]:
    """With new tokens: a page that is open stays allowed to ask."""
    shown = look(wanted)
    return [{**each, "token": want.grant.token(owner)} for each, want in zip(shown, wanted, strict=True)]


async def _stream(wanted: Sequence[Wanted], owner: str) -> AsyncIterator[str]:
    ends_at, seen, said_at = time.monotonic() + STREAM_SECONDS, None, time.monotonic()
    while time.monotonic() < ends_at:
        answers = await _apart(lambda: _answers(wanted, owner))  # noqa: B023 - called at once
        news = [{name: value for name, value in each.items() if name != "token"} for each in answers]
        if news != seen:
            seen, said_at = _without_output(news), time.monotonic()
            offsets = [str(each.get("output", {}).get("offset", 0)) for each in answers]
            wanted = [Wanted(want.grant, int(offset)) for want, offset in zip(wanted, offsets, strict=True)]
            yield f"id: {'-'.join(offsets)}\ndata: {json.dumps({'jobs': answers})}\n\n"
            if all(each["is_over"] for each in answers):
                yield "event: over\ndata: {}\n\n"
                return
        elif time.monotonic() - said_at > KEEP_ALIVE_SECONDS:
            said_at = time.monotonic()
            yield ": \n\n"
        await asyncio.sleep(LOOK_SECONDS)


def _without_output(news: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they look when nothing has been emitted since."""
    return [
        {**each, "output": {"text": "", "keep": None, "offset": each["output"]["offset"]}}
        if "output" in each
        else each
        for each in news
    ]


async def _apart(question: Callable[[], Any]) -> Any:
    """In a thread of the event loop's pool, which is free again behind it; connections are closed there."""

    def ask() -> Any:
        try:
            return question()
        finally:
            connections.close_all()

    return await sync_to_async(ask, thread_sensitive=False)()


def _refused() -> HttpResponse:
    return JsonResponse({"error": _("This page is too old, or was made for somebody else.")}, status=403)


# Django refuses ATOMIC_REQUESTS for async views.
for _alias in connections.settings:
    events = transaction.non_atomic_requests(using=_alias)(events)
