"""The URL of a tick: who may ask for it, for how long, and the JSON that answers after it has ended."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.core.signing import BadSignature, Signer
from django.db import Error as DatabaseError
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponseBase, HttpResponseNotAllowed, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from pgonly_django.conf import settings
from pgonly_django.events import emit
from pgonly_django.exceptions import DatabaseAwayError
from pgonly_django.worker.options import database_of_jobs
from pgonly_django.worker.tick import running

SALT = "pgonly_django.worker.tick"
BEARER = "bearer "
METHODS = ["GET", "POST"]
LEAST_SECONDS = 1.0
OVERTIME_SECONDS = 1.0
OVERTIME = "The time has passed, and PostgreSQL does not answer. The tick ends when it does."
IN_TRANSACTION = (
    "A tick inside a transaction sees nothing of it: its own connection is separate. In tests use TransactionTestCase, "
    "or with pytest-django @pytest.mark.django_db(transaction=True)."
)


class TickRefusedError(Exception):
    def __init__(self, response: HttpResponseBase) -> None:
        self.response = response


def tick(request: HttpRequest, token: str = "") -> HttpResponseBase:
    """Answers under WSGI."""
    try:
        seconds = _seconds(request, token)
        going = running.begin(seconds)
        try:
            return JsonResponse(going.answer.result(seconds + OVERTIME_SECONDS))
        except TimeoutError:
            return _error(OVERTIME, 503)
        except BaseException:  # a server that ends, or whose patience does, raises in its main thread
            going.release()
            raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets JSON
        return _failed(error)


async def atick(request: HttpRequest, token: str = "") -> HttpResponseBase:
    """Answers under ASGI: in a thread for sync views a disconnected client would block the event loop."""
    try:
        seconds = _seconds(request, token)
        going = running.begin(seconds)
        try:
            answer = asyncio.wrap_future(going.answer)
            return JsonResponse(await asyncio.wait_for(answer, seconds + OVERTIME_SECONDS))
        except TimeoutError:
            return _error(OVERTIME, 503)
        except BaseException:  # the client has gone, or the server ends
            going.stop()
            raise
    except Exception as error:  # noqa: BLE001 - as above
        return _failed(error)


def _seconds(request: HttpRequest, token: str) -> float:
    """Returns how long to tick. Raises TickRefusedError for a request that may not tick, or not for that long."""
    authorization = request.headers.get("Authorization", "")
    given = token or request.GET.get("token", "")
    if not (is_valid_token(given) or is_valid_header(authorization)):
        raise TickRefusedError(_error("No valid token. `manage.py pgonly_tick_url` prints the URL.", 403))
    if request.method not in METHODS:
        raise TickRefusedError(HttpResponseNotAllowed(METHODS))
    most = settings().tick_seconds
    try:
        seconds = float(request.GET.get("seconds", most))
    except ValueError:
        seconds = 0.0
    if not LEAST_SECONDS <= seconds <= most:
        reason = f'?seconds= must be a number from 1 to {most:g}, which is PGONLY["TICK_SECONDS"].'
        raise TickRefusedError(_error(reason, 400))
    if connections[database_of_jobs()].in_atomic_block:
        raise TickRefusedError(_error(IN_TRANSACTION, 500))
    return seconds


def _failed(error: Exception) -> HttpResponseBase:
    if isinstance(error, TickRefusedError):
        return error.response
    if isinstance(error, running.BusyError):
        return JsonResponse({"busy": True})
    message = f"The tick failed: {str(error).strip() or type(error).__name__}"
    is_known = isinstance(
        error, DatabaseAwayError | DatabaseError | ImproperlyConfigured | running.StuckError
    )
    emit("worker.tick_failed", message, level=logging.ERROR, exc_info=None if is_known else error)
    return _error(message, 503 if is_known else 500)


def _error(message: str, status: int) -> JsonResponse:
    return JsonResponse({"error": message}, status=status)


def _open_to_clients(view: Any) -> Any:
    """Opens the view to callers without a session: no CSRF token, login, cache or ATOMIC_REQUESTS."""
    view = login_not_required(csrf_exempt(never_cache(view)))
    for alias in connections.settings:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


tick, atick = _open_to_clients(tick), _open_to_clients(atick)


# Who may: a caller with the signed URL, or with PGONLY["TICK_SECRET"].


def token() -> str:
    """Returns the token, which is valid until SECRET_KEY or TICK_SECRET changes: that revokes a URL that leaked."""
    return Signer(salt=SALT).signature(_subject())


def is_valid_token(given: str) -> bool:
    with suppress(BadSignature):
        Signer(salt=SALT).unsign(f"{_subject()}:{given}")
        return True
    return False


def is_valid_header(authorization: str) -> bool:
    """Returns whether the header Authorization is right: "Bearer <TICK_SECRET>", or the URL's token in its place."""
    if not authorization.lower().startswith(BEARER):
        return False
    given, secret = authorization[len(BEARER) :].strip(), settings().tick_secret
    is_secret = bool(secret) and constant_time_compare(given.encode(), secret.encode())
    return is_secret or is_valid_token(given)


def _subject() -> str:
    return f"tick {settings().tick_secret}"
