"""The signals that stop a worker."""

import signal
import threading
from typing import Any, Protocol, Self

from pgonly_django.worker.inbox import Inbox


class Stoppable(Protocol):
    """A worker or a supervisor."""

    inbox: Inbox[Any]

    @property
    def is_stopping(self) -> bool: ...
    def stop(self) -> None: ...
    def stop_now(self) -> None: ...


class StopSignals:
    """Brings SIGTERM, SIGINT, SIGQUIT and SIGHUP to a worker or a supervisor. Outside of the main thread it does
    nothing."""

    NAMES = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP")
    OF_THE_TERMINAL = ("SIGINT", "SIGHUP")

    def __init__(self, *, is_early: bool, is_supervised: bool = False) -> None:
        """`is_early`: while there is no worker yet a signal ends the process. Without a handler it would not end pid 1
        of a container. `is_supervised`: the terminal tells its whole group, and the supervisor says what to do."""
        self.worker: Stoppable | None = None
        self._ignored = self.OF_THE_TERMINAL if is_supervised else ()
        self.before: dict[int, Any] = {}
        self._is_early = is_early

    def __enter__(self) -> Self:
        if self._is_early:
            self._set_handlers()
        return self

    def serve(self, worker: Stoppable) -> None:
        self.worker = worker
        if not self._is_early:
            self._set_handlers()
        if self.before:
            worker.inbox.wake_on_signals()

    def _set_handlers(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for name in self.NAMES:
            number = getattr(signal, name, None)
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                continue  # nohup
            # Not SIG_IGN: the programs that jobs start would ignore it too.
            handler = _ignore if name in self._ignored else self._handle
            self.before[number] = signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        if self.worker is not None:
            self.worker.inbox.close()
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, _: Any) -> None:
        worker = self.worker
        if worker is None:  # there is nothing to give back yet
            raise SystemExit(0)
        again = number == signal.SIGINT and worker.is_stopping
        if again or number == getattr(signal, "SIGQUIT", None):
            worker.stop_now()
        else:
            worker.stop()


def _ignore(*_: Any) -> None:
    pass
