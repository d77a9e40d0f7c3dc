"""The texts of errors in rows and in the log. Whatever the error does when it is read, there is a text."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from pgonly_django.database.statement import printable
from pgonly_django.exceptions import JobInterrupt

REASON_LIMIT = 2_000
TRACEBACK_LIMIT = 20_000
CHAIN_LIMIT = 100
STEP_ATTRIBUTE = "pgonly_step"  # an attribute of an error
RunKey = tuple[str, int]  # the id and the lease epoch of its job
PACKAGE = f"{Path(__file__).parent}{os.sep}"


def as_reason(text: object) -> str:
    """Returns `text` as a column or an entry of a job's errors holds it."""
    return printable(str(text)[:REASON_LIMIT])[:REASON_LIMIT]


def path_of(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def text_of(error: BaseException) -> str:
    """Returns str(error), or the reason why there is none."""
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 - __str__ is the project's and may even exit
        return f"<its text is not available: {type(broken).__name__}>"


def traceback_text(error: BaseException) -> str:
    """Returns the traceback as Python prints it; of a long one only the beginning, and the end, where the cause is."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as broken:  # noqa: BLE001 - likewise: its causes, its notes
        frames = "".join(traceback.format_tb(error.__traceback__))
        text = f"{frames}{type(error).__name__}: <the rest is not available: {type(broken).__name__}>"
    if len(text) > TRACEBACK_LIMIT:
        half, left_out = TRACEBACK_LIMIT // 2, len(text) - TRACEBACK_LIMIT
        text = f"{text[:half]}\n[... {left_out} characters left out ...]\n{text[-half:]}"
    return printable(text)


def note_step(error: BaseException, run: RunKey, name: str, started_at: datetime) -> None:
    """Remembers that a call of this step raised `error`, which other calls and runs may raise again. The call that
    began last counts: of nested steps that is the innermost."""
    noted_run, _, began_at = error.__dict__.get(STEP_ATTRIBUTE, (None, "", started_at))
    if noted_run != run or began_at < started_at:
        error.__dict__[STEP_ATTRIBUTE] = (run, name, started_at)  # no __setattr__ of the project's


def step_of(error: BaseException, run: RunKey) -> dict[str, str]:
    """Returns the step of the run that raised `error` or one of its causes, for an entry of a job's errors; empty where
    none did. An error that came up while one of a step was handled is no error of that step, unless that one was an
    interruption."""
    with suppress(BaseException):  # likewise
        for each in _with_causes(error, (JobInterrupt, asyncio.CancelledError)):
            noted_run, name, started_at = each.__dict__.get(STEP_ATTRIBUTE, (None, "", None))
            if noted_run == run:
                return {"step": name, "step_started_at": started_at.isoformat()}
    return {}


def cut_our_frames(error: BaseException) -> None:
    """Removes the frames of this package from the traceback, and from those of its causes, except a last one: what the
    job called, and the line where it was raised, stay."""
    with suppress(BaseException):  # a class of the project's may have made properties of these attributes
        for each in _with_causes(error):
            each.__traceback__ = _without_ours(each.__traceback__)


def _with_causes(
    error: BaseException, contexts: tuple[type[BaseException], ...] = (BaseException,)
) -> list[BaseException]:
    """Returns the errors that its traceback shows, up to a maximum. `contexts`: the classes of those that count where
    they were only being handled."""
    found, seen = [error], {id(error)}
    for each in found:
        inner = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        context = each.__context__ if isinstance(each.__context__, contexts) else None
        for cause in (each.__cause__, context, *inner):
            if cause is not None and id(cause) not in seen and len(found) < CHAIN_LIMIT:
                seen.add(id(cause))
                found.append(cause)
    return found


def _without_ours(first: TracebackType | None) -> TracebackType | None:
    kept: TracebackType | None = None
    place = first
    while place is not None:
        following = place.tb_next
        if following is None or not place.tb_frame.f_code.co_filename.startswith(PACKAGE):
            if kept is None:
                first = place
            elif kept.tb_next is not place:
                kept.tb_next = place
            kept = place
        place = following
    return first


def is_raised_again(error: Exception, function: Callable[..., object], *arguments: object) -> bool:
    """Returns whether `function(*arguments)`, which has just raised `error`, raises such an error again. It is used
    where a decoder may raise anything: it returns False for an error that is not the decoder's, but arrived in the
    middle of it, such as the exception of a signal handler, or one that another thread has set.
    """
    try:
        function(*arguments)
    except type(error):
        return True
    return False
