"""Calls of the cache that are under way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import psycopg

from pgonly_django.database.connect import connection_params
from tests.waiting import wait_for


@contextlib.contextmanager
def row_locked(cache, *keys):
    """Writes of these keys wait, until it ends."""
    stored = [cache.stored_key(key, None).decode() for key in keys]
    with psycopg.connect(**connection_params("default", application_name="holding")) as holding:
        holding.execute("SELECT FROM pgonly_cache WHERE key = ANY(%s) FOR UPDATE", [stored])
        yield


async def under_way(own, coroutine):
    """Its task, once PostgreSQL is at it."""
    task = asyncio.create_task(coroutine)
    await asyncio.to_thread(wait_for, own.is_busy)
    return task


def lose(cache):
    """The network ends the connection of the call that is under way: nobody says whether it was done."""
    pool = cache.store.pool
    (lost,) = wait_for(
        lambda: [each for each in pool._connections if each.is_open and not each.is_reusable()]
    )
    with socket.socket(fileno=os.dup(lost.pgconn.socket)) as same:
        same.shutdown(socket.SHUT_RDWR)
