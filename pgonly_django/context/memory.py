"""What a run saves for later runs: steps, the positions of loops, the checkpoint, and the output of each. A resumed run
repeats the output of all that it need not do again: see output.py."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import connections

from pgonly_django.conf import settings
from pgonly_django.context.calls import Spending
from pgonly_django.context.checkpoint_state import CheckpointState
from pgonly_django.context.output import RunOutput
from pgonly_django.context.pending_wait import PendingWait
from pgonly_django.context.run import Run
from pgonly_django.context.transactions import is_in_transaction, retry_while_down
from pgonly_django.context.unwritten import UnwrittenOutput
from pgonly_django.database.statement import printable
from pgonly_django.error_texts import note_step
from pgonly_django.events import emit
from pgonly_django.exceptions import AtomicStepError, CannotWaitError, JobInterrupt
from pgonly_django.instruments import around, steps
from pgonly_django.queue import batches, checkpoints, waits
from pgonly_django.queue.checkpoints import Position, Saved
from pgonly_django.queue.enqueue import Members
from pgonly_django.queue.output import CHECKPOINT, PartRow, StoredPart, part_of_loop
from pgonly_django.queue.values import to_json

T = TypeVar("T")

SAVE_EVERY_SECONDS = 1.0
TOO_LONG = 'The output is longer than PGONLY["OUTPUT_LIMIT"], {:,} characters. The rest is not kept.'


class Memory:
    """The memory of one run. A job that does not emit has no `output`, and pays nothing for it."""

    output: RunOutput | None = None

    def __init__(self, run: Run, saved: Saved, *, is_atomic: bool) -> None:
        self._run, self._is_atomic = run, is_atomic
        self.state = CheckpointState(run.alias, saved, self._clear_suspicion)
        self._saved_at = time.monotonic()
        self._loops_under_way: list[str] = []
        self._may_restore = True  # the job has not read its checkpoint yet, nor saved one
        self._is_full = False

    def emit(self, chunk: str) -> None:
        """Raises TypeError for anything that is not text."""
        output = self.output or self.resume_output({})
        if not output.emit(text_of(chunk)) and not self._is_full:
            self._is_full = True
            self._run.log(TOO_LONG.format(output.limit))

    def resume_output(self, earlier: Mapping[str, StoredPart]) -> RunOutput:
        """Called when earlier runs have emitted `output`."""
        job = self._run.job
        new = RunOutput(job.lease_epoch, settings().output_limit, earlier)
        for part, end in new.note_loops(tuple(self._loops_under_way)).items():
            self.state.note_end(part, end)
        # Of two threads that come here at once, one makes it.
        output: RunOutput = vars(self).setdefault("output", new)
        self._run.begin_output(UnwrittenOutput(output, job.id, job.lease_epoch))
        return output

    # The checkpoint. When the job reads it, before it saves another one, the output of that time is restored.

    @property
    def checkpoint(self) -> Any:
        if self._may_restore:
            self._may_restore = False
            self._restore_output()
        return json.loads(self.state.values.reached.value)

    def _restore_output(self) -> None:
        if self.output is None or (ends := self.output.restore_checkpoint(self.state.kept_parts)) is None:
            return
        for name in tuple(self._loops_under_way):  # those that have rows come next
            self.state.note_end(part_of_loop(name), self.output.end)
        for part, end in {**ends, CHECKPOINT: self.output.end}.items():
            self.state.note_end(part, end, is_in_row=True)

    def save_checkpoint(self, value: Any) -> None:
        saved = self.state.to_write
        saved.value = to_json(value, "The checkpoint")
        self._may_restore = False
        if self.output is not None:
            saved.ends[CHECKPOINT] = self.output.end
        self._write(saved)

    # Loops.

    def begin_loop(self, name: str) -> Position:
        """Returns where the loop stands. Raises LoopNameError where the name is taken."""
        at = self.state.begin_loop(name)
        self._loops_under_way.append(name)
        if self.output is not None:
            end = self.output.begin_loop(name)
            if self.output.was_cut:
                self.state.forget_end(CHECKPOINT)
                self._may_restore, self.output.was_cut = True, False
            self.state.note_end(part_of_loop(name), end or self.output.end, is_in_row=end is not None)
        return at

    def advance_loop(self, name: str, at: Position) -> bool:
        """Notes that another item is done. Returns whether it is time to save."""
        self.state.advance_loop(name, at)
        if self.output is not None:
            self.state.note_end(part_of_loop(name), self.output.end)
        return time.monotonic() - self._saved_at >= SAVE_EVERY_SECONDS

    def end_loop(self, name: str) -> None:
        """Notes that the loop has come to its end. After a break the next run makes the item of the break again."""
        if name in self._loops_under_way:
            self._loops_under_way.remove(name)
        if self.output is not None:
            self.output.end_loop(name)

    def read(self, alias: str, read: Callable[[], T]) -> T:
        """Reads rows of a loop. While the jobs' database is down, reads from it wait, as steps do."""
        return read() if alias != self._run.alias else retry_while_down(self._run, lambda _: read())

    def flush(self) -> None:
        """Writes the loop positions that are not saved yet, as part of the transaction that is open."""
        self._saved_at = time.monotonic()
        if self._is_unwritten:
            self._write(self.state.to_write)

    def flush_or_warn(self) -> None:
        try:
            self.flush()
        except DatabaseError as error:
            message = f"Could not save a loop's position: {error}"
            emit("worker.position_unsaved", message, level=logging.WARNING)

    @property
    def _is_unwritten(self) -> bool:
        return self.state.to_write != self.state.values.in_row and not self._run.lease_lost

    def _write(self, saved: Saved) -> None:
        said: list[PartRow] = []
        if self.output is not None:  # `saved.ends` says what the rows say then
            in_rows = self.state.values.in_row.ends
            said = self.output.keep(saved.ends, in_rows, tuple(self._loops_under_way))
        positions = checkpoints.positions_json(saved.positions)
        self._fenced(checkpoints.save_checkpoint, saved.value, positions, said)
        self._saved_at = time.monotonic()
        self.state.note_written(saved)

    # Steps.

    def find_step(self, name: str) -> str | None:
        """Returns the stored result of a step, as JSON text."""
        if self._is_atomic:
            raise AtomicStepError(name)
        with self._run.calls.around():
            found = self._fenced(checkpoints.find_step, name)
        if found is not None and self.output is not None:
            self.output.repeat_step(name)
        return found

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Stands around one call of a step."""
        seen = self._run.seen
        observed = nullcontext() if seen is None or not steps.functions else around(steps, seen, name)
        with observed, self._run.calls.one(name) as call:
            if self.output is not None:
                self.output.begin_step(call)
            try:
                yield
            except BaseException as error:
                note_step(error, self._run.key, name, self._run.at(call.began))
                raise

    def keep_step(self, name: str, value: Any, spending: Spending) -> str:
        """Stores what the call has returned. Returns the result that is kept, as JSON text."""
        text = to_json(spending.take(value), f"The result of step {name!r}")
        alias = self._run.alias
        paid = spending.stored(alias, is_in_transaction=is_in_transaction(connections[alias]))
        call, output = self._run.calls.around_here[-1], self.output
        said = output.keep_step(call) if output is not None else []
        kept, is_new = self._fenced(checkpoints.save_step, name, text, paid, said, call.began)
        if output is not None:
            output.note_kept_step(call, said, is_new=is_new)
        if is_new:
            self.state.note_new_step(name, has_text=bool(said))
        spending.settle(is_new=is_new)
        return kept

    # Waits.

    def refuse_wait(self, name: str) -> None:
        """Raises CannotWaitError where the run cannot be left."""
        if self._is_atomic or is_in_transaction(connections[self._run.alias]):
            raise CannotWaitError(name, "it is in a transaction, which leaving the run would roll back")

    def look_for(self, wait: PendingWait) -> waits.WaitLook:
        """Returns the answer. If there is none yet, notes that the job waits, and only then looks whether it has to."""
        self.refuse_wait(wait.name)
        look = self.look_again(wait)
        if look.answer is None:
            wait.has_begun = True
            for each in wait.of:
                self._fenced(waits.begin, each)
            look = self.look_again(wait)
        return look

    def look_again(self, wait: PendingWait) -> waits.WaitLook:
        """Returns the answer to waits that have begun, if there is one by now."""
        names = [each.name for each in wait.of]
        look = self._fenced(waits.look, wait.name, names, self._run.own_names(wait))
        wait.is_answered = look.answer is not None
        if look.is_new:
            self.state.note_new_step(wait.name, has_text=False)
        return look

    def withdraw(self, wait: PendingWait) -> None:
        try:
            self._fenced(waits.withdraw, self._run.own_names(wait))
        except (DatabaseError, JobInterrupt) as error:
            message = f"Could not withdraw the wait {wait.name!r}: {error!r}"
            emit("worker.wait_not_withdrawn", message, level=logging.WARNING)

    def find_batch(self, name: str) -> batches.Gathered | None:
        """Returns how the batch of a gather() stands; None where it has not begun."""
        self.refuse_wait(name)
        return self._fenced(batches.find_gathered, name)

    def begin_batch(self, name: str, members: Members) -> batches.Gathered:
        return self._fenced(batches.begin_gathered, name, members)

    def _fenced(self, statement: Callable[..., T], *values: Any) -> T:
        job = self._run.job
        return retry_while_down(self._run, statement, job.id, job.lease_epoch, *values)

    def _clear_suspicion(self) -> None:
        """Called after a commit. If something new was saved, this worker no longer suspects the job of killing it. At a
        death the stored data decide: queue/rescue.py."""
        run = self._run
        if run.job.crashes and not run.saved_something_new:
            run.saved_something_new = self.state.has_progress

    # For the worker, at the end of the run.

    def close(self) -> None:
        """Ends the run: takes back what it reached in transactions that it left open, which will be rolled back. What
        its threads emit from now on is dropped, and its tasks that still wait are cancelled."""
        self._run.is_over = True
        for pending in self._run.waits:
            pending.cancel()
        if self.output is not None:
            self.output.is_closed = True
        self.state.close()

    def close_failed(self) -> None:
        """See close(). The run has failed: also writes the loop positions that it reached outside of transactions. If
        they cannot be written, the next run repeats a few items; the outcome is the same."""
        self.close()
        self.flush_or_warn()
        self._run.got_further = self.state.has_progress

    async def aclose_failed(self) -> None:
        """See close_failed()."""
        self.close()
        if self._is_unwritten:
            await sync_to_async(self.flush_or_warn)()
        self._run.got_further = self.state.has_progress


def text_of(chunk: str) -> str:
    if not isinstance(chunk, str):
        raise TypeError(f"emit() takes text, got {type(chunk).__name__}. Decode bytes first; else use str().")
    return printable(chunk)
