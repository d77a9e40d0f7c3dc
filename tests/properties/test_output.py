"""Random jobs that emit are killed anywhere and resumed: in the end readers have the text of an undisturbed run."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgonly_django.context.context import JobContext
from pgonly_django.context.memory import Memory
from pgonly_django.context.run import Run
from pgonly_django.models import Job
from pgonly_django.queue.checkpoints import Saved, load_checkpoint
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.queue.output import load_output, read_output, write_output
from tests.queue.rows import make_running

pytestmark = pytest.mark.slow

KILLS, EXAMPLES = 5, 50
VARYING = re.compile("<x*>")


class Killed(BaseException):
    """As by SIGKILL: nothing is written any more."""


class FlakyError(Exception):
    pass


@dataclass(frozen=True)
class Emit:
    text: str

    def run(self, job, path):
        job.emit(self.text)


@dataclass(frozen=True)
class Varying:
    """Each run says something else."""

    def run(self, job, path):
        job.emit(f"<{'x' * job.epoch}>")


@dataclass(frozen=True)
class Step:
    """`fails`: its first call in a run fails behind the body, and the job calls it again."""

    body: tuple
    fails: bool = False

    def run(self, job, path):
        failures = [FlakyError] if self.fails else []

        def call():
            run_all(self.body, job, path)
            if failures:
                raise failures.pop()

        with suppress(FlakyError):
            return job.step(path, call)
        return job.step(path, call)


@dataclass(frozen=True)
class Loop:
    items: int
    body: tuple
    breaks_at: int | None = None

    def run(self, job, path):
        for item in job.iterate(range(self.items), name=path):
            run_all(self.body, job, f"{path} {item}")
            if item == self.breaks_at:
                break


@dataclass(frozen=True)
class Atomic:
    body: tuple

    def run(self, job, path):
        with transaction.atomic():
            run_all(self.body, job, path)


@dataclass(frozen=True)
class RolledBack:
    body: tuple

    def run(self, job, path):
        with suppress(FlakyError), transaction.atomic():
            run_all(self.body, job, path)
            raise FlakyError


@dataclass(frozen=True)
class Save:
    """Without a look at the checkpoint."""

    def run(self, job, path):
        job.save_checkpoint([path])


@dataclass(frozen=True)
class Once:
    """Done, and then noted in the checkpoint."""

    body: tuple

    def run(self, job, path):
        done = job.checkpoint or []
        if path not in done:
            run_all(self.body, job, path)
            job.save_checkpoint([*done, path])


def run_all(blocks, job, path):
    for number, block in enumerate(blocks):
        block.run(job, f"{path}.{number}")


def bodies(*blocks, most=3):
    return st.lists(st.one_of(*blocks), max_size=most).map(tuple)


EMITS = st.sampled_from(["a", "b", "ab", "ba", "\N{SNOWMAN}\N{GRINNING FACE}", "line\n"]).map(Emit)
FREE = st.one_of(EMITS, st.just(Varying()))
STEPS = st.builds(Step, bodies(EMITS), st.booleans())
INNER_LOOPS = st.builds(Loop, st.integers(0, 3), bodies(FREE, STEPS))
ONCE = st.builds(Once, bodies(EMITS, STEPS))
ATOMIC = bodies(EMITS, STEPS).map(Atomic)
FREELY = bodies(FREE, STEPS, INNER_LOOPS, ATOMIC)
# What stands between two looks at the checkpoint is emitted again by a run that has saved the second: it belongs into
# something that is done once.
BETWEEN = bodies(STEPS, INNER_LOOPS, ONCE)
IN_LOOPS = st.tuples(FREELY, BETWEEN, FREELY).map(lambda parts: sum(parts, ()))
# An item that is left by a break comes again, with what stands behind its last look at the checkpoint.
IN_BROKEN_LOOPS = st.tuples(FREELY, BETWEEN).map(lambda parts: sum(parts, ()))
LOOPS = st.one_of(
    st.builds(Loop, st.integers(0, 3), IN_LOOPS),
    st.builds(Loop, st.integers(0, 3), IN_BROKEN_LOOPS, st.integers(0, 2)),
)
LONG_STEPS = bodies(EMITS, INNER_LOOPS).map(Step)
RESUMABLE = st.one_of(STEPS, LONG_STEPS, LOOPS, bodies(STEPS, INNER_LOOPS).map(Atomic), ONCE)
FIRST = bodies(FREE, STEPS, LONG_STEPS, INNER_LOOPS)
PROGRAMS = st.tuples(FIRST, bodies(RESUMABLE, most=5)).map(lambda parts: sum(parts, ()))


class FakeJob:
    """What an undisturbed run says, in plain Python."""

    epoch = 0
    checkpoint = None

    def __init__(self):
        self.text = ""

    def emit(self, text):
        self.text += text

    def step(self, path, call):
        before = self.text
        try:
            call()
        except FlakyError:
            self.text = before
            raise

    def iterate(self, items, name):
        return items

    def save_checkpoint(self, value):
        self.checkpoint = value


class WorkedJob:
    """One run, whose worker writes the output now and then, and which is killed after so many moments."""

    def __init__(self, server, row, epoch, moments, chance):
        Job.objects.filter(pk=row.pk).update(lease_epoch=epoch)
        row.refresh_from_db()
        self.server, self.epoch, self.moments, self.chance = server, epoch, moments, chance
        now = time.monotonic()
        self.run = Run(row_as_claimed(row), "default", claimed_at=now, lease_until=now + 60)
        saved = load_checkpoint("default", str(row.pk)) if epoch > 1 else None
        self.memory = Memory(self.run, saved or Saved(), is_atomic=False)
        self.context = JobContext(None, self.run, self.memory)
        self.memory.advance_loop = self._advance_loop
        self.memory._write = self._write
        if saved is not None and saved.has_output:
            self.memory.resume_output(load_output("default", str(row.pk)))

    def moment(self):
        """A moment at which the worker may write, and at which the job may die."""
        if self.chance.random() < 0.4:
            self.write()
        if self.moments == 0:
            raise Killed
        self.moments -= 1

    def write(self, *, has_succeeded=False):
        unwritten = self.run.unwritten
        row = unwritten and unwritten.take(has_succeeded=has_succeeded)
        if row is None:
            return
        fate = "written" if has_succeeded else self.chance.choice(["written", "written", "lost", "unheard"])
        if fate != "lost":
            assert write_output(self.server, [row]) == {row.id}
        if fate == "written":
            unwritten.note_written()
        else:
            unwritten.put_back()

    @property
    def checkpoint(self):
        return self.context.checkpoint

    def emit(self, text):
        self.context.emit(text)
        self.moment()

    def step(self, path, call):
        def watched():
            call()
            self.moment()

        result = self.context.step(path, watched)
        self.moment()
        return result

    def iterate(self, items, name):
        return self.context.iterate(items, name=name)

    def save_checkpoint(self, value):
        self.moment()
        self.context.save_checkpoint(value)
        self.moment()

    def _advance_loop(self, *arguments):
        Memory.advance_loop(self.memory, *arguments)
        return self.chance.random() < 0.5

    def _write(self, saved):
        self.moment()
        Memory._write(self.memory, saved)
        self.moment()


def row_as_claimed(row):
    job = Job.objects.get(pk=row.pk)
    values = {name: getattr(job, name) for name in ClaimedJob._fields if not name.endswith("_timestamp")}
    times = {
        name: at and at.timestamp()
        for name in ClaimedJob._fields
        if name.endswith("_timestamp")
        for at in [getattr(job, name.replace("_timestamp", "_at"))]
    }
    return ClaimedJob(**{**values, **times, "id": str(row.pk)})


def prove(server, program, kills, seed):
    """Killed at these moments and resumed each time, the job has the text of a run that was not."""
    chance = Random(seed)
    fake = FakeJob()
    run_all(program, fake, "job")
    row = make_running()
    reader_text, reader_offset = "", 0
    for epoch, moments in enumerate([*kills, -1], start=1):
        worked = WorkedJob(server, row, epoch, moments, chance)
        with suppress(Killed):
            run_all(program, worked, "job")
            worked.write(has_succeeded=True)
        worked.memory.close()  # writes nothing: it lets go of this thread's connection
        answer = read_output("default", row.pk, reader_offset)
        reader_text, reader_offset = answer.applied_to(reader_text), answer.offset
    whole = read_output("default", row.pk).text
    assert VARYING.sub("<>", whole) == fake.text
    assert reader_text == whole


@pytest.mark.django_db(transaction=True)
def test_output_is_that_of_one_undisturbed_run(server):
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(PROGRAMS, st.lists(st.integers(0, 40), max_size=KILLS), st.integers(0, 2**32))
    def prove_each(program, kills, seed):
        prove(server, program, kills, seed)

    prove_each()


LOOK, LOOK_AND_SAY = Once(()), Once((Emit("c"),))
# The loop that has saved the checkpoint is done. So the next run looks at it for the first time in a later loop.
FIRST_LOOK_IN_A_LATER_LOOP = {
    "behind a step": (Loop(1, (LOOK,)), Step((Emit("s"),)), Loop(1, (LOOK,))),
    "behind an item": (Loop(1, (LOOK,)), Loop(1, (Emit("b"),)), Loop(1, (LOOK,))),
    "in the middle of an item": (Loop(1, (LOOK,)), Loop(2, (Emit("b"), LOOK_AND_SAY, Emit("t")))),
    "behind an inner loop": (Loop(1, (LOOK,)), Loop(1, (Loop(1, (Emit("i"),)), LOOK_AND_SAY, Emit("z")))),
    "behind nothing": (Loop(1, (LOOK_AND_SAY,)), Loop(2, (LOOK, Emit("t")))),
    "in an inner loop": (LOOK, Loop(3, (Emit("i"), Save(), Loop(1, (LOOK,))))),
    "behind a break": (
        Loop(1, (LOOK_AND_SAY,), 0),
        Step((Emit("s"),)),
        Loop(2, (LOOK_AND_SAY,), 1),
        LOOK_AND_SAY,
    ),
}


@pytest.mark.django_db(transaction=True)
def test_a_step_that_is_rolled_back_in_each_run_is_not_behind_the_checkpoint(server):
    program = (Emit("a"), RolledBack((Step((Emit("s"),)),)), LOOK_AND_SAY, LOOK)
    for moment in range(14):
        prove(server, program, [moment], seed=moment)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("program", FIRST_LOOK_IN_A_LATER_LOOP.values(), ids=FIRST_LOOK_IN_A_LATER_LOOP)
def test_what_was_said_behind_the_checkpoint_stays(server, program):
    for moment in range(22):
        prove(server, (Emit("a"), *program), [moment], seed=moment)
        prove(server, (Emit("a"), *program), [moment, 4], seed=moment)


@pytest.mark.django_db(transaction=True)
def test_a_step_is_said_again_in_a_loop_that_its_first_run_had_not_saved(server):
    left_at_once = Loop(1, (Once(()),), 0)
    saved_later = Loop(1, (Step((Emit("s"),)),), 0)
    program = Step((Emit("a"),)), left_at_once, saved_later, Loop(1, (Emit("x"), Once((Emit("y"),))))
    for moment in range(7, 12):
        for second in range(6, 13):
            prove(server, program, [moment, second], seed=0)
