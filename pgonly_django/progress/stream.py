"""What is new of the jobs of a page, as server-sent events, as long as its user is signed in."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections
from django.http import HttpRequest

from pgonly_django.progress.look import Wanted, look
from pgonly_django.progress.tokens import is_signed_in_still

LOOK_SECONDS = 1.0
# A look reads the jobs alone. So often the session of the user is read again, too.
SESSION_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 15.0
LONGEST_SECONDS = 300.0


def answers(wanted: Sequence[Wanted], owner: str) -> list[dict[str, Any]]:
    """With new tokens: a page that is open stays allowed to ask."""
    shown = look(wanted)
    return [{**each, "token": want.grant.token(owner)} for each, want in zip(shown, wanted, strict=True)]


async def stream(request: HttpRequest, wanted: Sequence[Wanted], owner: str) -> AsyncIterator[str]:
    """For LONGEST_SECONDS at most. Behind its end progress.js asks progress(), which refuses who has signed out."""
    began_at = said_at = asked_at = time.monotonic()
    seen = None
    while time.monotonic() < began_at + LONGEST_SECONDS:
        if time.monotonic() > asked_at + SESSION_SECONDS:
            if not await apart(lambda: is_signed_in_still(request)):
                return
            asked_at = time.monotonic()
        found = await apart(lambda: answers(wanted, owner))  # noqa: B023 - called at once
        news = [{name: value for name, value in each.items() if name != "token"} for each in found]
        if news != seen:
            seen, said_at = _without_output(news), time.monotonic()
            offsets = [str(each.get("output", {}).get("offset", 0)) for each in found]
            wanted = [Wanted(want.grant, int(offset)) for want, offset in zip(wanted, offsets, strict=True)]
            yield f"id: {'-'.join(offsets)}\ndata: {json.dumps({'jobs': found})}\n\n"
            if all(each["is_over"] for each in found):
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


async def apart(question: Callable[[], Any]) -> Any:
    """In a thread of the event loop's pool, which is free again behind it; connections are closed there."""

    def ask() -> Any:
        try:
            return question()
        finally:
            connections.close_all()

    return await sync_to_async(ask, thread_sensitive=False)()
