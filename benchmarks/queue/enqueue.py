"""Enqueue one job at a time, and ten thousand at once, in turns with the floor."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from benchmarks.measure import median, percentile
from benchmarks.queue.floor import Floor
from benchmarks.queue.report import Figure
from benchmarks.queue.sizes import Sizes

# Many short turns, because the machine's speed changes from second to second.
TURN = 100  # calls


def measure(url: str, sizes: Sizes) -> list[Figure]:
    with Floor(url) as floor:
        return [*_one(floor, sizes), *_many(floor, sizes)]


def _one(floor: Floor, sizes: Sizes) -> list[Figure]:
    from benchmarks.queue.jobs import nothing

    contenders: dict[str, Callable[[int], object]] = {
        "pgonly": nothing.enqueue,
        "floor": floor.insert,
    }
    for call in contenders.values():
        timed(call, TURN)
    turns: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for _ in range(max(sizes.rounds * sizes.singles // TURN, 2)):
        order = list(contenders)
        random.shuffle(order)
        for name in order:
            turns[name].append(timed(contenders[name], TURN))
    rate = {name: median([TURN / sum(times) for times in all_]) for name, all_ in turns.items()}
    typical = {name: median([percentile(times, 50) for times in all_]) * 1e6 for name, all_ in turns.items()}
    return [
        Figure("one", "jobs/s", rate["pgonly"], rate["floor"], target=0.95),
        Figure("one, p50", "us", typical["pgonly"], typical["floor"]),
    ]


def timed(call: Callable[[int], object], count: int) -> list[float]:
    times = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - began)
    return times


def _many(floor: Floor, sizes: Sizes) -> list[Figure]:
    from benchmarks.queue.jobs import nothing
    from pgonly_django import enqueue_many
    from pgonly_django.models import Job

    rates: dict[str, list[float]] = {"pgonly": [], "floor": []}
    for _ in range(sizes.rounds + 1):
        Job.objects.all()._raw_delete("default")
        floor.empty()
        began = time.perf_counter()
        enqueue_many((nothing, (number,)) for number in range(sizes.many))
        between = time.perf_counter()
        floor.copy(sizes.many)
        rates["pgonly"].append(sizes.many / (between - began))
        rates["floor"].append(sizes.many / (time.perf_counter() - between))
    ours, least = (median(rates[name][1:]) for name in ("pgonly", "floor"))
    return [Figure("many", "jobs/s", ours, least, target=0.35)]
