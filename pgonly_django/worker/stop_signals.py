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

    def __init__(self, *, is_early: bool, is_supervised: bool = False) -> None:
        """`is_early`: while there is no worker yet a signal ends the process. Without a handler it would not end pid 1
        of a container. `is_supervised`: the terminal tells its whole group, and the supervisor says what to do."""
        self.worker: Stoppable | None = None
        self.before: dict[int, Any] = {}
        self._is_early = is_early
        # Not SIG_IGN: the programs that jobs start would ignore it too.
        of_terminal = (lambda *_: None) if is_supervised else self._handle
        self._handlers = {
            signal.SIGTERM: self._handle,
            signal.SIGQUIT: self._handle,
            signal.SIGINT: of_terminal,
            signal.SIGHUP: of_terminal,
        }

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
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
            del self._handlers[signal.SIGHUP]
        self.before = {
            number: signal.signal(number, handler) or signal.SIG_DFL
            for number, handler in self._handlers.items()
        }

    def __exit__(self, *_: object) -> None:
        if self.worker is not None:
            self.worker.inbox.close()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: Any) -> None:
        worker = self.worker
        if worker is None:  # there is nothing to give back yet
            raise SystemExit(0)
        again = number == signal.SIGINT and worker.is_stopping
        if again or number == signal.SIGQUIT:
            worker.stop_now()
        else:
            worker.stop()
