"""Wakes workers that sleep, which no NOTIFY reaches: a POST to each of PGONLY["WAKE_URLS"] where a NOTIFY goes out.

A thread for each URL posts while there is something to post: at once, and then at most once in PACE_SECONDS, so that
ten thousand calls of enqueue() make a few POSTs. The last one begins after the last commit. No caller waits, except a
process that ends: for END_SECONDS at most.
"""

from __future__ import annotations

import atexit
import encodings.idna  # noqa: F401 - imported by getaddrinfo(): see _opening
import logging
import os
import threading
import time
import urllib.request
from contextlib import suppress
from http import HTTPStatus
from urllib.error import HTTPError

from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction

from pgonly_django.compat import call_before_threads_are_joined
from pgonly_django.conf import read_settings, settings
from pgonly_django.database import testrun
from pgonly_django.events import emit

PACE_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0  # of connecting, and of each wait for the answer
END_SECONDS = 5.0
# After a POST that failed: a worker that starts at this moment refuses the first one.
RETRY_SECONDS = (1.0, 3.0, 10.0, 30.0)
TOKEN_SECONDS = 60
SALT = "pgonly_django.wake"
SUBJECT = "wake"
LONG_AGO = float("-inf")  # not nought, which is when the machine started

# No process forks while a thread of ours makes an opener, for which OpenSSL reads its certificates: its lock would stay
# locked in the child forever. So would that of an import, which is why a POST imports nothing.
_opening = threading.Lock()
# Those of the settings at the start. In a test run nothing is sent there, only to those that the tests set themselves.
_usual: set[str] = set()
_urls: dict[str, WakeUrl] = {}
_waited_at_exit = 0.0


def token() -> str:
    """Returns a token that lets its bearer wake a worker of this SECRET_KEY, for TOKEN_SECONDS."""
    return signing.TimestampSigner(salt=SALT).sign(SUBJECT)


def is_valid(token: str) -> bool:
    try:
        return signing.TimestampSigner(salt=SALT).unsign(token, max_age=TOKEN_SECONDS) == SUBJECT
    except (signing.BadSignature, ValueError):  # ValueError: it is signed, and has no time
        return False


def remember_usual() -> None:
    with suppress(ImproperlyConfigured):  # the system check says so
        _usual.update(read_settings().wake_urls)


def post_soon() -> None:
    """Posts to each URL, in the background. Never raises, and never waits."""
    try:
        urls = settings().wake_urls
    except ImproperlyConfigured:  # the system check says so
        return
    for url in urls:
        if not (url in _usual and testrun.is_on()):
            (_urls.get(url) or _urls.setdefault(url, WakeUrl(url))).want()


def post_after_commit(alias: str) -> None:
    """Does the same after the caller's transaction has committed, and not at all when it rolls back."""
    if connections[alias].in_atomic_block:
        transaction.on_commit(post_soon, using=alias, robust=True)
    else:
        post_soon()


def _flush_at_exit() -> None:
    """Registered at two points of the exit, which together take END_SECONDS at most."""
    global _waited_at_exit  # noqa: PLW0603 - a fact of the process
    began = time.monotonic()
    flush(max(END_SECONDS - _waited_at_exit, 0.0))
    _waited_at_exit += time.monotonic() - began


def flush(seconds: float | None = None) -> None:
    """Posts what is waiting for its turn, and waits until it is posted, for up to `seconds`, by default 5."""
    give_up_at = time.monotonic() + (END_SECONDS if seconds is None else seconds)
    urls = tuple(_urls.values())
    for url in urls:
        url.hurry()
    for url in urls:
        url.wait_until_posted(give_up_at)


class WakeUrl:
    def __init__(self, url: str) -> None:
        self.url = url
        # Reentrant, as a Condition is by itself: a signal handler may enqueue while its thread holds it.
        self._changed = threading.Condition()
        self._is_wanted = self._is_posting = self._has_thread = False
        self._failures = 0  # in succession
        self._posted_at = LONG_AGO
        self._opener: urllib.request.OpenerDirector | None = None

    def want(self) -> None:
        with self._changed:
            if not self._is_wanted:
                self._is_wanted = True
                self._changed.notify_all()
            if self._has_thread:
                return
            self._has_thread = True
        self._start()

    def hurry(self) -> None:
        """Posts at once what is waiting for its turn."""
        with self._changed:
            if self._is_wanted:
                self._posted_at = LONG_AGO
                self._changed.notify_all()

    def wait_until_posted(self, give_up_at: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: not (self._is_wanted or self._is_posting), max(give_up_at - time.monotonic(), 0.0)
            )

    def _start(self) -> None:
        try:
            # A daemon: what hangs must not keep a process alive that ends.
            threading.Thread(target=self._work, name="pgonly wake-up", daemon=True).start()
        except RuntimeError as error:
            if not threading.main_thread().is_alive():  # an interpreter that ends starts no more threads
                self.hurry()
                self._work()
                return
            with self._changed:
                self._has_thread = self._is_wanted = False
            self._note(f"no thread could be started: {error}")

    def _work(self) -> None:
        while self._takes_turn():
            failure = self._post()
            with self._changed:
                self._is_posting = False
                self._changed.notify_all()
            self._note(failure)

    def _post(self) -> str | None:
        """Returns None when the answer is a good one (2xx), else what went wrong."""
        try:
            self._opener = self._opener or _new_opener(self.url)
            headers = {"Authorization": f"Bearer {token()}", "User-Agent": "pgonly-django"}
            request = urllib.request.Request(self.url, b"", headers, method="POST")  # noqa: S310 - conf.py checks it
            with self._opener.open(request, timeout=TIMEOUT_SECONDS):
                return None
        except HTTPError as error:
            with error:
                return f"the answer is {error.code} {error.reason}.{_hint(error)}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread continues
            return str(getattr(error, "reason", error)).strip() or type(error).__name__

    def _takes_turn(self) -> bool:
        """Waits until the next POST is due. Returns False when there is none: the thread ends."""
        with self._changed:
            while (due_at := self._due_at()) is not None:
                now = time.monotonic()
                if now >= due_at:
                    self._is_wanted = False  # what is wanted from now on is another POST
                    self._is_posting = True
                    self._posted_at = now
                    return True
                self._changed.wait(due_at - now)
            self._has_thread = False
            return False

    def _due_at(self) -> float | None:
        if self._is_wanted:
            return self._posted_at + PACE_SECONDS
        is_ending = not threading.main_thread().is_alive()
        if 0 < self._failures <= len(RETRY_SECONDS) and not is_ending:
            return self._posted_at + RETRY_SECONDS[self._failures - 1]
        return None

    def _note(self, failure: str | None) -> None:
        """Logs a `failure` once, and not again for the next POSTs that fail."""
        self._failures = 0 if failure is None else self._failures + 1
        if self._failures == 1:
            place = self.url.partition("?")[0]
            message = f"Sleeping workers could not be woken at {place}: {failure}"
            emit("queue.wake_failed", message, level=logging.WARNING, url=place)


def _hint(error: HTTPError) -> str:
    if error.code == HTTPStatus.UNAUTHORIZED:
        return " Do both sides have the same SECRET_KEY and the right time?"
    if target := error.headers.get("Location"):
        return f" It leads to {target}: name the address that answers by itself."
    return ""


def _new_opener(url: str) -> urllib.request.OpenerDirector:
    """Returns an opener that follows no redirect, which would make a GET of the POST and take the token elsewhere. It
    uses the proxies that the environment names (HTTPS_PROXY, NO_PROXY), and not those of the system: on macOS that
    crashes a forked process."""
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler(urllib.request.getproxies_environment()))
    opener.add_handler(urllib.request.HTTPHandler())
    if url.lower().startswith("https:"):
        with _opening:
            opener.add_handler(urllib.request.HTTPSHandler())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    return opener


def _after_fork() -> None:
    _urls.clear()  # the threads are the parent's
    _opening.release()


os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_after_fork)
call_before_threads_are_joined(_flush_at_exit)
# And after the threads have ended that enqueued.
atexit.register(_flush_at_exit)
