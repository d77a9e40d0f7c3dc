from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgonly_django.exceptions import NotStorableError, WrongArgumentsError
from pgonly_django.queue.values import NESTING_LIMIT
from pgonly_django.tasks.arguments import call_signature
from tests.jobs import nest


def plain(a, b=1): ...
def positional_only(a, /, b): ...
def variadic(a, *rest, **more): ...
def keyword_only(a, *, b, c=1): ...
def nothing(): ...
def with_context(context, page, size=10): ...


FUNCTIONS = (plain, positional_only, variadic, keyword_only, nothing)


@given(
    st.sampled_from(FUNCTIONS),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.integers()),
)
def test_a_call_is_refused_exactly_when_python_would(function, args, kwargs):
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(WrongArgumentsError, match=function.__name__):
            call_signature(function, False).check(args, kwargs)
    else:
        call_signature(function, False).check(args, kwargs)


def test_the_context_is_no_argument_of_the_call():
    signature = call_signature(with_context, True)
    signature.check([1], {"size": 2})
    with pytest.raises(WrongArgumentsError, match=r"with_context\(page, size=10\).*missing.*'page'"):
        signature.check([], {})


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "named"),
    [
        (plain, [1, object()], {}, "Argument 'b' of plain"),
        (plain, ["\x00"], {"b": 2}, "Argument 'a' of plain"),
        (plain, [], {"a": float("nan")}, "Argument 'a' of plain"),
        (variadic, [1, 2, {3}], {}, r"Argument 'args\[2\]' of variadic"),
        (variadic, [1], {"more": ["\ud800"]}, "Argument 'more' of variadic"),
        (plain, [1, nest(NESTING_LIMIT)], {}, "Argument 'b' of plain"),
        (plain, [1], {"b": nest(NESTING_LIMIT)}, "Argument 'b' of plain"),
    ],
)
def test_the_argument_that_cannot_be_stored_is_named(function, args, kwargs, named):
    with pytest.raises(NotStorableError, match=f"^{named}"):
        call_signature(function, False).to_json(args, kwargs)


def test_the_argument_after_the_context_is_named_by_its_own_name():
    with pytest.raises(NotStorableError, match=r"^Argument 'page' of with_context"):
        call_signature(with_context, True).to_json([object()], {})
