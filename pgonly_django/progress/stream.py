"""The news of the jobs of a page, as server-sent events, as long as its user is signed in. A stream holds little: what
was shown last, and one event, which the next one follows when the client has taken it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.http import HttpRequest

from pgonly_django.compat import release_request_thread
from pgonly_django.progress.look import OF_AN_EVENT, Wanted, by_database, in_words
from pgonly_django.progress.looker import Looker, ask, give_up
from pgonly_django.progress.tokens import is_signed_in_still
from pgonly_django.queue.output import Cursor

LOOK_SECONDS = 1.0
# A look reads the jobs alone. After this time the session of the user is read again, too.
SESSION_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 15.0
LONGEST_SECONDS = 300.0
# A stream ends where the database gives no answer for this long: its page asks once, and says that it has no answer.
ANSWER_SECONDS = 10.0
# A stream that is over may wait for its client for this long.
TAKEN_WITHIN_SECONDS = 10.0
STREAMS_AT_MOST = 1_000  # of a process

_streams: set[Stream] = set()


def is_full() -> bool:
    return len(_streams) >= STREAMS_AT_MOST


async def stream(request: HttpRequest, wanted: Sequence[Wanted], owner: str) -> AsyncIterator[bytes]:
    """Streams for up to LONGEST_SECONDS. Then progress.js asks progress(), which refuses a signed-out user."""
    release_request_thread(connections.close_all)
    of_this = Stream(wanted, owner)
    _streams.add(of_this)
    watching = asyncio.create_task(of_this.watch(request))
    try:
        async for event in of_this.events():
            of_this.handed_out_at = time.monotonic()
            yield event
            of_this.handed_out_at = None
    finally:
        _streams.discard(of_this)
        watching.cancel()


class Stream:
    """One stream, made in the task that sends it."""

    def __init__(self, wanted: Sequence[Wanted], owner: str) -> None:
        size = OF_AN_EVENT // max(1, sum(each.grant.shows_output for each in wanted))
        self._wanted, self._owner = [each._replace(size=size) for each in wanted], owner
        self._task, self._is_over = asyncio.current_task(), False
        self.handed_out_at: float | None = None  # since then the client has not taken the last event

    async def watch(self, request: HttpRequest) -> None:
        """Ends the stream when its time has passed, its user has signed out or the server stops. Where the client takes
        nothing, the task that sends it is cancelled, as Django does when a client disconnects."""
        over_at, ask_at = time.monotonic() + LONGEST_SECONDS, time.monotonic() + SESSION_SECONDS
        while not (self._is_over and self._is_not_taken()):
            await asyncio.sleep(LOOK_SECONDS)
            self._is_over |= time.monotonic() > over_at or server_stops()
            if time.monotonic() > ask_at and not self._is_over:
                asked = ask(DEFAULT_DB_ALIAS, partial(is_signed_in_still, request))
                self._is_over = not await _answer(*asked)
                ask_at = time.monotonic() + SESSION_SECONDS
        if self._task is not None:
            self._task.cancel()

    def _is_not_taken(self) -> bool:
        return self.handed_out_at is not None and time.monotonic() > self.handed_out_at + TAKEN_WITHIN_SECONDS

    async def events(self) -> AsyncIterator[bytes]:
        shown, said_at = None, time.monotonic()
        while not self._is_over and (found := await self._look()) is not None:
            if found != shown:
                shown, said_at = [_without_output(each) for each in found], time.monotonic()
                yield self._event(found)
                if all(each["is_over"] for each in found):
                    yield b"event: over\ndata: {}\n\n"
                    return
                if any("next" in each.get("output", {}) for each in found):
                    continue
            elif time.monotonic() - said_at > KEEP_ALIVE_SECONDS:
                said_at = time.monotonic()
                yield b": \n\n"
            await asyncio.sleep(LOOK_SECONDS - time.monotonic() % LOOK_SECONDS)

    async def _look(self) -> list[dict[str, Any]] | None:
        """Returns None when the database has not answered."""
        asked = {alias: ask(alias, part) for alias, part in by_database(self._wanted).items()}
        seen = {alias: await _answer(*each) for alias, each in asked.items()}
        return None if None in seen.values() else in_words(self._wanted, seen)

    def _event(self, found: Sequence[dict[str, Any]]) -> bytes:
        """Returns an event. The next look continues after it."""
        outputs = [each.get("output", {}) for each in found]
        cursors = [Cursor.of(output.get("next") or output.get("offset", "0")) for output in outputs]
        self._wanted = [want._replace(cursor=at) for want, at in zip(self._wanted, cursors, strict=True)]
        data = json.dumps({"jobs": with_tokens(found, self._wanted, self._owner)}, ensure_ascii=False)
        return f"id: {'-'.join(map(str, cursors))}\ndata: {data}\n\n".encode()


def with_tokens(
    found: Sequence[dict[str, Any]], wanted: Sequence[Wanted], owner: str
) -> list[dict[str, Any]]:
    """Adds new tokens: a page that is open stays allowed to ask."""
    return [{**each, "token": want.grant.token(owner)} for each, want in zip(found, wanted, strict=True)]


def _without_output(each: dict[str, Any]) -> dict[str, Any]:
    """Returns the event as it looks when nothing has been emitted since."""
    if "output" not in each:
        return each
    return {**each, "output": {"text": "", "keep": None, "offset": each["output"]["offset"]}}


async def _answer(looker: Looker, answer: Future[Any]) -> Any:
    """Returns None where there is no answer within ANSWER_SECONDS."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), ANSWER_SECONDS)
    except TimeoutError:
        give_up(looker)
        return None


def server_stops() -> bool:
    """Returns whether the server stops. uvicorn waits for open responses without telling them. Its server object, whose
    method handles SIGTERM, knows."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))
