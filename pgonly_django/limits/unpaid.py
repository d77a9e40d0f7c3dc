"""Whether an error says that the request that raised it was not paid. When in doubt it was. It says nothing of earlier
requests, nor whose answer it is: so it counts only where a block makes one call (budget_reservation.py)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

# Answers of a provider that bills for none of them. Behind the others (a time-out of its own, the client's, a
# gateway's) it may have done the work.
MAYBE_PAID = {408, 499, 504, 524}
FIRST_ERROR, LAST_ERROR = 400, 599
# By name, so that no client library is needed: httpx, httpcore, urllib3 (below requests), aiohttp. Nothing was sent.
NOT_CONNECTED = {
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ClientConnectorError",
}
CHAIN_LIMIT = 10


def is_unpaid(error: BaseException | None) -> bool:
    """An answer that is an error (429, 400, 503, ...), or a connection that was never made."""
    return any(_was_refused(each) or _never_connected(each) for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it says that it was made of. Not its context: that may be an earlier call's."""
    for _ in range(CHAIN_LIMIT):
        if error is None:
            return
        yield error
        inner = getattr(error.args[0], "reason", None) if error.args else None  # of requests' ConnectionError
        error = inner if isinstance(inner, BaseException) else error.__cause__


def _was_refused(error: BaseException) -> bool:
    """By what openai, anthropic, httpx, requests and aiohttp call the status of an answer."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status = getattr(holder, name, None)
            if isinstance(status, int) and not isinstance(status, bool):
                return FIRST_ERROR <= status <= LAST_ERROR and status not in MAYBE_PAID
    return False


def _never_connected(error: BaseException) -> bool:
    is_refused = isinstance(error, ConnectionRefusedError | socket.gaierror)
    return is_refused or any(kind.__name__ in NOT_CONNECTED for kind in type(error).__mro__)
