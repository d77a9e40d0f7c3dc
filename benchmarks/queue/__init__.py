"""python -m benchmarks queue: enqueue, drain, pick-up, costs, and a table under an old snapshot."""

from benchmarks.queue.command import main

__all__ = ["main"]
