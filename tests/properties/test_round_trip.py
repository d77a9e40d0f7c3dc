"""Any JSON that Python can write reaches the function as it was, whichever way it was enqueued; and what it stores and
returns comes back alike."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgonly_django import Snooze, enqueue_many, send_event, task
from pgonly_django.models import Job
from pgonly_django.testing import drain
from tests.tasks.calls import any_number

# What PostgreSQL cannot hold is refused (tests/queue/test_values.py).
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
awkward = st.sampled_from(
    ["\\", "\\N", "\\.", "\t", "\n", "\r\n", "\\t", '"', "'", "%s", "{}", "\x7f", "\u2028", "🎈"]
)
numbers = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | text | awkward
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | awkward, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@pytest.mark.django_db
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=st.lists(values, max_size=4), unit=values)
def test_arguments_come_back_as_they_were_given(args, unit):
    alone = any_number.enqueue(*args, unit=unit)
    (among_many,) = enqueue_many([(any_number, args, {"unit": unit})])
    for result in (alone, among_many):
        row = Job.objects.get(pk=result.id)
        assert (row.args, row.kwargs) == (args, {"unit": unit})
        assert (result.args, result.kwargs) == (args, {"unit": unit})


# What is given, and the Python that comes back: docs/reference/tasks.md#what-json-keeps.
KEPT = {
    "whole numbers": ([0, -1, 2**64, 10**400], "[0, -1, 18446744073709551616, 1" + 400 * "0" + "]"),
    "floats": (
        [1.0, 0.1, 1e5, 1e15, 1e-7, 5e-324],
        "[1.0, 0.1, 100000.0, 1000000000000000.0, 1e-07, 5e-324]",
    ),
    "large floats": (
        [1e16, -1.5e23, 1e308, 1.7976931348623157e308],
        "[1e+16, -1.5e+23, 1e+308, 1.7976931348623157e+308]",
    ),
    "a zero": ([-0.0], "[0.0]"),
    "text that looks like one": (
        ["1e+16", '"1e+16', "\\", 1e16, 'e+\\"'],
        repr(["1e+16", '"1e+16', "\\", 1e16, 'e+\\"']),
    ),
    "other scalars": ([None, True, False, "é🎈"], "[None, True, False, 'é🎈']"),
    "a tuple": (((1,),), "[[1]]"),
    "bytes": ([b"text"], "['text']"),
    "keys": ({1: "a", "longest": 1e16, None: 2.0}, "{'1': 'a', 'null': 2.0, 'longest': 1e+16}"),
}


reached = {}


@task(takes_context=True, max_attempts=1)
def on_all_paths(context, value, *, named):
    step = context.step("given", lambda: value)
    if context.checkpoint is None:
        context.save_checkpoint(value)
        reached.update(step=step, checkpoint=context.checkpoint)
        raise Snooze(0)
    reached.update(argument=value, named=named, metadata=context.metadata["key"])
    reached.update(step_again=step, checkpoint_again=context.checkpoint)
    reached.update(event=context.wait_for_event("given"))
    return value


@pytest.mark.django_db
@pytest.mark.parametrize("name", KEPT)
def test_json_keeps_the_same_on_all_paths(name):
    """The text of the Python tells 1 from 1.0, 0.0 from -0.0, and the order of keys."""
    given, kept = KEPT[name]
    reached.clear()
    send_event("given", given)
    result = on_all_paths.using(metadata={"key": given}).enqueue(given, named=given)
    drain()
    row = Job.objects.get(pk=result.id)
    result.refresh()
    reached.update(row=row.args[0], named_in_row=row.kwargs["named"], metadata_in_row=row.metadata["key"])
    reached.update(result=result.return_value, result_in_row=row.result, of_result=result.metadata["key"])
    reached.update(args_of_result=result.args[0])
    assert len(reached) == 15
    assert {path: repr(value) for path, value in reached.items()} == dict.fromkeys(reached, kept)
