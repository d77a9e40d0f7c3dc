"""The demo with its pages: a web server and a worker until Ctrl-C. A killed worker is replaced."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from example_project.screening.demo.sample_tasks import SERVED
from example_project.screening.demo.start import HOST, answers
from example_project.screening.tasks import screen_project

if TYPE_CHECKING:
    from example_project.screening.demo.children import Children

POLL_SECONDS = 0.2
START_SECONDS = 30.0
FAILED_START_SECONDS = 5.0
THREADS = 6  # a screening, and what the sample tasks are allowed to do at a time


class Interactive:
    def __init__(self, children: Children, out: TextIO, port: int) -> None:
        self.children, self.out, self.port = children, out, port
        self._worker_started_at = 0.0

    def serve(self, guide: str) -> None:
        """Print `guide` when the pages answer, then run until interrupted. Raises ChildDied."""
        self.children.start("web", "runserver", "--noreload", "--insecure", f"{HOST}:{self.port}")
        pid = self._start_worker()
        self._wait_for_pages()
        self._say(
            f"{guide}\n  worker     pid {pid}: kill -9 it and watch the page: another worker takes over"
        )
        self._say("  Ctrl-C     stops everything")
        while True:
            self._replace_killed_worker()
            self.children.check()
            time.sleep(POLL_SECONDS)

    def _start_worker(self) -> int:
        self._worker_started_at = time.monotonic()
        queues = ",".join((screen_project.queue_name, *SERVED))
        return self.children.start_worker(queues, threads=THREADS)

    def _replace_killed_worker(self) -> None:
        """A worker that ends right after its start has a problem that a new one would have too: check() reports it."""
        code = self.children.ended("worker")
        age = time.monotonic() - self._worker_started_at
        if code is not None and age > FAILED_START_SECONDS:
            self._say(
                f"The worker ended (exit code {code}); another one has started (pid {self._start_worker()})."
            )

    def _wait_for_pages(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            self.children.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"Nothing answers on port {self.port} after {START_SECONDS:g} s.")
            time.sleep(POLL_SECONDS)

    def _say(self, text: str) -> None:
        self.out.write(text + "\n")
        self.out.flush()
