"""What the tests of both frameworks' throttles share."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from django.db import connections
from django.test import RequestFactory

from pgonly_django.cache import PostgresCache
from tests.aliases import alias
from tests.docs.pages import ROOT, Page

THREADS = 16
PAGE = Page(ROOT / "docs" / "how-to" / "limits.md")


def documented(framework):
    """What the blocks of the page define that import this framework's throttles."""
    namespace = {}
    for block in PAGE.blocks:
        if f"pgonly_django.throttling.{framework} import" in block.code:
            exec(block.code, namespace)
    return namespace


def request(user=None, address="192.0.2.1"):
    made = RequestFactory().get("/", REMOTE_ADDR=address)
    made.user = user
    return made


def admitted(ask, requests=100):
    """How many of so many calls of `ask`, by 16 threads at once, return True."""
    barrier = threading.Barrier(THREADS)

    def one(number):
        if number < THREADS:
            barrier.wait(10)
        try:
            return ask()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(THREADS) as threads:
        return sum(threads.map(one, range(requests)))


class Slowly:
    """A cache over a network: between a get and a set there is time for other requests."""

    def __init__(self, cache):
        self.cache = cache

    def get(self, *arguments):
        value = self.cache.get(*arguments)
        time.sleep(0.01)
        return value

    def set(self, *arguments):
        self.cache.set(*arguments)


def admitted_in_processes(ask, processes=4, requests=30):
    """How many of so many calls of `ask` in each of several processes, at the same time, return True."""
    forking = multiprocessing.get_context("fork")
    barrier, totals = forking.Barrier(processes), forking.Queue()

    def run():
        barrier.wait(30)
        totals.put(sum(ask() for _ in range(requests)))

    running = [forking.Process(target=run) for _ in range(processes)]
    for each in running:
        each.start()
    total = sum(totals.get(timeout=60) for _ in running)
    for each in running:
        each.join(30)
    return total


@contextmanager
def database_away():
    """A cache whose database refuses connections."""
    with alias("away", HOST="127.0.0.1", PORT="1"):
        yield PostgresCache("away", {"OPTIONS": {"DATABASE": "away"}})
