"""`manage.py runworker`: a worker, or a supervisor of several, in the foreground."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper
from django.db import connections
from django.utils import autoreload

from pgonly_django.events import emit
from pgonly_django.exceptions import OptionError
from pgonly_django.tasks.registry import import_tasks
from pgonly_django.worker import process
from pgonly_django.worker.beside import Beside, is_database_there
from pgonly_django.worker.health.health import Health, PortTakenError
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import (
    RULES,
    WorkerOptions,
    check_database,
    database_of_jobs,
    from_environment,
    parse_queues,
    platform_port,
    refuse_too_little_memory,
    warnings_of,
)
from pgonly_django.worker.status import ExitCode
from pgonly_django.worker.stopping import grace_of
from pgonly_django.worker.supervisor.processes import Child, as_child, let_stop_signals_through
from pgonly_django.worker.supervisor.supervisor import Supervisor
from pgonly_django.worker.terminal import Terminal, banner, logging_to

RELOAD_SECONDS = 5.0
BROKE_DOWN_SECONDS = 2.0  # for a handler of the log
SLEEP_HELP = (
    "Close every connection after this long without a job, until the next due time, a POST to /wake or --poll-seconds. "
    "Default: never."
)
NO_PORT = "No health port: $PORT is {!r}, and a port is a number from 1 to 65535."
ASKS_TO_BE_REPLACED = "Every slot is held by a job that ignores its interruption, or the process has retired."
OF_THE_COMMAND_LINE = (
    "--processes above 1 needs its own process: python manage.py runworker. call_command() runs one worker, in "
    "the process of its caller."
)
FORK_WITH_RELOAD = (
    "--reload has a thread that watches the code, so that its processes cannot be forked. Leave out "
    "--start-method fork."
)

EPILOG = """
Every flag except --reload is also an environment variable: PGONLY_WORKER_QUEUES, PGONLY_WORKER_THREADS, ... A flag
wins.

Exit codes: 0 stopped as asked, or by --burst, --max-jobs, --max-seconds, --max-idle-seconds; 1 could not start (the
message says what to do), broke down (the log says why), or had to be ended, since PostgreSQL did not answer; 2 wrong
flag; 3 start a fresh process: every slot is held by a job that ignores its interruption, or --max-jobs-per-process or
--max-memory-mb was reached (not with --processes).

SIGTERM, SIGINT (Ctrl-C) or SIGHUP: claim nothing more, tell the jobs to stop, wait --grace-seconds (jobs that ignore it
get an exception in the last second), release what is left.
A second SIGINT, or SIGQUIT: release at once. Released jobs use up no attempt and resume from their checkpoint.

Where LOGGING has no handler for it, the log goes to stdout: with --verbosity 0 warnings and errors, 1 also a line for
each job at its end, 2 also for its start, 3 also for each call of the cache.
"""


class Command(BaseCommand):
    help = "Run jobs until stopped."
    requires_system_checks = ()  # after the database is found: some of Django's checks ask it
    _owns_process = _reloads = False
    _verbosity = 1

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EPILOG, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--queues", type=parse_queues, help="Comma-separated, in serving order. Default: all queues.")
        add("--threads", type=int, help="Jobs at a time, 1 to 500. Default: 8.")
        grace = (
            "The time that jobs get to leave at a stop. Default: 20, less on a platform that kills sooner."
        )
        add("--grace-seconds", type=float, help=grace)
        add("--burst", action="store_true", default=None, help="Stop when no job is ready.")
        add(
            "--max-jobs",
            type=int,
            help="Stop after this many jobs. Runs that end by waiting do not count.",
        )
        add("--max-seconds", type=float, help="End the process this long after its start; jobs leave before.")
        add("--max-idle-seconds", type=float, help="Stop after this long without a job.")
        add("--name", help="The name of the worker in the admin and in errors. Default: host:pid.")
        add("--no-listen", dest="listen", action="store_false", default=None, help="Poll instead of LISTEN.")
        pause = "The longest pause between two looks at the database. Default: 30, without LISTEN 2."
        add("--poll-seconds", type=float, help=pause)
        port = "Answer /live, /ready, /busy and /metrics there. Default: $PORT, where it is set; 0: nowhere."
        add("--health-port", type=int, metavar="PORT", help=port)
        add("--health-host", metavar="ADDRESS", help="The address of the health port. Default: 0.0.0.0.")
        add("--heartbeat-file", metavar="PATH", help="Touch this file every 5 s while the main loop turns.")
        add("--sleep-after", type=float, metavar="SECONDS", help=SLEEP_HELP)
        add("--reload", action="store_true", help="Restart when the code changes; for development.")
        add("--processes", type=int, help="Worker processes, each with --threads. Default: 1.")
        add("--start-method", help="How processes are started: auto, fork or spawn. Default: auto.")
        add("--max-jobs-per-process", type=int, help="Replace a process after this many jobs.")
        add("--max-memory-mb", type=float, help="Replace a process that takes more memory (Rss).")
        add("--database", help="The alias in DATABASES whose jobs are run. Default: the one that TASKS uses.")

    def handle(self, *args: Any, **flags: Any) -> None:  # noqa: ARG002 - Django's signature
        """Runs the worker. From the command line the process ends with the worker. For callers of call_command() it
        returns, or raises CommandError with the exit code, or what the worker's loop raised; it leaves their process as
        it was."""
        # Django's mark of run_from_argv()
        self._owns_process = flags["reload"] or getattr(self, "_called_from_command_line", False)
        self._verbosity, self._reloads = flags.get("verbosity", 1), flags["reload"]
        options, child = _options(flags, owns_process=self._owns_process), as_child()
        if child is not None:
            self._serve(options, child)
            return
        run = self._serve if options.processes == 1 else self._supervise
        if options.processes > 1 and self._reloads:
            process.watch_apps()
        if self._reloads:
            autoreload.run_with_reloader(run, options)
        else:
            run(options)

    def _supervise(self, options: WorkerOptions) -> None:
        self._open_streams()
        with ExitStack() as setup:
            signals = setup.enter_context(process.StopSignals(is_early=True))
            health = self._open_health(options)
            self._prepare(options, health)
            setup.enter_context(logging_to(self._terminal()))

            def serve(child: Child) -> None:
                setup.close()  # the child begins as this process was before it became a supervisor
                self._serve(options, child)

            method = "spawn" if self._reloads else options.start_method
            supervisor = Supervisor(options, serve, method, health, self._ends_at(options))
            signals.serve(supervisor)
            self._say_started(_facts_of(options, health=health.address))
            if not _is_in_main_thread():
                atexit.register(_release_and_wait, supervisor)
            code = supervisor.run()
            if not (supervisor.is_stopping and self._reloads):
                process.leave(code, by=supervisor.leaves_at)

    def _prepare(self, options: WorkerOptions, health: Health) -> None:
        """Raises CommandError, which says what to do."""
        check_database(options.database)
        self.check()
        for line in warnings_of(options, has_port=health.server is not None):
            self._warn(line)
        if options.processes > 1 and options.start_method != "spawn" and not self._reloads:
            import_tasks()  # before the forks, so that the memory is shared
        refuse_too_little_memory(options)

    def _serve(self, options: WorkerOptions, child: Child | None = None) -> None:
        """Serves until the worker ends. `child`: that of a supervisor, which has prepared everything, has the health
        port, and counts the idle seconds of all processes together."""
        if self._owns_process:
            self._open_streams()
        if child is not None:
            options = replace(options, name=child.name, processes=1, max_idle_seconds=None)
        with (
            process.StopSignals(is_early=self._owns_process, is_supervised=child is not None) as signals,
            Health() if child is not None else self._open_health(options) as health,
        ):
            if child is None:
                self._prepare(options, health)
            else:
                let_stop_signals_through()
            worker = WorkerLoop(options, self._ends_at(options) if child is None else child.ends_at)
            prefix = f"{options.name}: " if child is not None else ""
            with process.set_up(worker, signals, self._terminal(prefix)):
                facts = _facts_of(options, worker_id=str(worker.id), health=health.address)
                self._say_started(facts, is_supervised=child is not None)
                code = self._run(worker, health, child)
                # Under --reload the main thread watches the code, and is about to start the process again.
                is_reloading = worker.shutdown.is_asked and not _is_in_main_thread()
                if self._owns_process and not is_reloading:
                    process.leave(code, by=min(worker.deadline.ends_at, worker.shutdown.leaves_at))
        if code is ExitCode.REPLACE_ME:
            raise CommandError(ASKS_TO_BE_REPLACED, returncode=code)

    def _run(self, worker: WorkerLoop, health: Health, child: Child | None) -> ExitCode:
        is_main = _is_in_main_thread()
        if self._owns_process and (worker.options.max_seconds is not None or is_main):
            process.end_in_time(worker.deadline.ends_at, worker.shutdown if is_main else None)
        if self._owns_process and not is_main:
            atexit.register(_release_and_wait, worker)
        try:
            with Beside(worker, health, child and child.channel, owns_process=self._owns_process):
                is_there = child is None or is_database_there(worker)
                code = worker.run() if is_there else ExitCode.STOPPED
                done, released = worker.following.jobs_done, worker.following.jobs_released
                message = f"Stopped after {done} job(s){f', {released} more released' if released else ''}."
                facts: dict[str, Any] = {"jobs_done": done, "jobs_released": released}
                with worker.calls.log.takes_events():  # its handlers may hang
                    emit("worker.stopped", message, worker=worker.options.name, **facts)
                return code
        except BaseException as error:
            logger = logging.getLogger("pgonly_django.worker")
            worker.calls.log.say(partial(logger.critical, "The worker broke down.", exc_info=error))
            worker.calls.log.close(BROKE_DOWN_SECONDS)
            if self._owns_process and is_main:
                # A thread of a job, which Python would wait for, must not keep the process alive.
                process.leave(ExitCode.BROKEN)
            raise

    def _open_health(self, options: WorkerOptions) -> Health:
        """Opens the health port. Where no flag and no variable of this package asks for a port, one that is taken is no
        reason not to run jobs: usually it is that of a web server beside this process."""
        port, file = options.health_port, options.heartbeat_file
        is_asked_for = port is not None
        if not is_asked_for and self._owns_process and not options.burst:
            port = platform_port()
            if port is None and os.environ.get("PORT", "0") not in ("", "0"):
                self._warn(NO_PORT.format(os.environ["PORT"]))
        try:
            try:
                return Health(options.health_host, port, file)
            except PortTakenError as error:
                if is_asked_for:
                    raise
                self._warn(f"No health port, though $PORT asks for one: {error}")
                return Health(file=file)
        except OptionError as error:
            raise CommandError(str(error)) from error

    def _ends_at(self, options: WorkerOptions) -> float | None:
        """Returns the end of the process. --max-seconds counts from its start, as platforms do."""
        if options.max_seconds is None or not self._owns_process:
            return None
        ends_at = process.started_at() + options.max_seconds
        if ends_at <= time.monotonic():
            raise CommandError(
                f"The {options.max_seconds:g} s of --max-seconds had passed before the worker started: they count "
                "from the start of its process. Set a larger value, or start the worker sooner."
            )
        return ends_at

    def _open_streams(self) -> None:
        """Opens closed streams, so that no file gets the number of one, on which other code writes."""
        process.fill_closed_streams()
        for wrapper in (self.stdout, self.stderr):
            if wrapper._out is None:  # noqa: SLF001 - inside Django's wrapper
                wrapper._out = Path(os.devnull).open("w")  # noqa: SLF001, SIM115 - as long as the process

    def _say(self, line: str, stream: OutputWrapper | None = None) -> None:
        """Writes a line. A closed or broken stream keeps no job from running."""
        with suppress(OSError, ValueError):
            (stream or self.stdout).write(line)
            (stream or self.stdout).flush()

    def _warn(self, line: str) -> None:
        self._say(self.style.WARNING(line), self.stderr)

    def _terminal(self, prefix: str = "") -> Terminal:
        colors = {}
        if self.stdout.isatty():
            error = self.style.ERROR
            colors = {logging.WARNING: self.style.WARNING, logging.ERROR: error, logging.CRITICAL: error}
        streams = self.stdout._out, self.stderr._out  # noqa: SLF001 - inside Django's wrapper
        return Terminal(*streams, verbosity=self._verbosity, colors=colors, prefix=prefix)

    def _say_started(self, facts: dict[str, Any], *, is_supervised: bool = False) -> None:
        """Logs the start. A person at a terminal sees it as well where LOGGING shows no line of a worker."""
        names = ", ".join(facts["queues"]) or "all queues"
        at_a_time = f"{facts['threads']} at a time"
        if facts["processes"] > 1:
            at_a_time += f" in each of {facts['processes']} processes"
        message = f"Worker {facts['worker']} runs jobs of {names} on {facts['database']}, {at_a_time}."
        emit("worker.started", message, level=logging.DEBUG if is_supervised else logging.INFO, **facts)
        is_logged = logging.getLogger("pgonly_django.worker").isEnabledFor(logging.INFO)
        if not is_supervised and self._verbosity > 0 and not is_logged and self.stdout.isatty():
            self._say(banner(facts))


def _facts_of(options: WorkerOptions, **more: Any) -> dict[str, Any]:
    settings = connections[options.database].settings_dict
    place = settings["HOST"] or settings["OPTIONS"].get("host") or "local socket"
    return {
        "worker": options.name,
        **more,
        "database": f"{options.database} ({settings['NAME']} at {place})",
        "queues": options.queues,
        "threads": options.threads,
        "processes": options.processes,
        "wake_up": "LISTEN" if options.listen else "polling",
        "lease_seconds": options.lease_for.total_seconds(),
        "grace_seconds": grace_of(options),
    }


def _options(flags: dict[str, Any], *, owns_process: bool) -> WorkerOptions:
    try:
        given = {name: flags[name] for name in RULES if flags.get(name) is not None}
        if not owns_process:
            given.setdefault("processes", 1)
        options = WorkerOptions(**{"database": database_of_jobs(), **from_environment(), **given})
        _refuse_what_cannot_be(options, owns_process=owns_process, reloads=flags["reload"])
    except OptionError as error:
        raise CommandError(f"{error} See: python manage.py runworker --help", returncode=2) from error
    except ImproperlyConfigured as error:  # of TASKS
        raise CommandError(str(error)) from error
    return options


def _refuse_what_cannot_be(options: WorkerOptions, *, owns_process: bool, reloads: bool) -> None:
    if options.processes > 1 and not owns_process:
        raise OptionError(OF_THE_COMMAND_LINE)
    if reloads and options.start_method == "fork":
        raise OptionError(FORK_WITH_RELOAD)


def _is_in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _release_and_wait(worker: WorkerLoop | Supervisor) -> None:
    """Gives the jobs back before the process ends. Under --reload the worker is not in the main thread."""
    worker.stop_now()
    worker.left.wait(RELOAD_SECONDS)
