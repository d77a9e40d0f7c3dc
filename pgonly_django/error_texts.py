"""An error's traceback as it stands in rows and in the log: whatever the error does to be read, there is a text."""

import os
import traceback
from pathlib import Path
from types import TracebackType
from typing import cast

PACKAGE = f"{Path(__file__).parent}{os.sep}"
CHAIN_LIMIT = 100
# Read and written past the attributes of a class that has made properties of them.
_traceback, _cause, _context = (
    BaseException.__dict__[name] for name in ("__traceback__", "__cause__", "__context__")
)
_exceptions = BaseExceptionGroup.__dict__["exceptions"]


def traceback_of(error: BaseException) -> TracebackType | None:
    return cast("TracebackType | None", _traceback.__get__(error))


def cut_our_frames(error: BaseException) -> None:
    """Take the frames of this package out of its traceback, and out of those of its causes, all but a last one: what
    the job called, and the line where it was raised, are left."""
    for each in _with_causes(error):
        _traceback.__set__(each, _without_ours(traceback_of(each)))


def _with_causes(error: BaseException) -> list[BaseException]:
    """The first of all that its traceback shows."""
    found, seen = [error], {id(error)}
    for each in found:
        inner = _exceptions.__get__(each) if isinstance(each, BaseExceptionGroup) else ()
        for cause in (_cause.__get__(each), _context.__get__(each), *inner):
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


def text_of(error: BaseException) -> str:
    """str(error), or why there is none."""
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 - __str__ is the project's and may even exit
        return f"<its text cannot be had: {name_of(broken)}>"


def name_of(error: BaseException) -> str:
    return type.__dict__["__name__"].__get__(type(error))  # type: ignore[no-any-return] # past a metaclass


def path_of(error: BaseException) -> str:
    kind = type(error)
    try:
        return f"{kind.__module__}.{kind.__qualname__}"
    except BaseException:  # noqa: BLE001 - likewise its metaclass
        return name_of(error)


def formatted(error: BaseException) -> str:
    place = traceback_of(error)
    try:
        return "".join(traceback.TracebackException(type(error), error, place).format())
    except BaseException as broken:  # noqa: BLE001 - likewise: its causes, its notes
        frames = "".join(traceback.format_tb(place))
        return f"{frames}{name_of(error)}: <the rest cannot be had: {name_of(broken)}>"
