"""An error's traceback as it stands in rows and in the log: whatever the error does to be read, there is a text."""

import traceback
from collections.abc import Container
from types import TracebackType
from typing import cast

# Read and written past the attributes of a class that has made properties of them.
_traceback = BaseException.__dict__["__traceback__"]


def traceback_of(error: BaseException) -> TracebackType | None:
    return cast("TracebackType | None", _traceback.__get__(error))


def without_outer_frames(error: BaseException, files: Container[str]) -> None:
    """Cut the frames of `files` from the beginning of its traceback, all but a last one."""
    place = traceback_of(error)
    while place is not None and place.tb_next is not None and place.tb_frame.f_code.co_filename in files:
        place = place.tb_next
    _traceback.__set__(error, place)


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
