"""What runs beside a worker in its process, and speaks with those who look after it."""

from __future__ import annotations

from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.retirement import Retirement, RetirementThread
from pgonly_django.worker.supervisor.channel import Channel
from pgonly_django.worker.supervisor.link import Link
from pgonly_django.worker.systemd import Systemd, SystemdThread


class Beside:
    """With a supervisor (`channel`) only the link to it: it speaks for all its processes."""

    def __init__(self, worker: WorkerLoop, channel: Channel | None, *, owns_process: bool) -> None:
        self._threads: list[Link | RetirementThread | SystemdThread] = []
        if channel is not None:
            self._threads.append(Link(worker, channel))
            return
        retirement = Retirement(worker.options)
        if retirement.is_possible:
            self._threads.append(RetirementThread(retirement, lambda: worker.room.is_used_up, worker.retire))
        systemd = Systemd.from_environment() if owns_process else None
        if systemd is not None:
            self._threads.append(SystemdThread(systemd, worker.status))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """The worker has ended as it should."""
        for thread in self._threads:
            thread.end()
