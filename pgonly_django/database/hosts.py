"""The addresses to connect to, one after another, each with its share of the time.

psycopg.connect() tries several too, but stays at least 2 s with one that is silent. In a thread whose caller waited 1
s, with a silent host before a good one, it was connected after 2.0 s: too late for a call that may take one second.
libpq by itself stays with a silent host forever (its asynchronous calls ignore connect_timeout).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from psycopg.conninfo import make_conninfo

from pgonly_django.database.operation import Operation, Signal
from pgonly_django.exceptions import DatabaseUnavailableError

_VARIABLES = {
    "host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT",
    "target_session_attrs": "PGTARGETSESSIONATTRS", "load_balance_hosts": "PGLOADBALANCEHOSTS",
}  # fmt: skip

ConnectParams = dict[str, Any]
_Addresses = Future[list[str]]
# Under way, by name: a thread for each, and when it began. An answer that comes when every call has given up is for
# the next call, for this many seconds: else a slow name server would keep this process without a connection forever.
_lookups: dict[str, tuple[float, _Addresses]] = {}
KEPT_SECONDS = 30.0


def conninfos(params: ConnectParams, timeout: float) -> Operation[list[bytes]]:
    """Returns a connection string for each address of each host, in the order in which they are to be tried. Names are
    looked up within `timeout` seconds. Raises DatabaseUnavailableError where no host has an address."""
    found: list[ConnectParams] = []
    failure: DatabaseUnavailableError | None = None
    give_up_at = time.monotonic() + timeout
    for host in _hosts(params):
        try:
            found += yield from _with_addresses(host, max(give_up_at - time.monotonic(), 0))
        except DatabaseUnavailableError as error:
            failure = error
    if not found and failure:
        raise failure
    return [make_conninfo(**each).encode() for each in _in_order(params, found)]


def _given(params: Mapping[str, Any], name: str) -> str:
    """Returns the parameter, or else the environment variable, as libpq does."""
    return str(params[name]) if name in params else os.environ.get(_VARIABLES[name], "")


def _hosts(params: ConnectParams) -> list[ConnectParams]:
    lists = {
        name: given.split(",") for name in ("host", "hostaddr", "port") if (given := _given(params, name))
    }
    count = max(len(lists.get("host", ())), len(lists.get("hostaddr", ())))
    if len(lists.get("port", ())) == 1:
        lists["port"] *= count
    if not count or any(len(values) != count for values in lists.values()):
        return [params]  # a service file, the default socket, or a mistake that libpq explains
    return [{**params, **{name: values[at] for name, values in lists.items()}} for at in range(count)]


def _in_order(params: ConnectParams, found: list[ConnectParams]) -> list[ConnectParams]:
    if _given(params, "load_balance_hosts") == "random":
        random.shuffle(found)
    if _given(params, "target_session_attrs") == "prefer-standby":
        return [{**each, "target_session_attrs": kind} for kind in ("standby", "any") for each in found]
    return found


def _with_addresses(host: ConnectParams, seconds: float) -> Operation[list[ConnectParams]]:
    name = str(host.get("host", ""))
    # A comma: _hosts() left a mistake to libpq.
    if not name or name.startswith(("/", "@")) or host.get("hostaddr") or "," in name or _is_address(name):
        return [host]
    signal = Signal(seconds)
    _lookup(name).add_done_callback(signal.set)
    done: _Addresses | None = yield signal
    try:
        if done is None:
            raise TimeoutError("no answer")
        addresses = done.result()
    except (OSError, UnicodeError) as error:
        raise DatabaseUnavailableError(f"The address of {name!r} could not be looked up: {error}.") from error
    _lookups.pop(name, None)
    return [{**host, "hostaddr": address} for address in addresses]


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def _lookup(name: str) -> _Addresses:
    """Looks names up in a thread, since a name server may be silent for longer than a call may take."""
    now = time.monotonic()
    began, addresses = _lookups.get(name, (now, None))
    if addresses is None or (addresses.done() and now - began > KEPT_SECONDS):
        addresses = Future()
        _lookups[name] = now, addresses
        arguments = addresses, name
        try:
            threading.Thread(target=_look_up, args=arguments, name="pgonly look-up", daemon=True).start()
        except RuntimeError:  # the interpreter is ending and starts no threads
            _look_up(*arguments)
    return addresses


def _look_up(addresses: _Addresses, name: str) -> None:
    # Not with psycopg.conninfo.conninfo_attempts(): what the environment says of the order would be applied twice.
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        addresses.set_result([str(sockaddr[0]) for *_, sockaddr in answers])
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        _lookups.pop(name, None)
        addresses.set_exception(error)


os.register_at_fork(after_in_child=_lookups.clear)  # their threads are the parent's
