"""Whether the web server around a tick was told to stop. gunicorn and uvicorn tell their requests nothing: they wait
for them, and then end without running any exit function. Their handler of SIGTERM is a method of what knows."""

import signal
from typing import Any


class WebServer:
    """The one of this process. Where it is neither of the two, it never stops."""

    def __init__(self) -> None:
        self._owner: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if self.is_stopping:  # gunicorn with --max-requests waits for this last one
            self._owner = None

    @property
    def is_stopping(self) -> bool:
        """For any thread."""
        return (
            getattr(self._owner, "alive", True) is False or getattr(self._owner, "should_exit", False) is True
        )

    def seconds_left(self, otherwise: float) -> float:
        """For how long it waits for its requests after SIGTERM; `otherwise` where it sets no limit."""
        of_gunicorn = getattr(getattr(self._owner, "cfg", None), "graceful_timeout", None)
        of_uvicorn = getattr(getattr(self._owner, "config", None), "timeout_graceful_shutdown", None)
        seconds = of_gunicorn if of_uvicorn is None else of_uvicorn
        return otherwise if seconds is None else float(seconds)
