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
        config = getattr(self._owner, "config", None)
        # gunicorn's worker for uvicorn gives a method of its own as this callback, and gunicorn kills all the same.
        worker = getattr(getattr(config, "callback_notify", None), "__self__", self._owner)
        of_gunicorn = getattr(getattr(worker, "cfg", None), "graceful_timeout", None)
        of_uvicorn = getattr(config, "timeout_graceful_shutdown", None)
        return min((float(each) for each in (of_gunicorn, of_uvicorn) if each is not None), default=otherwise)
