"""The waits of operations."""

from __future__ import annotations

import asyncio
import itertools
import sys

import pytest

from pgonly_django.database.operation import Signal
from tests.interruptions import interrupted_in


@pytest.mark.parametrize("moment", range(8))
def test_no_cancellation_is_lost_where_the_answer_arrives_in_the_same_moment(moment):
    """asyncio.wait_for() of Python 3.11 returns the answer then, and the task goes on as if nobody had cancelled it."""

    async def wait_and_go_on():
        await signal.ready()
        await asyncio.sleep(0)

    async def main():
        task = asyncio.create_task(wait_and_go_on())
        await asyncio.sleep(0.01)
        signal.set("answer")
        for _ in range(moment):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task

    signal = Signal(60)
    asyncio.run(main())


def test_a_signal_that_comes_too_late_is_no_answer():
    async def main():
        signal = Signal(0.01)
        assert await signal.ready() is None
        assert not signal.set()

    asyncio.run(main())


@pytest.mark.parametrize("line", range(4))
def test_of_two_who_set_a_signal_at_once_one_succeeds(line):
    signal, seen, answers = Signal(60), itertools.count(), []

    def at_line(_, event, __):
        if event == "line" and next(seen) == line:
            answers.append(signal.set())
        return at_line

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: at_line if frame.f_code is Signal.set.__code__ else None)
    try:
        answers.append(signal.set())
    finally:
        sys.settrace(before)
    assert answers.count(True) == 1


def test_a_timeout_error_of_a_signal_handler_is_raised_and_is_not_the_end_of_the_wait():
    with pytest.raises(TimeoutError), interrupted_in(0.1, TimeoutError):
        Signal(60).block()
