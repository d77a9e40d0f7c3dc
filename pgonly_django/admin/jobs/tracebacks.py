"""A traceback for the page: the frames of the project are open, those of libraries are folded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from django.utils.translation import ngettext

# The indent of an exception group's members has bars in it.
# What a SyntaxError has failed to read stands below a line without a name: it is a message, and may be an argument.
FRAME = re.compile(r'(?P<indent>[ |+-]*)  File "(?P<path>[^"]*)", line \d+, in ')
LIBRARIES = re.compile(
    r"[/\\](?:site-packages|dist-packages|pgonly_django|lib[/\\]python3[^/\\]*)[/\\]|^<frozen |[/\\]Lib[/\\]"
)
HEADINGS = (
    "Traceback (most recent call last):",
    "Exception Group Traceback (most recent call last):",
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)


@dataclass(frozen=True, slots=True)
class Part:
    """Lines that are shown together. `frames`: how many of libraries are folded; 0: the part is open."""

    text: str
    frames: int = 0

    @property
    def summary(self) -> str:
        return ngettext("%d frame of a library", "%d frames of libraries", self.frames) % self.frames


@dataclass(frozen=True, slots=True)
class _Piece:
    """A frame with its lines, or lines that belong to none."""

    text: str
    path: str | None = None

    @property
    def is_folded(self) -> bool:
        return self.path is not None and LIBRARIES.search(self.path) is not None


def parts_of(traceback: str) -> list[Part]:
    """Together they are the whole text. Where all frames are of libraries, none is folded."""
    pieces = list(_pieces(traceback))
    if all(piece.is_folded for piece in pieces if piece.path is not None):
        return [Part(traceback)]
    groups = ((folded, list(group)) for folded, group in groupby(pieces, lambda piece: piece.is_folded))
    return [
        Part("".join(piece.text for piece in group), len(group) if folded else 0) for folded, group in groups
    ]


def without_messages(traceback: str) -> str:
    """Its frames and headings alone: a message may have values of the job in it."""
    return "".join(piece.text for piece in _pieces(traceback) if piece.path is not None or _is_heading(piece))


def _is_heading(piece: _Piece) -> bool:
    return piece.text.strip(" |+\n-") in ("", *HEADINGS)


def _pieces(traceback: str) -> Iterator[_Piece]:
    lines, path, indent = "", None, ""
    for line in traceback.splitlines(keepends=True):
        frame = FRAME.match(line)
        if frame is None and path is not None and line.startswith((indent + "    ", indent + "  [Previous")):
            lines += line
            continue
        if lines:
            yield _Piece(lines, path)
        lines, path = line, None
        if frame is not None:
            path, indent = frame["path"], frame["indent"]
    if lines:
        yield _Piece(lines, path)
