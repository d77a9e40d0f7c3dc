"""Each async method takes and passes on the arguments of its sync twin, and @cached those of get_or_set()."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime

import pytest

from pgonly_django.cache import Lock, PostgresCache, cached, decorator, single_flight

TWINS = sorted(
    (
        (kind, name)
        for kind in (PostgresCache, Lock)
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if hasattr(kind, f"a{name}") and name[0] != "_"
    ),
    key=str,
)
# What Django's methods make of others of ours, and what does nothing.
WITHOUT_STATEMENTS = {"close", "decr_version", "incr_version"}
NEEDED = {
    "key": "key", "value": "text", "default": "text", "keys": ["key", "other"], "data": {"key": "text"},
    "search": "k*", "pattern": "k*", "when": datetime(2031, 1, 1, tzinfo=UTC), "tags": "tag", "timeout": 100,
}  # fmt: skip
OTHER = {
    "default": "another", "timeout": 1234, "version": 2, "tags": ["one"], "nx": True, "xx": True, "delta": 3,
    "stale": 7, "lock_timeout": 11, "prefix": "pre", "itersize": 5,
}  # fmt: skip


def parameters(method):
    return [each for each in inspect.signature(method).parameters.values() if each.name != "self"]


@pytest.mark.parametrize(("kind", "name"), TWINS)
def test_an_async_method_takes_what_its_twin_takes(kind, name):
    sync, asynchronous = (
        [(each.name, each.kind, each.default) for each in parameters(getattr(kind, method))]
        for method in (name, f"a{name}")
    )
    assert asynchronous == sync


@pytest.fixture
def said(cache, monkeypatch):
    """Runs a call on a cache with one entry: what it returned, and the statements that it sent with their values."""
    sent, call, counters = [], cache.store.pool.call, cache.store.counters

    def noting(statement, values, *limits):
        sent.append((statement.name, list(values)))
        return call(statement, values, *limits)

    def run(function, *args, **kwargs):
        cache.clear()
        cache.set("key", 1, None)
        counters._writes_due = counters._written_due = 10**9  # no cleaning in between
        sent.clear()
        try:
            answer = finished(function(*args, **kwargs))
        except ValueError as error:
            answer = repr(error)
        return answer, list(sent)

    monkeypatch.setattr(single_flight.secrets, "randbits", lambda bits: bits)
    monkeypatch.setattr(cache.store.pool, "call", noting)
    return run


def finished(answer):
    if inspect.isasyncgen(answer):
        answer = gathered(answer)
    if inspect.iscoroutine(answer):
        return asyncio.run(answer)
    return list(answer) if inspect.isgenerator(answer) else answer


async def gathered(generator):
    return [each async for each in generator]


@pytest.mark.parametrize(
    "name", [name for kind, name in TWINS if kind is PostgresCache and name not in WITHOUT_STATEMENTS]
)
def test_each_argument_of_both_twins_reaches_the_cache(cache, said, name):
    twins = getattr(cache, name), getattr(cache, f"a{name}")
    needed = [NEEDED[each.name] for each in parameters(twins[0]) if each.default is each.empty]
    if "default" in inspect.signature(twins[0]).parameters:
        needed[0] = "other"  # where there is no entry
    plain, of_async = (said(twin, *needed) for twin in twins)
    assert of_async == plain
    assert plain[1]
    for option in parameters(twins[0]):
        if option.default is not option.empty:
            given, of_async = (said(twin, *needed, **{option.name: OTHER[option.name]}) for twin in twins)
            assert given != plain, f"{option.name} has no effect"
            assert of_async == given, f"{option.name} is not passed on by a{name}()"


def test_cached_passes_on_what_get_or_set_takes(cache, said, monkeypatch):
    monkeypatch.setitem(vars(decorator), "caches", {"default": cache})
    options = {each.name for each in parameters(cache.get_or_set)} - {"key", "default", "version"}
    assert options <= {each.name for each in parameters(cached)}

    def value():
        return "text"

    async def avalue():
        return "text"

    for function in (value, avalue):
        plain = said(cached(60, key="other")(function))
        assert plain[1]
        for option in options:
            given = {"timeout": 60, "key": "other", option: OTHER[option]}
            assert said(cached(**given)(function)) != plain, (
                f"{option} is not passed on to {function.__name__}"
            )
