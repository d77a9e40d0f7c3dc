"""The job context of a task that another backend runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from asgiref.sync import async_to_sync

from pgonly_django.context.detached import DetachedContext
from pgonly_django.exceptions import LoopNameError, NotStoppingError, StepNameError


@pytest.fixture
def context():
    return DetachedContext(SimpleNamespace(id="some id", attempts=1, task=None))


def test_a_second_loop_of_the_same_name_is_refused(context):
    for _ in context.iterate("ab"):
        break
    with pytest.raises(LoopNameError):
        list(context.iterate("cd"))


def test_a_step_is_made_once_and_its_result_comes_back_as_json_has_it(context):
    results = [context.step("pair", lambda: (1, 2)), context.step("pair", pytest.fail)]
    assert results == [[1, 2], [1, 2]]
    with pytest.raises(StepNameError):
        context.step("", int)


def test_a_checkpoint_is_kept_as_it_was_when_it_was_saved(context):
    assert context.checkpoint is None
    state = {"page": 1}
    context.save_checkpoint(state)
    state["page"] = 2
    assert context.checkpoint == {"page": 1}


def test_nothing_asks_it_to_stop(context):
    assert (context.should_stop, context.time_left) == (False, None)
    assert (context.attempt, context.job_id) == (1, "some id")
    with pytest.raises(NotStoppingError):
        context.stop()


def test_async_tasks_have_the_same(context):
    @async_to_sync
    async def run():
        async def twice(number):
            return 2 * number

        done = [await context.astep(f"{item}", twice, item) async for item in context.aiterate([1, 2])]
        await context.asave_checkpoint(done)
        await context.aprogress(2, 2)
        await context.alog("both")

    run()
    assert context.checkpoint == [2, 4]


def test_what_it_emits_goes_to_the_log(context, caplog):
    caplog.set_level("DEBUG", "pgonly_django")
    context.emit("some output")
    assert "some output" in caplog.text
    with pytest.raises(TypeError, match="takes text"):
        context.emit(b"bytes")
