"""What `runworker` was told, from flags and PGONLY_WORKER_* variables, validated once."""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any

from pgonly_django.conf import LONGEST_SECONDS, settings, unknown_key
from pgonly_django.exceptions import OptionError

ENVIRONMENT_PREFIX = "PGONLY_WORKER_"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - probes come from outside
POLL_SECONDS_LISTENING = 30.0
POLL_SECONDS_BLIND = 2.0
POLL_SECONDS_LEAST = 0.05
SLEEP_AFTER_LEAST = 1.0
MAX_SECONDS_LEAST = 1.0
THREADS_LIMIT = 500
NAME_LENGTH = 128
PORT_LIMIT = 65535
PROCESSES_LIMIT = 128
START_METHODS = ("auto", "fork", "spawn")
# Below the 30 s between stop signal and kill of Kubernetes, Amazon ECS, Heroku and Render. A platform that kills sooner
# is known by a variable that it sets: its grace leaves time to write the ends.
GRACE_SECONDS = 20.0
GRACE_SECONDS_BY_VARIABLE = {
    "K_SERVICE": 8.0,  # Cloud Run kills after 10 s: a service,
    "CLOUD_RUN_JOB": 8.0,  # a job,
    "CLOUD_RUN_WORKER_POOL": 8.0,  # a worker pool
    "FLY_MACHINE_ID": 4.0,  # Fly.io: kill_timeout is 5 s
}


def default_grace_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """What --grace-seconds is where it is not given."""
    known = [seconds for name, seconds in GRACE_SECONDS_BY_VARIABLE.items() if environ.get(name)]
    return min(known, default=GRACE_SECONDS)


def parse_queues(text: str) -> tuple[str, ...]:
    """ "a,b" as ("a", "b"): in serving order, without repetition."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _parse_flag(text: str) -> bool:
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]


# How a variable is read, and what it must hold; those of the other options may be any text.
PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "queues": (parse_queues, "names"),
    "health_port": (int, "a port, or 0 for none"),
    **dict.fromkeys(("threads", "max_jobs", "processes", "max_jobs_per_process"), (int, "a whole number")),
    "max_memory_mb": (float, "a number of MB"),
    **dict.fromkeys(
        ("grace_seconds", "max_seconds", "max_idle_seconds", "poll_seconds", "sleep_after"),
        (float, "a number of seconds"),
    ),
    **dict.fromkeys(("burst", "listen"), (_parse_flag, "1, true, yes, 0, false or no")),
}


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Durations in seconds; `poll_seconds` None: 30 with LISTEN, 2 without."""

    queues: tuple[str, ...] = ()
    threads: int = 8
    grace_seconds: float = field(default_factory=default_grace_seconds)
    burst: bool = False
    max_jobs: int | None = None
    max_idle_seconds: float | None = None
    max_seconds: float | None = None
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    listen: bool = True
    poll_seconds: float | None = None
    sleep_after: float | None = None  # seconds without a job; None: it never sleeps
    database: str = "default"
    health_port: int | None = None  # None: see platform_port(). 0: none
    health_host: str = EVERYWHERE
    heartbeat_file: str | None = None
    processes: int = 1
    start_method: str = "auto"
    max_jobs_per_process: int | None = None
    max_memory_mb: float | None = None

    def __post_init__(self) -> None:
        self._require("threads", 1 <= self.threads <= THREADS_LIMIT, f"from 1 to {THREADS_LIMIT}")
        self._require("grace_seconds", self.grace_seconds >= 0, "0 or more")
        self._require("max_jobs", self.max_jobs is None or self.max_jobs >= 1, "1 or more")
        idle, poll, most, sleep = self.max_idle_seconds, self.poll_seconds, self.max_seconds, self.sleep_after
        self._require(
            "sleep_after", sleep is None or sleep >= SLEEP_AFTER_LEAST, f"{SLEEP_AFTER_LEAST:g} or more"
        )
        self._require("max_idle_seconds", idle is None or idle >= 0, "0 or more")
        self._require(
            "max_seconds",
            most is None or MAX_SECONDS_LEAST <= most <= LONGEST_SECONDS,
            f"{MAX_SECONDS_LEAST:g} or more",
        )
        self._require(
            "poll_seconds", poll is None or poll >= POLL_SECONDS_LEAST, f"{POLL_SECONDS_LEAST} or more"
        )
        self._require("name", 1 <= len(self.name) <= NAME_LENGTH, f"1 to {NAME_LENGTH} characters long")
        self._require("name", _can_be_stored(self.name), "text in UTF-8")
        self._require("queues", all(map(_can_be_stored, self.queues)), "names in UTF-8")
        port, file = self.health_port, self.heartbeat_file
        self._require("health_port", port is None or 0 <= port <= PORT_LIMIT, f"from 0 to {PORT_LIMIT}")
        self._require("health_host", self.health_host != "", "an address, such as 0.0.0.0, :: or 127.0.0.1")
        self._require("heartbeat_file", file is None or file != "", "the path of a file")
        self._check_processes()

    def _check_processes(self) -> None:
        self._require("processes", 1 <= self.processes <= PROCESSES_LIMIT, f"from 1 to {PROCESSES_LIMIT}")
        self._require(
            "start_method", self.start_method in START_METHODS, f"one of {', '.join(START_METHODS)}"
        )
        jobs, memory = self.max_jobs_per_process, self.max_memory_mb
        self._require("max_jobs_per_process", jobs is None or jobs >= 1, "1 or more")
        self._require("max_memory_mb", memory is None or memory > 0, "more than 0")
        if self.processes == 1:
            return
        if self.max_jobs is not None:
            raise OptionError(
                "--max-jobs counts the jobs of one process, so it cannot be had with --processes "
                f"{self.processes}. To replace each process after so many jobs: --max-jobs-per-process."
            )
        room = NAME_LENGTH - len(f"-{self.processes}")
        self._require(
            "name", len(self.name) <= room, f"at most {room} characters long, for -{self.processes}"
        )

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            flag = "--" + name.replace("_", "-")
            raise OptionError(f"{flag} must be {what}, got {getattr(self, name)!r}.")

    @property
    def lease_for(self) -> timedelta:
        return timedelta(seconds=settings().lease_seconds)

    @property
    def heartbeat_seconds(self) -> float:
        """Four beats a lease: three may be lost."""
        return settings().lease_seconds / 4

    def longest_pause(self, *, listening: bool) -> float:
        if self.poll_seconds is not None:
            return self.poll_seconds
        return POLL_SECONDS_LISTENING if listening else POLL_SECONDS_BLIND


def from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The options set by PGONLY_WORKER_<NAME>. Raises OptionError naming the variable that does not parse."""
    found: dict[str, Any] = {}
    for spec in fields(WorkerOptions):
        variable = ENVIRONMENT_PREFIX + spec.name.upper()
        if environ.get(variable, "") != "":
            found[spec.name] = _parse(variable, spec.name, environ[variable])
    variable = ENVIRONMENT_PREFIX + "NO_LISTEN"
    if environ.get(variable, "") != "":
        found["listen"] = not _parse(variable, "listen", environ[variable])
    return found


def platform_port(environ: Mapping[str, str] = os.environ) -> int | None:
    """$PORT, which platforms set for what they probe; None where it is no port."""
    text = environ.get("PORT", "")
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(PORT_LIMIT))
    return int(text) if is_number and 1 <= int(text) <= PORT_LIMIT else None


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """What to say of each PGONLY_WORKER_ variable that is read by nothing here. No error: Kubernetes makes some of its
    own for a service that is called pgonly-worker."""
    names = [spec.name.upper() for spec in fields(WorkerOptions)] + ["NO_LISTEN"]
    known = [ENVIRONMENT_PREFIX + name for name in names]
    set_here = [name for name in environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known]
    return [unknown_key("%s", name, known) for name in sorted(set_here)]


def _can_be_stored(text: str) -> bool:
    """Not with what the command line could not decode, nor with NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _parse(variable: str, name: str, text: str) -> Any:
    parse, kind = PARSERS.get(name, (str, "text"))
    try:
        return parse(text)
    except (ValueError, KeyError) as error:
        raise OptionError(f"{variable} must be {kind}, got {text!r}.") from error
