"""reference/settings.md"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

from docs.generate.markdown import comments, default_of, literal, table
from pgonly_django.cache import options as cache_options
from pgonly_django.conf import LONGEST_SECONDS, Settings

HOW_TO = "../how-to/"
LONGEST_CELL = 40
SEE = {
    "BUDGETS": "budgets.md#settings",
    "LIMITERS": "limits.md#settings",
    "METRICS_TOKEN": "monitoring.md#metrics",
    "LISTEN_DATABASE": "connections.md#listen-past-a-pooler",
    "MASKED_ARGUMENTS": "admin.md#secrets",
    "ON_FAILURE": "failures.md#on_failure",
    "OUTPUT_LIMIT": "progress.md#output",
    "QUEUES": "concurrency.md#limits-of-a-queue",
    "SCHEDULES": "schedules.md#settings",
    "SCHEMA": "databases.md#a-separate-schema",
    "SESSION_ENCRYPT_DATA": "sessions.md#what-a-leaked-table-tells",
    "SESSION_PREVIOUS_ENGINE": "sessions.md#moving-from-another-engine",
    "SESSION_TRUSTED_PROXIES": "sessions.md#address-and-time-of-last-use",
    "TICK_SECONDS": "serverless.md#a-tick-jobs-inside-a-web-process",
    "RELEASE": "admin.md#workers",
    "TICK_SECRET": "serverless.md#a-tick-jobs-inside-a-web-process",
    "WAKE_URLS": "serverless.md#wake-urls",
    "ON_ERROR": "cache.md#when-the-database-fails",
    "MAX_ENTRIES": "cache.md#expiry-and-eviction",
    "MAX_BYTES": "cache.md#expiry-and-eviction",
}
TEXT = """
# Settings

All settings of this package, and those of Django that it obeys. `manage.py check` reports a key
that does not exist and a value that is not allowed, and names the nearest one ([Checks](#checks)).

## PGONLY

One dict in the settings file, `PGONLY = {{"LEASE_SECONDS": 60}}`. Each key may be left out.

{pgonly}

### QUEUES, LIMITERS, BUDGETS and SCHEDULES

These four are dicts of dicts: a name, and what it is given, such as
`"QUEUES": {{"mail": {{"max_running": 5}}}}`. Each inner key may be left out, except those that say
otherwise.

{inner}

### Sessions

{sessions}

## TASKS

Each entry of Django's `TASKS` whose `BACKEND` is `pgonly_django.tasks.PostgresBackend`:

| key | default | |
|---|---|---|
| `QUEUES` | `["default"]` | the names that tasks may use as `queue_name`; `[]` allows any |
| `OPTIONS` | `{{}}` | defaults of all [options of a task](tasks.md#options), by their names |
| `OPTIONS["queues"]` | `{{}}` | the same by queue: `{{"ai": {{"max_attempts": 8}}}}` |
| `OPTIONS["database"]` | as routers say | the alias of `DATABASES` that holds the jobs |

`.using()` wins over `@task(...)`, that over `OPTIONS["queues"]`, and that over `OPTIONS`.

## CACHES

Each entry of Django's `CACHES` whose `BACKEND` is `pgonly_django.cache.PostgresCache`. Its
`LOCATION` is a namespace, a name of your choice: caches of different ones share the tables and
never see each other's keys. Django's `TIMEOUT`, `KEY_PREFIX`, `VERSION` and `KEY_FUNCTION` work as
always. In `OPTIONS`:

{cache}

Django's `CULL_FREQUENCY` is accepted and has no effect: eviction deletes the excess only.

## Django's sessions

`SESSION_ENGINE = "pgonly_django.sessions"`. The engine obeys `SESSION_COOKIE_AGE`,
`SESSION_EXPIRE_AT_BROWSER_CLOSE`, `SESSION_SAVE_EVERY_REQUEST` and the other `SESSION_COOKIE_...`
settings as Django's own engines do. With any other `SESSION_SERIALIZER` than Django's
`JSONSerializer` the values are stored in its signed encoding.

## Checks

What `manage.py check` says about these settings. [checks.md](checks.md) lists all checks.

{checks}
"""


# What each check of these settings says.
CHECKS = {
    "`pgonly_django.E001`": "`PGONLY` does not validate",
    "`pgonly_django.E002`": (
        "an entry of `TASKS` has an unknown key or option, or a value that it cannot have. Its tasks can be "
        "imported; `enqueue` raises `ImproperlyConfigured` and `runworker` does not start"
    ),
    "`pgonly_django.E003`": "the jobs' database is not in `DATABASES` or not PostgreSQL",
    "`pgonly_django.E004`": "the jobs' database has `AUTOCOMMIT = False`",
    "`pgonly_django.E005`": (
        '`PGONLY["BUDGETS"]` has an entry that no budget can have, see '
        "[budgets.md](../how-to/budgets.md#settings)"
    ),
    "`pgonly_django.E009`": (
        'an entry of `PGONLY["QUEUES"]` has an unknown key or a value that it cannot have, see '
        "[concurrency.md](../how-to/concurrency.md#checks)"
    ),
    "`pgonly_django.E010`": (
        'the task of a dead letter queue (`PGONLY["QUEUES"][name]["task"]`) cannot be imported, or does not '
        "take one argument"
    ),
    "`pgonly_django.E011`": (
        '`PGONLY["ON_FAILURE"]` is not the dotted path of a function that can be called with two arguments'
    ),
    "`pgonly_django.E012`": (
        '`PGONLY["LISTEN_DATABASE"]` is not an alias of `DATABASES`, is not PostgreSQL, or has a `NAME` that '
        "no other alias has, see [connections.md](../how-to/connections.md#listen-past-a-pooler)"
    ),
    "`pgonly_django.W005`": (
        "with `check --deploy`: the settings use the embedded PostgreSQL, see "
        "[testing.md](../how-to/testing.md#limits-of-the-embedded-server)"
    ),
    "`pgonly_django.E050`": (
        'the tables are in another schema than `PGONLY["SCHEMA"]` says: '
        "[databases.md](../how-to/databases.md#when-the-setting-and-the-database-disagree)"
    ),
    "`pgonly_django.E060`": (
        "the server is CockroachDB (with `check --database`, and before `migrate`): "
        "[doctor.md](../how-to/doctor.md#d010)"
    ),
    "`pgonly_django.I060`": (
        "PostgreSQL, Python or Django is newer than the newest that was tested (with `check --database`, and before "
        "`migrate`): [doctor.md](../how-to/doctor.md#d017)"
    ),
    "`pgonly_django.E501`, `E502`, `E503`, `W501`, `W502`": (
        "with `check --deploy`: whether the jobs that are stored can run with this code, see "
        "[releases.md](../how-to/releases.md#check---deploy)"
    ),
    "`pgonly_django.W001`": '`OPTIONS["database"]` and the router lead to different databases',
    "`pgonly_django.W002`": '`OPTIONS["queues"]` has a name that `QUEUES` lacks',
    "`pgonly_django.W003`": (
        '`PGONLY["QUEUES"]` has a name that no `QUEUES` of `TASKS` has, so its limits protect nothing'
    ),
}

# What each inner key says, in the order of the code that reads it. tests/docs/test_reference.py compares the keys.
INNER = {
    "QUEUES": {
        "max_running": "maximum number of its jobs that run at the same time",
        "rate": "maximum number of starts in a number of seconds: `(10, 60)`",
        "limiter": "the name of a limiter: no job is claimed while that cools down",
        "task": "the dotted path of the task that gets the dead letters sent to this queue",
    },
    "LIMITERS": {
        "concurrent": "maximum number of callers inside at the same time, a whole number from 1 to 10,000",
        "requests_per_minute": "a number above 0",
        "tokens_per_minute": "a number above 0",
    },
    "BUDGETS": {
        "usd": "required: the cap in US dollars, above 0",
        "per": '`"hour"`, `"day"`, `"week"`, `"month"` or `"year"`; without it the cap holds for all time',
        "timezone": 'the time zone in which a period begins, such as `"Asia/Shanghai"`; the default is `TIME_ZONE`',
    },
    "SCHEDULES": {
        "task": "required: the dotted path of the task",
        "cron": 'either this, a line such as `"0 3 * * *"`,',
        "every": "or this: a timedelta or a number of seconds, at least 0.1",
        "timezone": "the time zone of `cron`; the default is `TIME_ZONE`",
        "args": "a list of positional arguments",
        "kwargs": "a dict of keyword arguments",
        "queue": "instead of the task's own queue",
        "priority": "instead of the task's own priority, -100 to 100",
        "catch_up": 'which missed ticks run: `"latest"` (the default), `"all"` or `"none"`',
        "overlap": 'what happens while an earlier run is unfinished: `"skip"` (the default), `"allow"` or `"replace"`',
        "budget": "the name of a budget that pays for its jobs",
        "metadata": "a dict that goes with each of its jobs",
    },
}


def page() -> str:
    known, says = fields(Settings), comments(Settings)
    of_sessions = [field for field in known if field.name.startswith("session_")]
    others = [field for field in known if field not in of_sessions]
    cache_says = comments(cache_options.Options)
    return TEXT.strip().format(
        pgonly=settings_table(others, says),
        sessions=settings_table(of_sessions, says),
        inner=inner_table(),
        checks=table(["check", "it says that"], CHECKS.items()),
        cache=settings_table(fields(cache_options.Options), cache_says),
    )


def inner_table() -> str:
    rows = [
        (f"`{outer}[...]`", f"`{key}`", text) for outer, keys in INNER.items() for key, text in keys.items()
    ]
    return table(["setting", "key", ""], rows)


def settings_table(known: Iterable[Field[Any]], says: Mapping[str, str]) -> str:
    rows = []
    for field in known:
        key = field.name.upper()
        default, text = literal(default_of(field)), says[field.name] + see(key)
        if len(default) > LONGEST_CELL:
            default, text = "at the left", f"{text} The default: {default}"
        rows.append((f"`{key}`", text, default, values(field)))
    return table(["key", "", "default", "values"], rows)


def values(field: Field[Any]) -> str:
    """Which ones it may have: the kind of its default, with its bounds."""
    if field.name.upper() in cache_options._CHOICES:
        return ", ".join(literal(each) for each in cache_options._CHOICES[field.name.upper()])
    bounds = field.metadata
    if (wrong := bounds.get("must_be")) is not None:
        return str(wrong(None)).partition(" such as")[0]
    kind = type(default_of(field))
    if kind in (int, float) or field.type in ("int", "Seconds"):
        return number(field, bounds)
    return {bool: "True or False", str: "text", dict: "a dict"}.get(kind, "a whole number, or None")


def number(field: Field[Any], bounds: Mapping[str, Any]) -> str:
    kind = "seconds" if "seconds" in field.name else "a whole number"
    least, most = bounds.get("at_least"), bounds.get("at_most", LONGEST_SECONDS)
    lowest = "" if least is None else f" from {least:g}"
    return f"{kind}{lowest}{'' if most == LONGEST_SECONDS else f' to {most:,}'}"


def see(key: str) -> str:
    return f" See [{SEE[key].partition('#')[0]}]({HOW_TO}{SEE[key]})." if key in SEE else ""
