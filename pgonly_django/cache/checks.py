"""System checks of CACHES. Ids E101-E199 and W101-W199."""

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections, router

from pgonly_django.cache.backend import our_settings
from pgonly_django.cache.entry import Codec, namespace
from pgonly_django.cache.options import Options, default_timeout, misplaced, parse
from pgonly_django.database.connect import check_vendor
from pgonly_django.database.on_django import all_rows


def check_caches(**_: Any) -> list[checks.CheckMessage]:
    """E101: an option is unknown, misplaced or has a wrong value. E102: the database. W101: the router."""
    found: list[checks.CheckMessage] = []
    for alias, cache in our_settings().items():
        try:
            found += _check_database(alias, _options(cache).database)
        except ImproperlyConfigured as error:
            found.append(_wrong_option(alias, str(error)))
        for name in misplaced(cache):
            found.append(_wrong_option(alias, f"{name} has no effect beside OPTIONS. Put it in OPTIONS."))
    return found


def _options(cache: dict[str, Any]) -> Options:
    """Returns the cache's options. Raises ImproperlyConfigured where the first use of the cache would."""
    options = parse(cache.get("OPTIONS", {}))
    default_timeout(cache.get("TIMEOUT"))
    namespace(cache.get("LOCATION", ""))
    Codec(options.serializer, options.compressor, options.compress_above)
    return options


def _wrong_option(alias: str, problem: str) -> checks.CheckMessage:
    hint = "All options: docs/how-to/cache.md#options."
    return checks.Error(f"CACHES[{alias!r}]: {problem}", hint=hint, id="pgonly_django.E101")


def check_pools(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """W102: one process may open as many connections as the server allows. Runs with `check --database`."""
    found: list[checks.CheckMessage] = []
    for alias, cache in our_settings().items():
        try:
            options = _options(cache)
        except ImproperlyConfigured:  # E101 says so
            continue
        allowed = _connections_allowed(options.database) if options.database in (databases or ()) else None
        if allowed is not None and options.pool_size * 2 > allowed:
            message = f"CACHES[{alias!r}] may open {options.pool_size} connections in every process."
            hint = f"The server allows {allowed} to all of them; lower POOL_SIZE. See docs/how-to/cache.md#checks."
            found.append(checks.Warning(message, hint=hint, id="pgonly_django.W102"))
    return found


def _connections_allowed(database: str) -> int | None:
    """Returns None if E102 reports the database or the server does not answer: a check may run without the server."""
    if database not in connections or connections[database].vendor != "postgresql":
        return None
    try:
        ((allowed,),) = all_rows(database, "SELECT current_setting('max_connections')::int")
        return int(allowed)
    except Error:
        return None


def _check_database(alias: str, database: str) -> list[checks.CheckMessage]:
    kept = f"CACHES[{alias!r}] keeps its entries in"
    if database not in connections:
        message = f"{kept} {database!r}, which is not in DATABASES."
        hint = f'Set OPTIONS["DATABASE"] to one of: {", ".join(connections)}.'
        return [checks.Error(message, hint=hint, id="pgonly_django.E102")]
    instead = f'name one that is: CACHES[{alias!r}]["OPTIONS"]["DATABASE"]'
    if errors := check_vendor(database, kept, instead, "pgonly_django.E102"):
        return errors
    if not router.allow_migrate(database, "pgonly_django", model_name="cacheentry"):
        needs = f"CACHES[{alias!r}] needs tables in {database!r}"
        message = f"{needs}, but DATABASE_ROUTERS do not allow them there."
        hint = f"Let allow_migrate({database!r}, 'pgonly_django') return True, then migrate --database={database}."
        return [checks.Warning(message, hint=hint, id="pgonly_django.W101")]
    return []
