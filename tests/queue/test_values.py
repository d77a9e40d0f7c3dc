from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgonly_django.database.statement import printable
from pgonly_django.exceptions import NotStorableError
from pgonly_django.queue.values import NESTING_LIMIT, many_to_json, to_json
from tests.jobs import nest

scalars = st.none() | st.booleans() | st.integers() | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@pytest.mark.slow
@given(values)
def test_what_is_json_comes_back_as_it_was_or_is_refused(value):
    try:
        text = to_json(value, "It")
    except NotStorableError:
        assert "\x00" in str(value) or "\\x00" in repr(value) or has_lone_surrogate(value)
    else:
        assert json.loads(text) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "object"),
        ({1, 2}, "set"),
        (float("nan"), "Out of range float"),
        ([{"deep": float("inf")}], "Out of range float"),
        ("a\x00b", "NUL"),
        ({"\x00": 1}, "NUL"),
        ("\\\x00", "NUL"),
        ("\ud800", "surrogate"),
        ([["x", "\udfff"]], "surrogate"),
        (b"\xff", ""),
    ],
)
def test_what_jsonb_cannot_hold_is_refused_by_name(value, reason):
    with pytest.raises(NotStorableError, match=f"^Argument 'x' cannot be stored as JSON: .*{reason}"):
        to_json(value, "Argument 'x'")


REFUSED = ["a\x00b", "\ud800", nest(NESTING_LIMIT + 1)]


def test_values_that_are_encoded_together_are_as_those_encoded_alone():
    taken = [
        [],
        {},
        [1, "a", None],
        {"a": ["\n\t\\u0000", "🎈"]},
        ("]", '","'),
        'x","y',
        nest(NESTING_LIMIT),
        "x" * 9999,
    ]
    assert many_to_json(taken) == [to_json(value, "It") for value in taken]


@pytest.mark.parametrize("value", REFUSED)
def test_a_value_that_is_refused_harms_none_that_is_encoded_with_it(value):
    assert many_to_json([1, [value], 2]) == ["1", None, "2"]


@pytest.mark.parametrize("value", [object(), b"text", float("nan")])
def test_what_is_no_json_has_all_of_them_encoded_alone(value):
    assert many_to_json([1, [value], 2]) == [None, None, None]


@pytest.mark.parametrize(
    "wrap", [lambda value: [value], lambda value: {"a": value}, lambda value: (0, value)]
)
def test_nesting_is_refused_beyond_what_every_python_can_read(wrap):
    value: Any = [1] * NESTING_LIMIT
    for _ in range(NESTING_LIMIT - 1):
        value = wrap(value)
    assert to_json(value, "It")
    with pytest.raises(NotStorableError, match="nested too deeply, more than 500 levels"):
        to_json(wrap(value), "It")


def test_nesting_beyond_what_this_python_can_write_is_refused_likewise():
    with pytest.raises(NotStorableError, match="nested too deeply, more than 500 levels"):
        to_json(nest(100_000), "It")


@pytest.mark.parametrize(
    "value", [[[]] * 2_000, [{"a": {}}] * 2_000, "[{" * 2_000, {"[" * 2_000: "{" * 2_000}]
)
def test_many_brackets_are_no_nesting(value):
    assert json.loads(to_json(value, "It")) == value


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "C:\\u0000\\new", "\\\\\\u0000x"])
def test_text_that_only_looks_like_a_nul_escape_is_storable(text):
    assert json.loads(to_json(text, "It")) == text


def test_tuples_and_bytes_become_what_django_makes_of_them():
    assert to_json({"a": (1, b"text")}, "It") == '{"a":[1,"text"]}'


@given(st.text(st.characters(codec=None), max_size=50))
def test_printable_text_can_be_stored(text):
    assert json.loads(to_json(printable(text), "It")) == printable(text)


def has_lone_surrogate(value) -> bool:
    return any(0xD800 <= ord(character) <= 0xDFFF for character in json.dumps(value, ensure_ascii=False))


def test_a_text_that_would_break_the_connection_is_refused_with_its_length(monkeypatch):
    monkeypatch.setattr("pgonly_django.queue.values.LENGTH_LIMIT", 2000)
    assert len(to_json("x" * 1998, "The return value")) == 2000
    with pytest.raises(NotStorableError, match="2,001 characters, more than 2,000"):
        to_json("x" * 1999, "The return value")
