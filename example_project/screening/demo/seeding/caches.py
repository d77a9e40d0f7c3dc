"""Entries of both caches, a few of them read, so that there is a hit rate."""

from __future__ import annotations

from django.core.cache import caches

from pgonly_django.cache import PostgresCache
from pgonly_django.database.operation import run

READ_TIMES = 6


def write() -> None:
    pages, answers = caches["default"], caches["answers"]
    pages.set_many(
        {f"demo:page:{number}": f"<p>{'text ' * (20 + number)}</p>" for number in range(60)}, 6 * 3600
    )
    pages.set_many({f"demo:visits:{number}": number * 7 for number in range(10)}, None)
    pages.set("demo:soon-over", "for half a minute", 30)
    verdicts = [{"decision": "include", "reason": f"Paper {number} reports a trial."} for number in range(25)]
    answers.set_many(
        {f"demo:answer:points:{number}": verdict for number, verdict in enumerate(verdicts)}, None
    )
    for number in range(READ_TIMES):
        pages.get(f"demo:page:{number}")
        answers.get(f"demo:answer:points:{number}")
    pages.get("demo:never-written")
    for cache in (pages, answers):
        if isinstance(cache, PostgresCache):
            run(cache.store.eviction.flush())  # or the hit rate would be there after 1,000 reads
