"""python -m benchmarks queue: enqueue, drain, pick-up, cost, and load under a held snapshot."""

from benchmarks.queue.command import main

__all__ = ["main"]
