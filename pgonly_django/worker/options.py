"""The options of `runworker`, from flags and PGONLY_WORKER_* variables, validated once; and what has to exist before a
worker starts. The messages say what to do."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

from pgonly_django.compat import task_backends
from pgonly_django.conf import LONGEST_SECONDS, settings, unknown_key
from pgonly_django.database.placement import what_is_wrong
from pgonly_django.exceptions import OptionError
from pgonly_django.tasks import PostgresBackend
from pgonly_django.worker.status import own_rss_mb

ENVIRONMENT_PREFIX = "PGONLY_WORKER_"
NO_LISTEN = "no_listen"  # as the flag says it
EVERYWHERE = "0.0.0.0"  # noqa: S104 - probes come from outside
POLL_SECONDS_LISTENING, POLL_SECONDS_BLIND, POLL_SECONDS_LEAST = 30.0, 2.0, 0.05
SLEEP_AFTER_LEAST = 1.0
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
    """Returns the default of --grace-seconds."""
    known = [seconds for name, seconds in GRACE_SECONDS_BY_VARIABLE.items() if environ.get(name)]
    return min(known, default=GRACE_SECONDS)


def parse_queues(text: str) -> tuple[str, ...]:
    """Returns "a,b" as ("a", "b"): in serving order, without repetition."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _parse_flag(text: str) -> bool:
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]


def _can_be_stored(text: str) -> bool:
    """Returns False for text that the command line could not decode, and for NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


class Rule(NamedTuple):
    """The rule of an option: how the text of its variable is read, what that must be, and what its value must be."""

    parse: Callable[[str], Any]
    kind: str
    holds: Callable[[Any], bool]
    what: str


WHOLE, SECONDS, TEXT = (int, "a whole number"), (float, "a number of seconds"), (str, "text")
FLAG = Rule(_parse_flag, "1, true, yes, 0, false or no", lambda _: True, "")
# An option that is None is not asked.
RULES = {
    "queues": Rule(parse_queues, "names", lambda names: all(map(_can_be_stored, names)), "names in UTF-8"),
    "threads": Rule(*WHOLE, lambda number: 1 <= number <= THREADS_LIMIT, f"from 1 to {THREADS_LIMIT}"),
    "grace_seconds": Rule(*SECONDS, lambda seconds: seconds >= 0, "0 or more"),
    "burst": FLAG,
    "max_jobs": Rule(*WHOLE, lambda number: number >= 1, "1 or more"),
    "max_idle_seconds": Rule(*SECONDS, lambda seconds: seconds >= 0, "0 or more"),
    "max_seconds": Rule(*SECONDS, lambda seconds: 1 <= seconds <= LONGEST_SECONDS, "1 or more"),
    "name": Rule(*TEXT, lambda name: 1 <= len(name) <= NAME_LENGTH and _can_be_stored(name),
                 f"text in UTF-8, 1 to {NAME_LENGTH} characters long"),
    "listen": FLAG,
    "poll_seconds": Rule(*SECONDS, lambda seconds: seconds >= POLL_SECONDS_LEAST, f"{POLL_SECONDS_LEAST} or more"),
    "sleep_after": Rule(*SECONDS, lambda seconds: seconds >= SLEEP_AFTER_LEAST, f"{SLEEP_AFTER_LEAST:g} or more"),
    "database": Rule(*TEXT, bool, "an alias of DATABASES"),
    "health_port": Rule(
        int, "a port, or 0 for none", lambda port: 0 <= port <= PORT_LIMIT, f"from 0 to {PORT_LIMIT}"
    ),
    "health_host": Rule(*TEXT, bool, "an address, such as 0.0.0.0, :: or 127.0.0.1"),
    "heartbeat_file": Rule(*TEXT, bool, "the path of a file"),
    "processes": Rule(*WHOLE, lambda number: 1 <= number <= PROCESSES_LIMIT, f"from 1 to {PROCESSES_LIMIT}"),
    "start_method": Rule(*TEXT, lambda name: name in START_METHODS, f"one of {', '.join(START_METHODS)}"),
    "max_jobs_per_process": Rule(*WHOLE, lambda number: number >= 1, "1 or more"),
    "max_memory_mb": Rule(float, "a number of MB", lambda megabytes: megabytes > 0, "more than 0"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """The options of a worker. Durations in seconds; `poll_seconds` None: 30 with LISTEN, 2 without."""

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
        for name, rule in RULES.items():
            value = getattr(self, name)
            if value is not None and not rule.holds(value):
                raise OptionError(f"--{name.replace('_', '-')} must be {rule.what}, got {value!r}.")
        if self.processes == 1:
            return
        if self.max_jobs is not None:
            raise OptionError(
                "--max-jobs counts the jobs of one process, so it does not work with --processes "
                f"{self.processes}. To replace each process after a number of jobs: --max-jobs-per-process."
            )
        room, ending = NAME_LENGTH - len(f"-{self.processes}"), f"-{self.processes}"
        if len(self.name) > room:
            raise OptionError(
                f"--name must be at most {room} characters long, for {ending}, got {self.name!r}."
            )

    @property
    def lease_for(self) -> timedelta:
        return timedelta(seconds=settings().lease_seconds)

    @property
    def heartbeat_seconds(self) -> float:
        """The seconds between beats: four in a lease, of which three may be lost."""
        return settings().lease_seconds / 4

    def longest_pause(self, *, listening: bool) -> float:
        if self.poll_seconds is not None:
            return self.poll_seconds
        return POLL_SECONDS_LISTENING if listening else POLL_SECONDS_BLIND


def from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Returns the options of PGONLY_WORKER_<NAME>. Raises OptionError, which names the wrong variable."""
    found: dict[str, Any] = {}
    for name in (*RULES, NO_LISTEN):
        variable = ENVIRONMENT_PREFIX + name.upper()
        if environ.get(variable, "") != "":
            found[name] = _parse(variable, RULES.get(name, FLAG), environ[variable])
    if NO_LISTEN in found:
        found["listen"] = not found.pop(NO_LISTEN)
    return found


def platform_port(environ: Mapping[str, str] = os.environ) -> int | None:
    """Returns $PORT, which platforms set for what they probe; None where it is not a port."""
    text = environ.get("PORT", "")
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(PORT_LIMIT))
    return int(text) if is_number and 1 <= int(text) <= PORT_LIMIT else None


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Returns a warning for each PGONLY_WORKER_ variable that nothing here reads. It is not an error: Kubernetes makes
    some for a service that is called pgonly-worker."""
    known = [ENVIRONMENT_PREFIX + name.upper() for name in (*RULES, NO_LISTEN)]
    set_here = [name for name in environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known]
    return [unknown_key("%s", name, known) for name in sorted(set_here)]


def _parse(variable: str, rule: Rule, text: str) -> Any:
    try:
        return rule.parse(text)
    except (ValueError, KeyError) as error:
        raise OptionError(f"{variable} must be {rule.kind}, got {text!r}.") from error


# Before a worker starts.

NO_BACKEND = """TASKS has no entry of pgonly_django, so that no job can reach this worker. Add to the settings:
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend"}}"""
IN_TRANSACTION = (
    "runworker was called inside a transaction on {alias!r}: the worker's own connections see nothing of it. "
    "In a TestCase use drain() of pgonly_django.testing, or make it a TransactionTestCase (in pytest-django: "
    "@pytest.mark.django_db(transaction=True))."
)
NOTHING_WAKES = (
    "--sleep-after: nothing tells this worker of new jobs while it sleeps. Give it a --health-port and name its "
    'address in PGONLY["WAKE_URLS"], or set --poll-seconds.'
)


def backends() -> list[PostgresBackend]:
    """Returns those of TASKS that are ours. Raises ImproperlyConfigured without any, or if one is wrong."""
    ours = [backend for backend in task_backends.all() if isinstance(backend, PostgresBackend)]
    if not ours:
        raise ImproperlyConfigured(NO_BACKEND)
    return ours


def database_of_jobs() -> str:
    """Returns the database where --database is not given. Raises ImproperlyConfigured."""
    databases = {backend.database for backend in backends()}
    return databases.pop() if len(databases) == 1 else DEFAULT_DB_ALIAS


def refuse_too_little_memory(options: WorkerOptions) -> None:
    """Raises CommandError where a process starts above its memory: each would be replaced at once."""
    taken = own_rss_mb()
    if options.max_memory_mb is not None and taken is not None and taken > options.max_memory_mb:
        raise CommandError(
            f"--max-memory-mb {options.max_memory_mb:g} is less than the {taken:.0f} MB that the process takes before "
            "its first job. Leave room for the jobs.",
            returncode=2,
        )


def warnings_of(options: WorkerOptions, *, has_port: bool) -> Iterator[str]:
    """Yields warnings about mistakes that keep no worker from running."""
    here = [backend.queues for backend in backends() if backend.database == options.database]
    if not here:
        yield f"--database {options.database}: no entry of TASKS keeps its jobs there."
    unknown = set(options.queues).difference(*here)
    if here and all(here) and unknown:  # an empty QUEUES allows every name
        names, allowed = (", ".join(sorted(some)) for some in (unknown, set().union(*here)))
        yield f"--queues {names}: not in the QUEUES of TASKS ({allowed})."
    yield from unknown_variables()
    sleeps = options.sleep_after is not None and not options.burst
    if sleeps and options.poll_seconds is None and not (has_port and settings().wake_urls):
        yield NOTHING_WAKES
    if options.max_memory_mb is not None and own_rss_mb() is None:
        yield "--max-memory-mb has no effect: this system does not tell how much memory a process takes."


def check_database(alias: str) -> None:
    """Raises CommandError with the command to type when the database or the tables are not there."""
    if alias not in connections:
        raise CommandError(
            f"--database {alias!r} is not in DATABASES. Known: {', '.join(connections)}.", returncode=2
        )
    connection = connections[alias]
    if connection.vendor != "postgresql":
        raise CommandError(f"DATABASES[{alias!r}] is {connection.vendor}; the worker needs PostgreSQL.")
    if not connection.settings_dict["AUTOCOMMIT"]:
        raise CommandError(
            f"DATABASES[{alias!r}] has AUTOCOMMIT = False: what jobs write would be rolled back after they return. "
            "Take the line out."
        )
    if connection.in_atomic_block:
        raise CommandError(IN_TRANSACTION.format(alias=alias))
    was_open = connection.connection is not None
    try:
        executor = MigrationExecutor(connection)
    except DatabaseError as error:
        hint = f"Is it running? Try: python manage.py dbshell --database {alias}"
        raise CommandError(f"Cannot reach PostgreSQL ({alias}): {str(error).strip()}\n{hint}") from error
    if problem := what_is_wrong(connection):
        raise CommandError(problem)
    nodes = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "pgonly_django"]
    if executor.migration_plan(nodes):
        raise CommandError(f"The tables are missing or old. Run: python manage.py migrate --database {alias}")
    if not was_open:
        connection.close()
