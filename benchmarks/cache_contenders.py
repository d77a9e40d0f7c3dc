"""What the cache benchmark measures: Django cache backends, and the least SQL that a cache needs."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from django.conf import settings
from django.core.cache import caches

from pgonly_django.database.connection import Connection

FLOOR_TABLE = """CREATE UNLOGGED TABLE IF NOT EXISTS floor
(expires_at timestamptz, number bigint, key text COLLATE "C" PRIMARY KEY, value bytea);
ALTER TABLE floor ALTER value SET STORAGE EXTERNAL"""  # to compress 100 values of 10 KB takes the server 90 ms
LIVE = "(expires_at IS NULL OR expires_at > clock_timestamp())"
UPSERT = "ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, expires_at = EXCLUDED.expires_at"
EXPIRY = "clock_timestamp() + interval '300 seconds'"
GET = f"SELECT number, value FROM floor WHERE key = %s AND {LIVE}"
SET = f"INSERT INTO floor (key, value, expires_at) VALUES (%s, %s, {EXPIRY}) {UPSERT}"


def contenders(url: str) -> list[Any]:
    return [Floor(url), *(Backend(name) for name in settings.CACHES if name != "default")]


class Backend:
    """A Django cache. It passes operations through; only reconnecting differs between backends."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, operation: str) -> Any:
        return getattr(caches[self.name], operation)

    def reconnect(self) -> None:
        cache: Any = caches[self.name]
        if self.name == "pgonly":
            cache.store.pool.close_idle()
        elif self.name == "DatabaseCache":
            from django.db import connection

            connection.close()
            connection.ensure_connection()
        elif self.name == "RedisCache":
            for pool in cache._cache._pools.values():
                pool.disconnect()
        else:
            cache.client.get_client(write=True).connection_pool.disconnect()
        cache.get("anything")

    async def areconnect(self) -> None:
        await caches[self.name].aget("anything")


class Floor:
    """psycopg with prepared statements and one connection per thread, without Django: the floor of every ratio."""

    name = "floor"

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = threading.local()
        self._async: psycopg.AsyncCursor[Any] | None = None
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(FLOOR_TABLE)

    def reconnect(self) -> None:
        self._local = threading.local()

    async def areconnect(self) -> None:
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        self._async = connection.cursor(binary=True)

    def _run(self, query: str, *params: Any) -> psycopg.Cursor[Any]:
        cursor: psycopg.Cursor[Any] | None = getattr(self._local, "cursor", None)
        if cursor is None:
            cursor = psycopg.connect(self._url, autocommit=True).cursor(binary=True)
            self._local.cursor = cursor
        return cursor.execute(query, params, prepare=True)

    def get(self, key: str) -> Any:
        row = self._run(GET, key).fetchone()
        if row is None:
            return None
        return row[0] if row[0] is not None else pickle.loads(row[1])

    def set(self, key: str, value: Any) -> None:
        if isinstance(value, int):
            self._run("DELETE FROM floor WHERE key = %s", key)
            self._run("INSERT INTO floor (key, number) VALUES (%s, %s)", key, value)
        else:
            self._run(SET, key, pickle.dumps(value))

    def add(self, key: str, value: Any) -> bool:
        query = f"{SET} WHERE floor.expires_at <= clock_timestamp()"
        return self._run(query, key, pickle.dumps(value)).rowcount == 1

    def incr(self, key: str) -> Any:
        query = f"UPDATE floor SET number = number + 1 WHERE key = %s AND {LIVE} RETURNING number"
        return self._run(query, key).fetchone()

    def touch(self, key: str) -> bool:
        return (
            self._run(f"UPDATE floor SET expires_at = {EXPIRY} WHERE key = %s AND {LIVE}", key).rowcount == 1
        )

    def delete(self, key: str) -> bool:
        return self._run("DELETE FROM floor WHERE key = %s", key).rowcount == 1

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        rows = self._run(f"SELECT key, value FROM floor WHERE key = ANY(%s) AND {LIVE}", list(keys))
        return {key: pickle.loads(value) for key, value in rows}

    def set_many(self, entries: Mapping[str, Any]) -> None:
        query = f"""INSERT INTO floor (key, value, expires_at)
            SELECT key, value, {EXPIRY} FROM unnest(%b::text[], %b::bytea[]) AS row (key, value) {UPSERT}"""
        self._run(query, list(entries), [pickle.dumps(value) for value in entries.values()])

    async def aget(self, key: str) -> Any:
        assert self._async is not None
        await self._async.execute(GET, (key,), prepare=True)
        row = await self._async.fetchone()
        return None if row is None else pickle.loads(row[1])

    async def aset(self, key: str, value: Any) -> None:
        assert self._async is not None
        await self._async.execute(SET, (key, pickle.dumps(value)), prepare=True)


def statements_per_call(calls: int = 1000) -> dict[str, float]:
    """Round trips to PostgreSQL per call, counted where the connection sends them, cleaning included."""
    cache = caches["pgonly"]
    many = {f"many:{number}": b"value" for number in range(100)}
    cache.set("number", 1)
    acts: dict[str, Callable[[int], Any]] = {
        "get": lambda _: cache.get("hit"),
        "set": lambda _: cache.set("hit", b"value"),
        "add": lambda turn: cache.add(f"added:{turn}", b"value"),
        "incr": lambda _: cache.incr("number"),
        "touch": lambda _: cache.touch("hit"),
        "delete": lambda turn: cache.delete(f"added:{turn}"),
        "get_many(100)": lambda _: cache.get_many(many),
        "set_many(100)": lambda _: cache.set_many(many),
        "delete_many(100)": lambda _: cache.delete_many(many),
        "get_or_set hit": lambda _: cache.get_or_set("computed", lambda: b"value"),
        "get_or_set miss": lambda turn: cache.get_or_set(f"computed:{turn}", lambda: b"value"),
    }
    return {name: _round_trips(act, calls) for name, act in acts.items()}


def _round_trips(act: Callable[[int], Any], calls: int) -> float:
    sent, send = [], Connection._send
    act(-1)
    Connection._send = lambda *sending: sent.append(1) or send(*sending)  # type: ignore[assignment]
    try:
        for turn in range(calls):
            act(turn)
    finally:
        Connection._send = send
    return round(len(sent) / calls, 2)
