from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How much of each part to measure. QUICK is for a first look, the defaults are for figures in the docs."""

    rounds: int = 5
    singles: int = 600
    many: int = 10_000
    drained: int = 20_000
    pickups: int = 300
    idle_seconds: float = 45.0  # three heartbeats and one safety poll; the first maintenance run comes later
    held: int = 100_000


QUICK = Sizes(rounds=2, singles=300, many=10_000, drained=10_000, pickups=100, idle_seconds=5.0, held=30_000)
