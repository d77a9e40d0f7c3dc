"""How many more jobs a worker may claim: slots, prefetch, --max-jobs and --max-jobs-per-process, and whether it claims
at all."""

from pgonly_django.queue.claim import Claim
from pgonly_django.worker.deadline import Deadline
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.limited_claims import LimitedClaims
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.poll_timer import NEVER
from pgonly_django.worker.prefetch import SHARE_BESIDE_LIMITED, Prefetch
from pgonly_django.worker.shutdown import Shutdown


class Room:
    """Changed by the main loop alone. Any thread may ask `is_closed`."""

    def __init__(
        self, options: WorkerOptions, in_flight: InFlight, limited: LimitedClaims, prefetch: Prefetch,
        shutdown: Shutdown, deadline: Deadline,
    ) -> None:  # fmt: skip
        self._in_flight, self._limited, self._prefetch = in_flight, limited, prefetch
        self._shutdown, self._deadline, self._threads = shutdown, deadline, options.threads
        of_process = NEVER if options.max_jobs_per_process is None else options.max_jobs_per_process
        of_all = NEVER if options.max_jobs is None else options.max_jobs
        self.jobs_left = min(of_all, of_process)
        self._is_replaced = of_process < of_all

    def drain(self) -> None:
        """Claim no more."""
        self.jobs_left = -NEVER

    @property
    def is_closed(self) -> bool:
        """The worker is about to end, or has to once its jobs have ended."""
        return self._shutdown.is_asked or self.jobs_left <= 0 or self._deadline.claims_nothing

    @property
    def is_used_up(self) -> bool:
        """It has claimed the jobs of --max-jobs-per-process: a fresh process takes its place."""
        return self._is_replaced and -NEVER < self.jobs_left <= 0

    @property
    def idle_slots(self) -> int:
        return max(self._threads - self._in_flight.slots_taken, 0)

    @property
    def free_slots(self) -> int:
        """How many jobs of one slot may start."""
        return int(max(min(self.idle_slots, self.jobs_left), 0))

    @property
    def has_free_slot(self) -> bool:
        """Beside those that are kept free for a limited job."""
        return self.free_slots > self._limited.kept_free

    @property
    def wants_more(self) -> bool:
        """Whether an ordinary claim is worth its round trip. Where slots are kept free it takes only the others, and
        beside a heavy job only those that are free."""
        if self._limited.kept_free or self._in_flight.has_heavy:
            return self.has_free_slot
        return self._prefetch.wants_more(self._in_flight.slots_taken, self._prefetch_share)

    @property
    def _prefetch_share(self) -> float:
        return SHARE_BESIDE_LIMITED if self._limited.has_more else 1.0

    def claim(self) -> Claim | None:
        """What to claim along with the ends of an exchange, whose jobs take up no slot any more."""
        if self.is_closed or not self.wants_more:
            return None
        kept = self._limited.kept_free
        is_alone = not (kept or self._in_flight.has_heavy)
        limits = self._prefetch.limits(self._in_flight.slots_taken, self._prefetch_share) if is_alone else {}
        limits_left = {queue: int(min(limit, self.jobs_left)) for queue, limit in limits.items() if limit > 0}
        free_slots = max(self.free_slots - kept, 0)
        if free_slots == 0 and not limits_left:
            return None
        return Claim(free_slots, limits_left, take_suspect=not self._in_flight.has_suspect)
