"""Real servers: a PostgreSQL that may be stopped, and an app server that is started, killed, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.servers import free_port

ROOT = Path(__file__).resolve().parents[1]
UP_WITHIN_SECONDS = 60


def command_of(kind: str, port: int) -> list[str]:
    # Idle connections are kept, so that a client stays with its worker.
    if kind == "gunicorn":
        options = f"--workers 2 --threads 4 --keep-alive 60 --no-control-socket --bind 127.0.0.1:{port}"
        return [sys.executable, "-m", "gunicorn", *options.split(), "tests.apps_served:wsgi"]
    options = f"--port {port} --timeout-keep-alive 60 --lifespan off --log-level warning"
    return [sys.executable, "-m", "uvicorn", *options.split(), "tests.apps_served:asgi"]


@dataclass
class AppServer:
    """gunicorn with two workers, or uvicorn. `probe` is the path that answers once it is up."""

    kind: str
    database_url: str
    settings: str
    probe: str
    variables: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        own = {"DATABASE_URL": self.database_url, "DJANGO_SETTINGS_MODULE": self.settings}
        return {**os.environ, **own, **self.variables}

    def migrate(self) -> None:
        command = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, timeout=120)

    def start(self) -> None:
        # Its own group: killing takes the workers along, as a power cut would.
        self.process = subprocess.Popen(
            command_of(self.kind, self.port), cwd=ROOT, env=self.environment, start_new_session=True
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)
            self.process = None

    def _wait_until_it_answers(self) -> None:
        """What it says meanwhile is in pytest's captured stderr."""
        deadline = time.monotonic() + UP_WITHIN_SECONDS
        while True:
            try:
                httpx.get(f"{self.url}{self.probe}", timeout=5).raise_for_status()
            except httpx.HTTPError as error:
                assert self.process.poll() is None, f"{self.kind} ended with {self.process.returncode}"
                assert time.monotonic() < deadline, f"{self.kind} does not answer {self.probe}: {error!r}"
                time.sleep(0.05)
            else:
                return
