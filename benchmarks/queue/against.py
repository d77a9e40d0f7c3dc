"""This code and that of another revision in turns, each with a server of its own, so that a loss of 5 % is seen on the
day it comes.

Each side is a process that runs these benchmarks on its own copy of the package, and answers one line for each line
that it reads.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import median, percentile
from benchmarks.queue.sizes import Sizes

ROOT = Path(__file__).resolve().parents[2]
READY = "ready"
# Whether more of it is better. In this order: the CPU of a drain is asked for after it.
PARTS = {
    "drain": True,
    "CPU per job": False,
    "drain, logs at WARNING": True,
    "CPU per job, logs at WARNING": False,
    "drain, two processes": True,
    "pick-up p50": False,
    "enqueue one": True,
}


def parts(url: str, sizes: Sizes) -> dict[str, Callable[[], float]]:
    """What measures each of PARTS: jobs per second, microseconds of CPU per job, milliseconds."""
    from benchmarks.queue import cost, drain, enqueue, pickup
    from benchmarks.queue.jobs import nothing

    start = cost.cpu_of_a_start(url)
    cpu: list[float] = []

    def drained(processes: int, logs: str) -> float:
        rate, seconds = drain.drained(url, processes, sizes.drained, logs)
        cpu[:] = [(seconds - start) / sizes.drained * 1e6]
        return rate

    return {
        "drain": lambda: drained(1, ""),
        "CPU per job": lambda: cpu[0],
        "drain, logs at WARNING": lambda: drained(1, "warning"),
        "CPU per job, logs at WARNING": lambda: cpu[0],
        "drain, two processes": lambda: drained(2, ""),
        "pick-up p50": lambda: percentile(pickup.ours(url, sizes.pickups // sizes.rounds), 50),
        "enqueue one": lambda: sizes.singles / sum(enqueue.timed(nothing.enqueue, sizes.singles)),
    }


def serve(url: str, sizes: Sizes) -> None:
    """One side."""
    measured = parts(url, sizes)
    print(READY, flush=True)
    for line in sys.stdin:
        print(measured[line.strip()](), flush=True)


def compare(revision: str, sizes: Sizes, flags: list[str]) -> None:
    """Print a table of the medians of both sides, and of the ratios of the pairs."""
    with tempfile.TemporaryDirectory(prefix="pgonly-before-") as before, contextlib.ExitStack() as sides:
        _check_out(revision, Path(before))
        old = sides.enter_context(_side(Path(before), flags))
        new = sides.enter_context(_side(ROOT, flags))
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in PARTS}
        for turn in range(sizes.rounds + 1):
            for name in PARTS:
                pair = [ask(name) for ask in ((old, new) if turn % 2 else (new, old))]
                if turn:  # the first one warms up
                    samples[name].append((pair[0], pair[1]) if turn % 2 else (pair[1], pair[0]))
    print(f"\n{'':<32} {revision[:12]:>12} {'now':>12} {'ratio':>7}")
    for name, pairs in samples.items():
        before_, now = (median(values) for values in zip(*pairs, strict=True))
        ratio = median([new / old for old, new in pairs])
        verdict = "" if (ratio > 0.95 if PARTS[name] else ratio < 1.05) else "  WORSE"
        print(f"{name:<32} {before_:>12,.2f} {now:>12,.2f} {ratio:>7.3f}{verdict}", flush=True)


def _check_out(revision: str, directory: Path) -> None:
    """The package as it was, beside the benchmarks as they are."""
    archive = subprocess.run(
        ["git", "archive", revision, "pgonly_django"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x"], cwd=directory, input=archive.stdout, check=True)
    (directory / "benchmarks").symlink_to(ROOT / "benchmarks")


@contextlib.contextmanager
def _side(directory: Path, flags: list[str]) -> Iterator[Callable[[str], float]]:
    command = [sys.executable, "-m", "benchmarks", "queue", "--serve", *flags]
    with subprocess.Popen(
        command, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        if stdout.readline().strip() != READY:
            raise RuntimeError(f"The side in {directory} has not started; its output is above.")

        def ask(name: str) -> float:
            stdin.write(f"{name}\n")
            return float(stdout.readline())

        try:
            yield ask
        finally:
            stdin.close()
