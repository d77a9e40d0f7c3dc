from datetime import timedelta
from threading import Event

from pgonly_django.queue import workers
from pgonly_django.worker.duties.duty import INTERVAL_SECONDS, Connect

FORGOTTEN_AFTER = timedelta(days=1)


class ForgetWorkers:
    """Deletes the rows of workers that were last heard of a day ago."""

    name, interval = "Forgetting workers", INTERVAL_SECONDS

    def run_once(self, jobs: Connect, over: Event) -> int:  # noqa: ARG002 - a duty's signature
        return workers.forget(jobs(), FORGOTTEN_AFTER)
