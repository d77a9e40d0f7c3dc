"""The command `python -m benchmarks flows`: how long the end of a batch takes, and the answer to a job that waits."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import psycopg

from benchmarks import servers
from benchmarks.measure import median, percentile, write_report
from benchmarks.queue.command import configure
from benchmarks.queue.report import Figure, print_table
from benchmarks.queue.workers import empty, first, wait_for, workers

MEMBERS = {
    1: 40,
    100: 15,
    10_000: 3,
    100_000: 1,
}  # and how many batches of so many are measured, of each kind
QUICK = {1: 10, 100: 3, 10_000: 1}
ROUNDS, ANSWERS = 5, 60
DONE = "SELECT count(*) FROM pgonly_job WHERE state = 'succeeded'"
WAITING = (
    "SELECT count(*) FROM pgonly_wait JOIN pgonly_job AS job ON job.id = job_id WHERE state = 'scheduled'"
)
# The result of a job that tells its start.
TOLD = "SELECT result::float8 FROM pgonly_job WHERE task = 'benchmarks.queue.jobs.tell_start' AND state = 'succeeded'"


def main(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    sizes, rounds = (QUICK, 2) if arguments.quick else (MEMBERS, ROUNDS)
    with servers.postgres() as url:
        configure(url)
        tables = {"batch": partial(_batches, url, sizes), "waits": partial(_answers, url, rounds)}
        figures = []
        for name, measure in tables.items():
            if not arguments.only or arguments.only == name:
                found, against = measure()
                print_table(name, found, against)
                figures += found
    write_report(arguments.json, {"flows": [figure.as_json() for figure in figures]})
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks flows", description=main.__doc__)
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument("--only", choices=["batch", "waits"], help="one of the two parts")
    parser.add_argument("--quick", action="store_true", help="less of everything, under a minute")
    return parser.parse_args(argv)


def _batches(url: str, sizes: dict[int, int]) -> tuple[list[Figure], str]:
    """Members a second, from the enqueue to the start of the job that comes after them: the callback of a batch, or a
    job that the last one of the same jobs enqueues itself."""
    figures = []
    with psycopg.connect(url, autocommit=True) as connection:
        for members, repeats in sizes.items():
            empty(connection)
            with workers(url, 1):
                _measured(connection, _with_batch, 1)  # the worker imports its tasks
                pairs = [
                    (
                        _measured(connection, _with_batch, members),
                        _measured(connection, _by_the_last, members),
                    )
                    for _ in range(repeats)
                ]
            batch, plain = (members / median(seconds) for seconds in zip(*pairs, strict=True))
            name = f"{members:,} members" if members > 1 else "1 member"
            figures.append(Figure(f"{name}, jobs/s", "", batch, plain, target=0.8))
    return figures, "no batch"


def _measured(connection: psycopg.Connection[object], enqueue: Callable[[int], None], members: int) -> float:
    connection.execute("TRUNCATE pgonly_job CASCADE")
    enqueue(members)
    wait_for(lambda: first(connection, TOLD) is not None, "the job after the members", pause=0.01)
    seconds: float = first(connection, TOLD)
    wait_for(lambda: first(connection, DONE) == members + 1, "the last job", pause=0.02)
    return seconds


def _with_batch(members: int) -> None:
    from benchmarks.queue.jobs import nothing, tell_start
    from benchmarks.queue.pickup import now
    from pgonly_django import Batch

    with Batch(on_finish=tell_start.bind(now())) as batch:
        batch.enqueue_many((nothing, (number,)) for number in range(members))


def _by_the_last(members: int) -> None:
    from benchmarks.queue.jobs import nothing, tell_start_of_next
    from benchmarks.queue.pickup import now
    from pgonly_django import enqueue_many

    began = now()
    enqueue_many([*((nothing, (number,)) for number in range(members - 1)), (tell_start_of_next, (began,))])


def _answers(url: str, rounds: int) -> tuple[list[Figure], str]:
    """Milliseconds from just before send_event() to the line after wait_for_event(), in turns with the pick-up."""
    from benchmarks.queue.pickup import ours

    samples: list[float] = []
    least: list[float] = []
    for _ in range(rounds):
        samples += _answered(url, ANSWERS)
        least += ours(url, ANSWERS)
    return [
        Figure("p50", "ms", percentile(samples, 50), percentile(least, 50), ratio_at_most=2),
        Figure("p95", "ms", percentile(samples, 95), percentile(least, 95)),
    ], "pick-up"


def _answered(url: str, count: int) -> list[float]:
    from benchmarks.queue.jobs import tell_answer
    from benchmarks.queue.pickup import WARM_UP, at_intervals, now
    from pgonly_django import enqueue_many, send_event

    with psycopg.connect(url, autocommit=True) as connection:
        empty(connection)
        connection.execute("TRUNCATE pgonly_event")
        keys = iter([f"answer {number}" for number in range(count + WARM_UP)])
        with workers(url, 1):
            enqueue_many((tell_answer, (number,)) for number in range(count + WARM_UP))
            wait_for(lambda: first(connection, WAITING) == count + WARM_UP, "the waits")
            time.sleep(1)
            at_intervals(lambda: send_event(next(keys), now()), count + WARM_UP)
            wait_for(lambda: first(connection, DONE) == count + WARM_UP, "the last job")
            rows = connection.execute("SELECT result::float8 * 1000 FROM pgonly_job ORDER BY id").fetchall()
    return [milliseconds for (milliseconds,) in rows][WARM_UP:]
