"""The signals that stop a worker."""

import signal
import threading
from typing import Any, Self

from pgonly_django.worker.worker import WorkerLoop


class StopSignals:
    """Brings SIGTERM, SIGINT, SIGQUIT and SIGHUP to a worker. Outside of the main thread it does nothing."""

    NAMES = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP")

    def __init__(self, *, is_early: bool) -> None:
        """`is_early`: while there is no worker yet a signal ends the process. Without a handler it would not end pid 1
        of a container."""
        self.worker: WorkerLoop | None = None
        self.before: dict[int, Any] = {}
        self._is_early = is_early

    def __enter__(self) -> Self:
        if self._is_early:
            self._set_handlers()
        return self

    def serve(self, worker: WorkerLoop) -> None:
        self.worker = worker
        if not self._is_early:
            self._set_handlers()
        if self.before:
            worker.inbox.wake_on_signals()

    def _set_handlers(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (getattr(signal, name) for name in self.NAMES if hasattr(signal, name)):
            if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup
            self.before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        if self.worker is not None:
            self.worker.inbox.close()
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, _: Any) -> None:
        worker = self.worker
        if worker is None:  # there is nothing to give back yet
            raise SystemExit(0)
        again = number == signal.SIGINT and worker.shutdown.is_asked
        if again or number == getattr(signal, "SIGQUIT", None):
            worker.stop_now()
        else:
            worker.stop()
