"""Tasks that break what records their end. POISON has them all; each of them uses up its only attempt."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import sys
import threading
from datetime import timedelta

from django.db import connection

from pgonly_django import Discard, Retry, Snooze, task
from pgonly_django.context.interrupter import _set_async_exception

POISON = []


def poison(function):
    made = task(max_attempts=1)(function)
    POISON.append(made)
    return made


def _exit(*_args, **_kwargs):
    sys.exit(3)


class NoTextError(Exception):
    __str__ = _exit
    __repr__ = _exit


class InterruptingTextError(Exception):
    def __str__(self):
        raise KeyboardInterrupt


class NoClassError(Exception):
    @property
    def __class__(self):
        sys.exit(3)


class LyingError(Exception):
    """Says that it is a Snooze, and has no delay."""

    __class__ = Snooze


class NoTracebackError(Exception):
    __traceback__ = property(_exit)
    __cause__ = property(_exit)
    __context__ = property(_exit)
    __notes__ = property(_exit)


class NoNameMeta(type):
    def __getattribute__(cls, name):
        if name in ("__name__", "__qualname__", "__module__"):
            sys.exit(3)
        return super().__getattribute__(name)


class NoNameError(Exception, metaclass=NoNameMeta):
    pass


class HalfSnooze(Snooze):
    def __init__(self):
        pass


class OddBaseError(BaseException):
    __str__ = _exit


RAISED = {
    "no_text": NoTextError,
    "interrupting_text": InterruptingTextError,
    "no_class": NoClassError,
    "lying": LyingError,
    "no_traceback": NoTracebackError,
    "no_name": NoNameError,
    "half_snooze": HalfSnooze,
    "odd_base": OddBaseError,
    "system_exit": SystemExit,
    "keyboard_interrupt": KeyboardInterrupt,
    "generator_exit": GeneratorExit,
    "memory": MemoryError,
    "stop_iteration": StopIteration,
    "stop_async_iteration": StopAsyncIteration,
    "cancelled": asyncio.CancelledError,
    "discard": lambda: Discard(NoTextError()),
    "retry": lambda: Retry(1, NoTextError()),
    "enormous": lambda: ValueError("x" * 200_000),
    "group": lambda: BaseExceptionGroup("g", [NoTextError(), SystemExit(1)]),
}


def _raising(name, make):
    def sync():
        raise make()

    async def asynchronous():
        raise make()

    for function, kind in ((sync, "sync"), (asynchronous, "async")):
        function.__name__ = function.__qualname__ = f"{kind}_{name}"
        globals()[function.__name__] = poison(function)


for _name, _make in RAISED.items():
    _raising(_name, _make)


@poison
def recurse():
    recurse.func()


@poison
def cause_itself():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


@poison
def chain_deeply():
    error = ValueError("the first")
    for i in range(200):
        error, before = ValueError(str(i)), error
        error.__cause__ = before
    raise error


@poison
def delete_its_globals():
    name = "tests.jobs.poison_module"
    mine = sys.modules.pop(name, None) or importlib.import_module(name)
    mine.forget_everything()


def exits(attempt, error):
    sys.exit(3)


@task(max_attempts=2, backoff=exits)
def back_off_by_exiting():
    raise ValueError("no")


@task(max_attempts=2, backoff=exits, max_runtime=timedelta(hours=1))
async def back_off_by_exiting_async():
    raise ValueError("no")


POISON += [back_off_by_exiting, back_off_by_exiting_async]


class RaisesAtItsEnd:
    def __del__(self):
        sys.exit(3)


LEFT = contextvars.ContextVar("LEFT")
LOCAL = threading.local()


@poison
def leave_something_behind():
    LEFT.set(RaisesAtItsEnd())
    LOCAL.left = RaisesAtItsEnd()
    raise NoTextError


@poison
def spoil_its_connection():
    connection.ensure_connection()
    connection.close_if_unusable_or_obsolete = _exit
    raise NoTextError


@poison
async def stop_the_loop():
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    raise NoTextError


@poison
async def cancel_everything():
    for each in asyncio.all_tasks():
        each.cancel()
    await asyncio.sleep(0)


@poison
async def break_the_loops_error_handler():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_exit)
    loop.call_soon(_exit)
    await asyncio.sleep(0.01)
    loop.set_exception_handler(None)
    raise NoTextError


@poison
def meet_a_receiver():
    """A receiver of the test's raises SystemExit at its start and its end."""


@poison
async def meet_a_receiver_async():
    """Likewise."""


timeout_is_over = threading.Event()


@task
def outrun_a_timeout():
    timeout_is_over.clear()
    threading.Timer(0.5, _time_out, [threading.get_ident()]).start()


def _time_out(thread):
    _set_async_exception(thread, id(LookupError))
    timeout_is_over.set()


@poison
async def cancel_every_task_with_its_end():
    """Between the end of its own asyncio task and the wake-up of the one that waits for it."""
    asyncio.get_running_loop().call_soon(_cancel_every_task)
    raise NoClassError


def _cancel_every_task():
    for each in asyncio.all_tasks():
        each.cancel()
