"""PGONLY["LISTEN_DATABASE"]: the alias whose connections LISTEN, where others reach the database through a pooler in
transaction mode, on which LISTEN does not work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from pgonly_django.conf import settings
from pgonly_django.database.connect import check_vendor

ERROR_ID = "pgonly_django.E012"


def listen_alias(alias: str) -> str:
    """The alias to LISTEN on for what happens in the database of `alias`: that of the setting where both have the same
    NAME, else `alias`. Raises ImproperlyConfigured for an alias that DATABASES does not have."""
    direct = settings().listen_database
    if not direct or direct == alias:
        return alias
    if direct not in connections.settings:
        raise ImproperlyConfigured(_unknown(direct))
    return direct if _name(direct) == _name(alias) else alias


def check_listen_database(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:  # noqa: ARG001 - a check's signature
    """The system check E012."""
    try:
        direct = settings().listen_database
    except ImproperlyConfigured:
        return []  # E001 says so
    if not direct:
        return []
    if direct not in connections.settings:
        return [checks.Error(_unknown(direct), hint="See docs/how-to/queue.md#poolers.", id=ERROR_ID)]
    if found := check_vendor(direct, 'PGONLY["LISTEN_DATABASE"] is', "take it out of PGONLY", ERROR_ID):
        return found
    if any(_name(alias) == _name(direct) for alias in connections.settings if alias != direct):
        return []
    message = (
        f'PGONLY["LISTEN_DATABASE"] is {direct!r}, whose NAME {_name(direct)!r} no other entry of DATABASES has: '
        "nothing would LISTEN there."
    )
    hint = f"Give DATABASES[{direct!r}] the NAME of the database that your other connections reach by the pooler."
    return [checks.Error(message, hint=hint, id=ERROR_ID)]


def _name(alias: str) -> object:
    return connections.settings[alias].get("NAME")


def _unknown(alias: str) -> str:
    known = ", ".join(sorted(connections.settings))
    return f'PGONLY["LISTEN_DATABASE"] must be an alias of DATABASES ({known}), got {alias!r}.'
