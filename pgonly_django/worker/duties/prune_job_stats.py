from threading import Event

from pgonly_django.queue.stats import prune
from pgonly_django.worker.duties.duty import INTERVAL_SECONDS, Connect, in_batches


class PruneJobStats:
    """Deletes the statistics of minutes after three hours, and those of hours after 35 days."""

    name, interval = "Pruning the statistics of jobs", INTERVAL_SECONDS

    def run_once(self, jobs: Connect, over: Event) -> int:
        connection = jobs()
        return in_batches(lambda: prune(connection), over)
