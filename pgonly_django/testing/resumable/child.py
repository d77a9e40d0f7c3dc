"""The child process of assert_resumable(): imports the project once, and forks a process for each run.

Where forking is not safe, because the project has started a thread or on macOS, it runs the job itself and ends: the
test's process starts another child for the next run.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import json
import os
import pickle
import random
import select
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from pgonly_django.testing.resumable.orders import Modules, Order, Setup

LOOK_SECONDS = 0.005
LATE_SECONDS = 3.0  # a run should have ended itself by then
RUNS = "pgonly_django.testing.resumable.one_run"  # needs Django to be set up
NOT_A_TEST_DATABASE = "django.db.backends.dummy"


def main(commands: IO[bytes], answers: int) -> None:
    """Carry out the orders that come in, until there are no more."""
    os.set_inheritable(answers, False)
    _set_up(pickle.load(commands))  # noqa: S301 - from the process that started this one
    forks = False
    while (order := _next(commands)) is not None:
        if isinstance(order, Modules):
            forks = _import_all(order)
            _answer(answers, forks=forks)
        elif forks:
            code, timed_out = _run_in_fork(order, commands)
            _answer(answers, code=code, timed_out=timed_out)
        else:
            _run_and_leave(order)


def _next(commands: IO[bytes]) -> Modules | Order | None:
    try:
        order: Modules | Order = pickle.load(commands)  # noqa: S301 - likewise
    except EOFError:
        return None
    return order


def _set_up(setup: Setup) -> None:
    import django
    from django.conf import settings

    if setup.settings_module is None:
        settings.configure(**setup.overrides)
    else:
        os.environ["DJANGO_SETTINGS_MODULE"] = setup.settings_module
        for name, value in setup.overrides.items():
            setattr(settings, name, value)
    databases = settings.DATABASES
    for alias, database in setup.databases.items():
        databases[alias] = {"ENGINE": NOT_A_TEST_DATABASE} if database is None else database
    django.setup()
    from django.test.utils import setup_test_environment

    setup_test_environment(debug=settings.DEBUG)
    importlib.import_module(RUNS)  # each fork has it then


def _import_all(modules: Modules) -> bool:
    """Import them. Whether this process may fork."""
    from django.db import connections

    for name, file in modules.files.items():
        _import(name, file)
    connections.close_all()
    return _can_fork()


def _import(name: str, file: str | None) -> None:
    """A test module may have a name that only pytest can import."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if file is None or error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def _can_fork() -> bool:
    if not hasattr(os, "fork") or sys.platform == "darwin" or threading.active_count() > 1:
        return False
    tasks = Path("/proc/self/task")
    return not tasks.exists() or len(list(tasks.iterdir())) == 1


def _run_in_fork(order: Order, commands: IO[bytes]) -> tuple[int, bool]:
    """(exit code, whether it took too long). When the test's process has gone, the run is ended, and this process."""
    late_at = time.monotonic() + order.seconds  # no later than by the clock of the run
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        commands.close()
        _run_and_leave(order)
    with suppress(OSError):  # the fork has done it, and may have ended
        os.setpgid(pid, pid)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        is_gone = bool(select.select([commands], [], [], LOOK_SECONDS)[0])
        if is_gone or time.monotonic() > late_at + LATE_SECONDS:
            _kill_group(pid)
        if is_gone:
            sys.exit(0)
    _kill_group(pid)  # what the job has started and left behind
    return os.waitstatus_to_exitcode(status), time.monotonic() > late_at


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _run_and_leave(order: Order) -> NoReturn:
    """In a process that leads a group of its own. A run that takes too long prints where its threads are."""
    code = 1
    try:
        faulthandler.dump_traceback_later(order.seconds, exit=True, file=2)
        random.seed()
        importlib.import_module(RUNS).run_job(order)
        code = 0
    except BaseException:  # noqa: BLE001 - the test's process shows what was printed
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # the job has closed it
                stream.flush()
        os._exit(code)


def _answer(answers: int, **facts: Any) -> None:
    os.write(answers, json.dumps(facts).encode() + b"\n")
