"""Any JSON that Python can write reaches the function as it was, whichever way it was enqueued."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgonly_django import enqueue_many
from pgonly_django.models import Job
from tests.tasks.calls import any_number

pytestmark = pytest.mark.slow

# What PostgreSQL cannot hold is refused (tests/queue/test_values.py). JSONB keeps 1e17 as a whole number, and
# Python reads it back as one: equal to its shortest text, not to the double.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
awkward = st.sampled_from(
    ["\\", "\\N", "\\.", "\t", "\n", "\r\n", "\\t", '"', "'", "%s", "{}", "\x7f", "\u2028", "🎈"]
)
numbers = st.integers(-(10**30), 10**30) | st.floats(-1e15, 1e15)
scalars = st.none() | st.booleans() | numbers | text | awkward
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | awkward, inner, max_size=4),
    max_leaves=12,
)


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
