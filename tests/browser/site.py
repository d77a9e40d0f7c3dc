"""The example's web server as a process, on a database that is there; and who is signed in."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

from django.conf import settings

from benchmarks.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = "tests.browser.settings"
UP_WITHIN_SECONDS = 30.0


class Site:
    """A context manager: `runserver` with static files. `url` has no slash at its end."""

    def __init__(self, database_url: str, log: Path, theme: str = "plain", **variables: str) -> None:
        self.port, self.log = free_port(), log
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"DATABASE_URL": database_url, "DJANGO_SETTINGS_MODULE": SETTINGS, "BROWSER_THEME": theme}
        # The key is this process's, which signs people in: a session has a hash made with it.
        own |= {"SECRET_KEY": settings.SECRET_KEY, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.environment = {**os.environ, **own, **variables}

    def __enter__(self) -> Self:
        command = ["runserver", "--noreload", "--insecure", "--skip-checks", f"127.0.0.1:{self.port}"]
        self._process = self.start(*command)
        deadline = time.monotonic() + UP_WITHIN_SECONDS
        while not self._answers():
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, f"The web server does not answer: {self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        return self

    def start(self, *arguments: str) -> subprocess.Popen:
        """Another command on the same database, such as runworker. The caller ends it."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "django", *arguments]
            return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def _answers(self) -> bool:
        with suppress(OSError), urlopen(f"{self.url}/static/pgonly_django/admin.css", timeout=5):
            return True
        return False

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


def cookie_of(user: Any, url: str) -> dict[str, str]:
    """A new session of this user, as Playwright's add_cookies() wants it."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY

    session = import_module("pgonly_django.sessions").SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return {"name": "sessionid", "value": session.session_key, "url": url}
