"""Another thread that is inside of a limiter."""

from __future__ import annotations

import threading
from typing import Any

from pgonly_django import limiter


class Holder:
    """Another thread that is inside of a limiter, until leave()."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options
        self.is_in, self._may_leave = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._hold, daemon=True)
        self.thread.start()

    def _hold(self) -> None:
        try:
            with limiter(*self.arguments, **self.options):
                self.is_in.set()
                assert self._may_leave.wait(60)
        except BaseException as error:
            self.error = error

    def leave(self) -> None:
        self._may_leave.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
