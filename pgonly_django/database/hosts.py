"""The addresses to connect to, one after another, each with its share of the time.

libpq tries several by itself, but as long as a dead one keeps silent it stays there (in its asynchronous calls,
connect_timeout means nothing), and it looks names up while the event loop stands still.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from psycopg.conninfo import make_conninfo

from pgonly_django.database.operation import Operation
from pgonly_django.exceptions import CacheUnavailableError

DEFAULT_PORT = "5432"
_VARIABLES = {
    "host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT",
    "target_session_attrs": "PGTARGETSESSIONATTRS", "load_balance_hosts": "PGLOADBALANCEHOSTS",
}  # fmt: skip

Params = dict[str, Any]


def places(params: Params, timeout: float) -> Operation[list[bytes]]:
    """A conninfo for every address of every host, in the order in which they are to be tried.

    Names are looked up in `timeout` seconds. Raises CacheUnavailableError where no host has an address.
    """
    found: list[Params] = []
    error: CacheUnavailableError | None = None
    give_up_at = time.monotonic() + timeout
    for host in _each_host(params):
        try:
            found += yield from _each_address(host, max(give_up_at - time.monotonic(), 0))
        except CacheUnavailableError as failed:
            error = failed
    if not found and error:
        raise error
    return [make_conninfo(**place).encode() for place in _in_order(params, found)]


def _given(params: Mapping[str, Any], name: str) -> str:
    """As libpq finds it: a parameter, or else an environment variable."""
    return str(params[name]) if name in params else os.environ.get(_VARIABLES[name], "")


def _each_host(params: Params) -> list[Params]:
    lists = {
        name: given.split(",") for name in ("host", "hostaddr", "port") if (given := _given(params, name))
    }
    count = max(len(lists.get("host", ())), len(lists.get("hostaddr", ())))
    if len(lists.get("port", ())) == 1:
        lists["port"] *= count
    if not count or any(len(values) != count for values in lists.values()):
        return [params]  # a service file, the default socket, or a mistake that libpq explains
    return [{**params, **{name: values[at] for name, values in lists.items()}} for at in range(count)]


def _each_address(place: Params, timeout: float) -> Operation[list[Params]]:
    host = str(place.get("host", ""))
    if not host or host.startswith(("/", "@")) or place.get("hostaddr"):
        return [place]
    if _is_address(host):
        return [{**place, "hostaddr": host}]
    addresses = yield Lookup(host, str(place.get("port") or DEFAULT_PORT), timeout)
    return [{**place, "hostaddr": address} for address in addresses]


def _in_order(params: Params, found: list[Params]) -> list[Params]:
    if _given(params, "load_balance_hosts") == "random":
        random.shuffle(found)
    if _given(params, "target_session_attrs") == "prefer-standby":
        standbys: Iterable[Params] = ({**place, "target_session_attrs": "standby"} for place in found)
        return [*standbys, *({**place, "target_session_attrs": "any"} for place in found)]
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Lookup:
    """The wait for the addresses of a name."""

    def __init__(self, host: str, port: str, timeout: float) -> None:
        self._host, self._port, self._timeout = host, port, timeout

    def block(self) -> list[str]:
        try:
            return _addresses(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            raise self._failed(error) from error

    async def ready(self) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                return _addresses(await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CacheUnavailableError:
        reason = "no answer" if isinstance(error, TimeoutError) else str(error)
        return CacheUnavailableError(f"The address of {self._host!r} could not be looked up: {reason}.")


def _addresses(answers: list[tuple[Any, ...]]) -> list[str]:
    return [str(sockaddr[0]) for *_, sockaddr in answers]
