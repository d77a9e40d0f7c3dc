"""Calls of one unique job from many processes and threads at once:
`python -m tests.process.enqueuing PROCESSES CALLS THREADS MODE`, where in the mode "roll_back" every other call does.

Each process prints a line of JSON about those that were committed: their ids, how many there were, and how many of them
were no duplicates.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django

from tests.children import fork_together


def main() -> None:
    processes, calls, threads, mode = map(json.loads, sys.argv[1:])
    django.setup()

    def one(number: int, begin: Callable[[], None]) -> list[Any]:
        answers = enqueue_all(calls, threads, mode == "roll_back", begin)
        committed = [(job_id, is_duplicate) for job_id, is_duplicate, is_committed in answers if is_committed]
        ids = sorted({job_id for job_id, _ in committed})
        return [ids, len(committed), sum(not is_duplicate for _, is_duplicate in committed)]

    sys.exit(fork_together(processes, one))


def enqueue_all(calls: int, threads: int, roll_back: bool, begin: Callable[[], None]) -> list[Any]:
    from django.db import connection, transaction

    from tests.tasks.calls import sync_account

    def enqueue(number: int) -> list[Any]:
        if not roll_back:
            result = sync_account.enqueue(1)
            return [result.id, result.is_duplicate, True]
        with transaction.atomic():
            result = sync_account.enqueue(1)
            transaction.set_rollback(number % 2 == 0)
        return [result.id, result.is_duplicate, number % 2 == 1]

    def connect() -> None:
        connection.ensure_connection()

    with ThreadPoolExecutor(threads, initializer=connect) as pool:
        list(pool.map(lambda _: None, range(threads)))
        begin()
        return list(pool.map(enqueue, range(calls)))


if __name__ == "__main__":
    main()
