"""Calls of one unique job from many processes and threads at once:
`python -m tests.process.enqueuing PROCESSES CALLS THREADS MODE`, where in the mode "roll_back" every other call does.

Each process prints a line of JSON about those that were committed: their ids, how many there were, and how many of them
were no duplicates.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django


def main() -> None:
    processes, calls, threads, mode = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    django.setup()
    start, started = os.pipe()
    children = [fork(calls, threads, mode == "roll_back", start, started) for _ in range(processes)]
    os.close(started)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))


def fork(calls: int, threads: int, roll_back: bool, start: int, started: int) -> int:
    child = os.fork()
    if child:
        return child
    os.close(started)
    code = 1
    try:
        answers = enqueue_all(calls, threads, roll_back, start)
        committed = [(job_id, is_duplicate) for job_id, is_duplicate, is_committed in answers if is_committed]
        ids = sorted({job_id for job_id, _ in committed})
        new = sum(not is_duplicate for _, is_duplicate in committed)
        os.write(1, json.dumps([ids, len(committed), new]).encode() + b"\n")
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def enqueue_all(calls: int, threads: int, roll_back: bool, start: int) -> list[Any]:
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
        os.read(start, 1)  # the pipe ends when the parent has closed it, after the last fork
        return list(pool.map(enqueue, range(calls)))


if __name__ == "__main__":
    main()
