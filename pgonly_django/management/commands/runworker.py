"""`manage.py runworker`: one worker process in the foreground."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.backends.signals import connection_created
from django.db.migrations.executor import MigrationExecutor
from django.utils import autoreload

from pgonly_django.compat import task_backends
from pgonly_django.exceptions import OptionError
from pgonly_django.tasks import PostgresBackend
from pgonly_django.worker.cleanup import notice_dead_clients, notice_dead_servers
from pgonly_django.worker.options import WorkerOptions, from_environment, parse_queues, unknown_variables
from pgonly_django.worker.worker import ExitCode, Worker

# A waiting thread asks for the interpreter this often: finishes and claims share it with the jobs.
SWITCH_INTERVAL_SECONDS = 0.001
RELOAD_SECONDS = 5.0

EPILOG = """
Every flag but --reload is also an environment variable: PGONLY_WORKER_QUEUES, PGONLY_WORKER_THREADS, ... A flag wins.

Exit codes: 0 stopped as asked, or by --burst, --max-jobs, --max-idle-seconds; 1 could not start (the message says
what to do), or broke down (the log says why); 2 wrong flag; 3 every slot is held by a job that ignores its
interruption: start a fresh process.

SIGTERM or SIGINT (Ctrl-C): claim nothing more, tell the jobs to stop, wait --grace-seconds (in the last one those
that do not listen get an exception), release what is left.
A second SIGINT, or SIGQUIT: release at once. Released jobs cost no attempt and resume from their checkpoint.
"""


class Command(BaseCommand):
    help = "Run jobs until stopped."
    requires_system_checks = ()  # after the database is found: some of Django's checks ask it

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EPILOG, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--queues", type=parse_queues, help="Comma-separated, in serving order. Default: all queues.")
        add("--threads", type=int, help="Jobs at a time, 1 to 500. Default: 8.")
        add("--grace-seconds", type=float, help="How long jobs may take to leave at a stop. Default: 20.")
        add("--burst", action="store_true", default=None, help="Stop when no job is ready.")
        add("--max-jobs", type=int, help="Stop after this many jobs.")
        add("--max-idle-seconds", type=float, help="Stop after this long without a job.")
        add("--name", help="What the worker is called in the admin and in errors. Default: host:pid.")
        add("--no-listen", dest="listen", action="store_false", default=None, help="Poll instead of LISTEN.")
        add(
            "--poll-seconds",
            type=float,
            help="Longest pause between two looks. Default: 30, without LISTEN 2.",
        )
        add("--reload", action="store_true", help="Restart when the code changes; for development.")
        add("--database", help="The alias in DATABASES whose jobs are run. Default: the one that TASKS uses.")

    def handle(self, *args: Any, **flags: Any) -> None:  # noqa: ARG002 - Django's signature
        options = _options(flags)
        if flags["reload"]:
            autoreload.run_with_reloader(self._serve, options)
        else:
            self._serve(options)

    def _serve(self, options: WorkerOptions) -> None:
        _check_database(options.database)
        self.check()
        self._warn_of_unknown_queues(options)
        for said in unknown_variables():
            self.stderr.write(self.style.WARNING(said))
        worker = Worker(options)
        connection_created.connect(notice_dead_clients)
        notice_dead_servers()
        _configure_logging(self.stdout._out)  # noqa: SLF001 - the stream behind Django's wrapper
        self._print_banner(worker)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:
            self._handle_signals(worker)
        else:  # --reload: the main thread watches the code
            atexit.register(_release_and_wait, worker)
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        try:
            code = worker.run()
        except BaseException:
            # A thread of a job, which Python would wait for, must not keep the process alive.
            logging.getLogger("pgonly_django.worker").critical("The worker broke down.", exc_info=True)
            if not in_main_thread:
                raise
            _exit(ExitCode.BROKEN)
        self.stdout.write(f"Stopped after {worker.jobs_done} job(s).")
        if in_main_thread:
            _exit(code)

    def _warn_of_unknown_queues(self, options: WorkerOptions) -> None:
        """Nobody can enqueue there: a typing error, as a rule, and then the jobs wait for ever."""
        known = [backend.queues for backend in _backends() if backend.database == options.database]
        unknown = set(options.queues).difference(*known)
        if known and all(known) and unknown:  # an empty QUEUES allows every name
            names, allowed = (", ".join(sorted(some)) for some in (unknown, set().union(*known)))
            self.stderr.write(
                self.style.WARNING(f"--queues {names}: not in the QUEUES of TASKS ({allowed}).")
            )

    def _print_banner(self, worker: Worker) -> None:
        options = worker.options
        settings = connections[options.database].settings_dict
        place = settings["HOST"] or settings["OPTIONS"].get("host") or "local socket"
        for label, fact in (
            ("worker", options.name),
            ("id", str(worker.id)),
            ("database", f"{options.database} ({settings['NAME']} at {place})"),
            ("queues", ", ".join(options.queues) or "all"),
            ("threads", str(options.threads)),
            ("wake-up", "LISTEN" if options.listen else "polling"),
            ("lease", f"{options.lease_for.total_seconds():g} s"),
            ("grace", f"{options.grace_seconds:g} s"),
            ("stop", "Ctrl-C; twice to release running jobs at once"),
        ):
            self.stdout.write(f"{label:<9} {fact}")

    def _handle_signals(self, worker: Worker) -> None:
        def interrupt(*_: object) -> None:
            worker.stop_now() if worker.stopping.is_asked else worker.stop()

        def stop(*_: object) -> None:
            worker.stop()

        def stop_now(*_: object) -> None:
            worker.stop_now()

        handlers: dict[str, Callable[..., None]] = {"SIGTERM": stop, "SIGINT": interrupt, "SIGQUIT": stop_now}
        for name, handler in handlers.items():
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), handler)


def _options(flags: dict[str, Any]) -> WorkerOptions:
    names = ("queues", "threads", "grace_seconds", "burst", "max_jobs", "max_idle_seconds", "name", "listen",
             "poll_seconds", "database")  # fmt: skip
    try:
        given = {name: flags[name] for name in names if flags.get(name) is not None}
        return WorkerOptions(**{"database": _default_database(), **from_environment(), **given})
    except OptionError as error:
        raise CommandError(f"{error} See: python manage.py runworker --help", returncode=2) from error


def _backends() -> list[PostgresBackend]:
    return [backend for backend in task_backends.all() if isinstance(backend, PostgresBackend)]


def _default_database() -> str:
    """Where the TASKS keep their jobs, when that is one place."""
    databases = {backend.database for backend in _backends()}
    return databases.pop() if len(databases) == 1 else DEFAULT_DB_ALIAS


def _check_database(alias: str) -> None:
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
            f"DATABASES[{alias!r}] has AUTOCOMMIT = False: what jobs write would be rolled back behind them. Take the "
            "line out."
        )
    try:
        executor = MigrationExecutor(connection)
    except DatabaseError as error:
        hint = f"Is it running? Try: python manage.py dbshell --database {alias}"
        raise CommandError(f"Cannot reach PostgreSQL ({alias}): {str(error).strip()}\n{hint}") from error
    nodes = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "pgonly_django"]
    if executor.migration_plan(nodes):
        raise CommandError(f"The tables are missing or old. Run: python manage.py migrate --database {alias}")
    connection.close()


def _configure_logging(stream: Any) -> None:
    """Show our log lines on the terminal unless the project configured loggers of its own for them."""
    logger = logging.getLogger("pgonly_django")
    if not logger.hasHandlers():
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _release_and_wait(worker: Worker) -> None:
    """Under --reload the worker is not in the main thread: before the process goes, its jobs go back."""
    worker.stop_now()
    worker.left.wait(RELOAD_SECONDS)


def _exit(code: ExitCode) -> None:
    """Leave even when a stuck job's thread never returns."""
    connections.close_all()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    logging.shutdown()
    os._exit(code)
