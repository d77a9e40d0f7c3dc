"""What one run of a job has emitted, and what later runs need of it: see queue/output.py.

A run begins with nothing emitted, and emits again what it does again. What it need not do again it takes from the rows:
the text of a step that is found done, the text of the items that a loop has finished, and the text that stood when the
checkpoint was saved, when the job reads it. So the text of a job that was killed is the text of one that was not.

Several threads and asyncio tasks of the job may emit at once. Nothing here takes a lock, since a job may be interrupted
between two bytecodes: text is appended in one step, and places are counted in chunks.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Container, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import pairwise

from pgonly_django.queue.output import (
    CHECKPOINT,
    STEP_PREFIX,
    PartRow,
    StoredPart,
    epoch_of,
    part_of_loop,
    part_of_step,
    place,
)


class Chunk:
    """A piece of text. `text` becomes empty where it is taken back."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


@dataclass(eq=False, slots=True)
class StepCall:
    """One call of a step, and the chunks that it has emitted."""

    name: str
    began: float = field(default_factory=time.monotonic)
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class End:
    """The end of the text of a part, as it was after a number of withdrawals."""

    index: int  # in chunks
    withdrawals: int = 0
    start: int = field(default=0, compare=False)  # where its rows say that the part begins, in characters


@dataclass(frozen=True, slots=True)
class Loop:
    begin: int  # in chunks
    first_place: int
    end: int | None = None  # likewise; None: it is under way, or was left by a break


# The calls that the code is inside of. What it emits belongs to all of them.
calls_around: ContextVar[tuple[StepCall, ...]] = ContextVar("pgonly_step_calls", default=())


class RunOutput:
    """`chunks` only grows, but where a loop or the checkpoint is restored, or text is taken back: see `changes`."""

    def __init__(self, lease_epoch: int, limit: int, earlier: Mapping[str, StoredPart] | None = None) -> None:
        self.earlier = earlier or {}
        self.chunks: list[Chunk] = []
        self.changes = 0
        self.is_closed = False  # the run is over: what its threads emit from now on is dropped
        self.limit = limit
        self.was_cut = False  # by a loop, to before what stood at the checkpoint
        self._lease_epoch = lease_epoch
        self._length = 0
        self._measured = (0, 0)  # the number of chunks, and of their characters
        self._numbers = itertools.count(1)
        self._loops: dict[str, Loop] = {}
        self._withdrawn: list[int] = []  # from which chunks on
        self._steps: dict[str, int] = {}  # whose text is in it, with the places of their rows
        self._steps_reached: set[str] = set()  # by this run
        self._step_calls = {call.name: call for call in calls_around.get()}  # made by this run
        self._restored_at: int | None = None  # the place of the checkpoint that it was restored to

    # What the job says.

    def emit(self, text: str) -> bool:
        """Appends the text. Returns False where it is longer than the limit, and something is left out."""
        if self.is_closed:
            return True
        room = self.limit - self._length
        self._append(text[: max(room, 0)])
        return len(text) <= room

    def _append(self, text: str) -> None:
        if not text:
            return
        chunk = Chunk(text)
        for call in calls_around.get():
            call.chunks.append(chunk)
        self.chunks.append(chunk)
        self._length += len(text)  # two threads at once may count too little: the limit is not exact

    # Steps.

    def begin_step(self, call: StepCall) -> None:
        """Called when the step was not found: what an earlier call in this run has emitted is taken back."""
        self._steps.pop(call.name, None)
        if (before := self._step_calls.get(call.name)) is not None:
            self.take_back(before)
        self._step_calls[call.name] = call

    def repeat_step(self, name: str) -> None:
        """Called when the step was found done. Its text comes once in a run."""
        self._steps_reached.add(name)
        part = self.earlier.get(part_of_step(name))
        if part is not None and name not in self._steps:
            self._steps[name] = part.first_place
            self._append(part.text)

    def keep_step(self, call: StepCall) -> list[PartRow]:
        """Returns what is to be stored with the step's result."""
        text = call.text
        return [PartRow(part_of_step(call.name), self.next_place(), 0, text)] if text else []

    def note_kept_step(self, call: StepCall, rows: list[PartRow], *, is_new: bool) -> None:
        """Notes that the step's result is stored. Not new: another thread made the same call, and its text counts."""
        if not is_new and call.name in self._steps:
            self.take_back(call)
        self._steps_reached.add(call.name)
        for row in rows:
            self._steps[call.name] = row.place
        if not call.chunks:
            self._step_calls.pop(call.name, None)

    def take_back(self, call: StepCall) -> None:
        if not call.chunks:
            return
        first = call.chunks[0]  # which a loop may have cut off
        index = next((at for at, each in enumerate(self.chunks) if each is first), 0)
        for chunk in call.chunks:
            self._length -= len(chunk.text)
            chunk.text = ""
        self._withdrawn.append(index)
        self._note_change()

    # Loops and the checkpoint. Their text ends after this number of chunks.

    @property
    def end(self) -> End:
        """Returns the present end, for a part that has no row."""
        return End(len(self.chunks), len(self._withdrawn))

    def begin_loop(self, name: str) -> End | None:
        """Emits again what the loop's finished items have emitted. Returns where that ends; None without rows."""
        name = part_of_loop(name)
        part, restored_at = self.earlier.get(name), self._restored_at
        if part is None:
            self._loops[name] = Loop(len(self.chunks), self.next_place())
            return None
        if restored_at is None or part.first_place > restored_at:
            self._append(part.text)
            begin = len(self.chunks) - bool(part.text)
        elif part.last_place > restored_at:  # it was under way: its items continue after its position
            self._cut(part.start)
            begin = len(self.chunks)
            self._append(part.text)
            self._steps = {
                step: at for step, at in tuple(self._steps.items()) if self._was_said_before(part, step, at)
            }
            self._restored_at, self.was_cut = None, True
        else:  # it had ended by then
            begin = len(self.chunks)
        self._loops[name] = Loop(begin, part.first_place)
        return replace(self.end, start=part.start)

    def _was_said_before(self, loop: StoredPart, step: str, at: int) -> bool:
        """The places of one run are in the order of the text. A run that began the loop after it had died once says
        steps of the loop again whose rows are older: those are steps that this run has not reached yet."""
        is_of_an_earlier_run = epoch_of(at) < epoch_of(loop.first_place)
        return at < loop.first_place and (not is_of_an_earlier_run or step in self._steps_reached)

    def end_loop(self, name: str) -> None:
        if (loop := self._loops.get(part_of_loop(name))) is not None:
            self._loops[part_of_loop(name)] = replace(loop, end=len(self.chunks))

    def note_loops(self, names: Iterable[str]) -> dict[str, End]:
        """Notes the loops that are under way, and began before anything was emitted."""
        for name in names:
            self._loops[part_of_loop(name)] = Loop(0, self.next_place())
        return dict.fromkeys(self._loops, End(0))

    def restore_checkpoint(self, kept: Container[str]) -> dict[str, End] | None:
        """Emits what had been emitted when the checkpoint was saved. Returns where the text of each loop that has begun
        ends in that. Returns None where this is not known, or where the text is past it already: a job that reads the
        checkpoint inside its loops finds the loop that saved it done, and reads it first in a later one. `kept` are the
        parts of this run that were not rolled back, and will not be by another database."""
        part, begun = self.earlier.get(CHECKPOINT), self._loops.keys() & self.earlier.keys()
        loops = {name: self.earlier[name] for name in begun}
        if part is None or self._is_past(part, loops.values(), kept):
            return None
        self._restored_at, self.was_cut = part.last_place, False
        for name, step in self.earlier.items():
            if name.startswith(STEP_PREFIX) and step.first_place < part.last_place:
                self._steps[name.removeprefix(STEP_PREFIX)] = step.first_place
        bounds = sorted({0, *(at for loop in loops.values() for at in loop.bounds), len(part.text)})
        self.chunks[:] = [Chunk(part.text[begin:end]) for begin, end in pairwise(bounds)]
        self._length = len(part.text)
        self._note_change()
        for name, loop in loops.items():
            self._loops[name] = Loop(bounds.index(loop.start), loop.first_place)
        ends = {name: bounds.index(loop.bounds[1]) for name, loop in loops.items()}
        for name in self._loops.keys() - begun:
            if self._loops[name].end is None:  # it has said nothing yet
                self._loops[name] = replace(self._loops[name], begin=len(self.chunks))
        return {name: replace(self.end, index=at, start=loops[name].start) for name, at in ends.items()}

    def _is_past(self, checkpoint: StoredPart, loops: Iterable[StoredPart], kept: Container[str]) -> bool:
        """Returns whether this run has emitted text that earlier runs emitted, or would have, after the checkpoint."""
        last = checkpoint.last_place
        steps = {part_of_step(name): at for name, at in tuple(self._steps.items())}
        new = [loop for name, loop in tuple(self._loops.items()) if loop.first_place > last and name in kept]
        return (
            any(loop.text_place > last for loop in loops)
            or any(at > last and (name in self.earlier or name in kept) for name, at in steps.items())
            or any(self._text(loop.begin, len(self.chunks) if loop.end is None else loop.end) for loop in new)
        )

    def keep(
        self, ends: dict[str, End], in_rows: Mapping[str, End], loops_under_way: Iterable[str]
    ) -> list[PartRow]:
        """Returns the rows of loops and checkpoint that are new since `in_rows`, and notes in `ends` where they say
        that each part begins. All that belongs to a checkpoint begins where it does now. Loops that are under way at a
        checkpoint get a row without text: it distinguishes them from those that have ended."""
        is_checkpoint = CHECKPOINT in ends and in_rows.get(CHECKPOINT) != ends[CHECKPOINT]
        rows: list[PartRow] = []
        for part in sorted(ends, key=CHECKPOINT.__eq__):  # the checkpoint last
            begin = self._loops[part].begin if part in self._loops else 0
            written, start = in_rows.get(part), self.offset(begin)
            if written is not None and not is_checkpoint:
                start = written.start
            is_new = written != ends[part] or written.start != start
            ends[part] = replace(ends[part], start=start)
            if is_new:
                rows += self._keep(part, begin, ends[part], written)
        under_way = [part for part in map(part_of_loop, loops_under_way) if is_checkpoint and part in ends]
        return rows + [
            PartRow(part, self.next_place(), self._start(part, ends[part]), "") for part in under_way
        ]

    def _keep(self, part: str, begin: int, end: End, written: End | None) -> list[PartRow]:
        if written is not None and written.start == end.start and self._is_unchanged(written):
            start = end.start + self.offset(written.index) - self.offset(begin)
            return [PartRow(part, self.next_place(), start, self._text(written.index, end.index))]
        loop = self._loops.get(part) or Loop(0, self.next_place())
        has_rows = written is not None or part in self.earlier
        text = self._text(begin, end.index)
        first = PartRow(part, loop.first_place, end.start, "", has_rows)
        return [first, PartRow(part, self.next_place(), end.start, text)]

    def _start(self, part: str, end: End) -> int:
        """Returns the place after its text."""
        return end.start + self.offset(end.index) - self.offset(self._loops[part].begin)

    def _is_unchanged(self, end: End) -> bool:
        return min(self._withdrawn[end.withdrawals :], default=end.index) >= end.index

    # Pieces and characters.

    def __str__(self) -> str:
        return self._text(0, len(self.chunks))

    def offset(self, index: int) -> int:
        """Returns the number of characters that the first `index` chunks have."""
        known, characters = self._measured
        if index < known:
            known = characters = 0
        characters += sum(len(chunk.text) for chunk in self.chunks[known:index])
        self._measured = (index, characters)
        return characters

    def next_place(self) -> int:
        return place(self._lease_epoch, next(self._numbers))

    def _text(self, begin: int, end: int) -> str:
        return "".join(chunk.text for chunk in self.chunks[begin:end])

    def _cut(self, length: int) -> None:
        """Cuts the text to this number of characters."""
        kept = offset = 0
        while kept < len(self.chunks) and offset + len(self.chunks[kept].text) <= length:
            offset += len(self.chunks[kept].text)
            kept += 1
        rest = self._text(kept, kept + 1)[: length - offset]
        self.chunks[kept:] = [Chunk(rest)] if rest else []
        self._length = length
        self._note_change()

    def _note_change(self) -> None:
        self._measured = (0, 0)
        self.changes += 1
