"""From where, and since when, a run counts its progress: what its speed is measured by."""

from __future__ import annotations

from typing import Any

SOON_SECONDS = 1.0


class Counting:
    """Of one run. A run that goes on where an earlier one stood counts from its first report; and where the count
    starts over, as in a second loop, it is measured anew."""

    __slots__ = ("_done", "_since", "_total")

    def __init__(self, *, is_first_run: bool) -> None:
        self._done: Any = 0 if is_first_run else None
        self._total: Any = None
        self._since: dict[str, Any] | None = None

    def since(self, done: Any, total: Any, seconds: float) -> dict[str, Any] | None:
        """For the report of `done`, so many `seconds` after the run began. None: from nought, with the run."""
        if not (_is_number(done) and (total is None or _is_number(total))):
            return None
        is_other = total is not None and self._total is not None and total != self._total
        if self._done is None or is_other or done < self._done:
            is_beginning = done == 0 and seconds < SOON_SECONDS
            self._since = None if is_beginning else {"done": done, "seconds": round(seconds, 3)}
        self._done = done
        self._total = total if total is not None else self._total
        return self._since


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
