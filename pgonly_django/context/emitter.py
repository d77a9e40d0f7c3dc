"""The job context's side of the output: what the job emits, and what a resumed run says again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pgonly_django.conf import settings
from pgonly_django.context.checkpoint_state import CheckpointState
from pgonly_django.context.output import RunOutput, StepCall, UnwrittenOutput, in_step
from pgonly_django.context.run import Run
from pgonly_django.database.statement import printable
from pgonly_django.queue.checkpoints import Saved
from pgonly_django.queue.output import CHECKPOINT, PartRow, StoredPart, part_of_loop

TOO_LONG = 'The output is longer than PGONLY["OUTPUT_LIMIT"], {:,} characters. The rest is not kept.'


class Emitter:
    """Of one run. A job that does not emit has no `output`, and nothing here costs it anything."""

    output: RunOutput | None = None

    def __init__(self, run: Run, state: CheckpointState) -> None:
        self._run, self._state = run, state
        self._loops_under_way: list[str] = []
        self._may_restore = True
        self._is_full = False

    def emit(self, chunk: str) -> None:
        """Raises TypeError for what is no text."""
        output = self.output or self._begin({})
        if not output.emit(text_of(chunk)) and not self._is_full:
            self._is_full = True
            self._run.log(TOO_LONG.format(output.limit))

    def resume(self, earlier: Mapping[str, StoredPart]) -> None:
        """Earlier runs have emitted this."""
        self._begin(earlier)

    def _begin(self, earlier: Mapping[str, StoredPart]) -> RunOutput:
        job = self._run.job
        new = RunOutput(job.lease_epoch, settings().output_limit, earlier)
        for part, end in new.note_loops(tuple(self._loops_under_way)).items():
            self._state.note_end(part, end)
        # Of two threads that come here at once, one makes it.
        output: RunOutput = vars(self).setdefault("output", new)
        self._run.begin_output(UnwrittenOutput(output, job.id, job.lease_epoch))
        return output

    # The checkpoint. What stood there is restored when the job reads it, before it saves another.

    def read_checkpoint(self) -> None:
        if not self._may_restore:
            return
        self._may_restore = False
        if self.output is None or (ends := self.output.restore_checkpoint(self._state.kept_parts)) is None:
            return
        for name in tuple(self._loops_under_way):  # those that have rows come next
            self._state.note_end(part_of_loop(name), self.output.end)
        for part, end in {**ends, CHECKPOINT: self.output.end}.items():
            self._state.note_end(part, end, is_in_row=True)

    def save_checkpoint(self, saved: Saved) -> None:
        self._may_restore = False
        if self.output is not None:
            saved.ends[CHECKPOINT] = self.output.end

    def rows_of(self, saved: Saved) -> list[PartRow]:
        """What is to be stored with it. Notes in its `ends` what the rows say then."""
        if self.output is None:
            return []
        return self.output.keep(saved.ends, self._state.values.in_row.ends, tuple(self._loops_under_way))

    # Loops.

    def begin_loop(self, name: str) -> None:
        self._loops_under_way.append(name)
        if self.output is None:
            return
        end = self.output.begin_loop(name)
        if self.output.was_cut:
            self._state.forget_end(CHECKPOINT)
            self._may_restore, self.output.was_cut = True, False
        self._state.note_end(part_of_loop(name), end or self.output.end, is_in_row=end is not None)

    def advance_loop(self, name: str) -> None:
        if self.output is not None:
            self._state.note_end(part_of_loop(name), self.output.end)

    def end_loop(self, name: str) -> None:
        """It has come to its end. One that is left by a break makes that item again in the next run."""
        if name in self._loops_under_way:
            self._loops_under_way.remove(name)
        if self.output is not None:
            self.output.end_loop(name)

    # Steps.

    @contextmanager
    def step_call(self, name: str) -> Iterator[None]:
        """Around one call."""
        with in_step(name) as call:
            if self.output is not None:
                self.output.begin_step(call)
            yield

    def rows_of_step(self, call: StepCall | None) -> list[PartRow]:
        """What is to be stored with the result of the call that ends here."""
        return [] if self.output is None or call is None else self.output.keep_step(call)

    def note_kept_step(self, call: StepCall | None, rows: list[PartRow], *, is_new: bool) -> None:
        if self.output is not None and call is not None:
            self.output.note_kept_step(call, rows, is_new=is_new)

    def repeat_step(self, name: str) -> None:
        """It was found done."""
        if self.output is not None:
            self.output.repeat_step(name)

    def close(self) -> None:
        """The run is over: what its threads emit from now on is dropped."""
        if self.output is not None:
            self.output.is_closed = True


def text_of(chunk: str) -> str:
    if not isinstance(chunk, str):
        raise TypeError(f"emit() takes text, got {type(chunk).__name__}. Decode bytes first; else use str().")
    return printable(chunk)
