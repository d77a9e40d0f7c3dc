"""How many jobs to claim beyond the free slots: none, but of queues whose jobs are known to be short."""

AHEAD_SECONDS = 0.2  # the buffer holds at most this much work
AHEAD_LIMIT = 500
SMOOTHING = 0.1
REFILL_BELOW = 0.5
# While limited jobs wait for a slot, which comes when the buffer has run down.
SHARE_BESIDE_LIMITED = 0.1


class Prefetch:
    """Keeps the moving average of each queue's run times."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._average: dict[str, float] = {}

    def note(self, queue: str, seconds: float) -> None:
        known = self._average.get(queue)
        self._average[queue] = seconds if known is None else known + SMOOTHING * (seconds - known)

    def forget(self, queue: str) -> None:
        """Its jobs are not that short: what was claimed ahead had to go back."""
        self._average.pop(queue, None)

    def ahead(self, queue: str) -> int:
        """How many jobs of `queue` to hold beyond the slots: none unless they are known to be short."""
        average = self._average.get(queue)
        if average is None:
            return 0
        return min(int(AHEAD_SECONDS / max(average, 1e-6)), AHEAD_LIMIT)

    def limits(self, held: int, share: float = 1.0) -> dict[str, int]:
        """For each queue of short jobs: how many of them to claim now, with this `share` of what may be ahead."""
        aheads = {queue: int(self.ahead(queue) * share) for queue in self._average}
        return {queue: self.threads + ahead - held for queue, ahead in aheads.items() if ahead > 0}

    def wants_more(self, held: int, share: float = 1.0) -> bool:
        """Whether a claim is worth its round trip: a slot is free, or the buffer has run down."""
        if held < self.threads:
            return True
        most = int(max((self.ahead(queue) for queue in self._average), default=0) * share)
        return most > 0 and held < (self.threads + most) * REFILL_BELOW
