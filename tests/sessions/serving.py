"""A real server process over a real database: started, killed, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
OURS = "pgonly_django.sessions"
DJANGOS = "django.contrib.sessions.backends.db"


def command_of(kind: str, port: int) -> list[str]:
    place = f"127.0.0.1:{port}"
    if kind == "gunicorn":
        options = ["--workers", "2", "--threads", "4", "--bind", place, "--no-control-socket"]
        return [sys.executable, "-m", "gunicorn", *options, "tests.sessions.apps_served:wsgi"]
    options = ["--port", str(port), "--lifespan", "off", "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", *options, "tests.sessions.apps_served:asgi"]


@dataclass
class AppServer:
    kind: str
    database_url: str
    port: int
    engine: str = OURS
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DATABASE_URL": self.database_url,
            "DJANGO_SETTINGS_MODULE": "tests.sessions.server_settings",
            "SESSION_ENGINE": self.engine,
        }

    def migrate(self) -> None:
        command = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, timeout=120)

    def start(self) -> None:
        # Its own group: killing takes the workers along, as a power cut would.
        self.process = subprocess.Popen(
            command_of(self.kind, self.port), cwd=ROOT, env=self.environment, start_new_session=True
        )
        self._wait_until_it_answers()

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)
            self.process = None

    def _wait_until_it_answers(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                httpx.get(f"{self.url}/whoami/", timeout=5).raise_for_status()
            except httpx.HTTPError:
                assert time.monotonic() < deadline, f"{self.kind} does not answer"
                time.sleep(0.05)
            else:
                return
