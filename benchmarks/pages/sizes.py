from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How many rows. QUICK is for a first look, the defaults are for figures in the docs."""

    jobs: int = 1_000_000
    cache_rows: int = 200_000
    sessions: int = 100_000
    workers: int = 30


QUICK = Sizes(jobs=20_000, cache_rows=5_000, sessions=3_000, workers=10)
