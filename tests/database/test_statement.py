"""What a statement's parameters become on the server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from pgonly_django.database.connect import connect
from pgonly_django.database.libpq import execute, prepare
from pgonly_django.database.statement import Statement
from pgonly_django.models.job import State

NOW = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
ARRAYS = {
    "text[]": ["a", "", 'b "\\,{}', None, "NULL", b"as bytes", "é\u4e2d", State.READY],
    "bytea[]": [b"\0\xff", None, b""],
    "int2[]": [-(2**15), None, 2**15 - 1],
    "int[]": [-(2**31), None, 2**31 - 1],
    "int4[]": [0, None],
    "int8[]": [-(2**63), None, 2**63 - 1],
    "float8[]": [0.1, None, float("inf"), -1e300],
    "bool[]": [True, None, False],
    "uuid[]": [uuid4(), None],
    "timestamptz[]": [NOW, None, datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)],
}
VALUES = {
    "text": "é 'quoted' \\",
    "bytea": b"\0\xff\\",
    "int2": -7,
    "int": 2**31 - 1,
    "int8": -(2**63),
    "float8": 0.1,
    "bool": True,
    "uuid": uuid4(),
    "timestamptz": NOW,
    "interval": timedelta(hours=5, microseconds=1),
    "interval(6)": timedelta(microseconds=1),
    "jsonb": '{"a": [1]}',
}


@pytest.fixture
def raw(db):
    with connect("default", application_name="pgonly tests") as connection:
        yield connection


def asked(raw, statement, **params):
    """The one field of the one row, in text."""
    prepare(raw, statement)
    return execute(raw, statement, params).get_value(0, 0)


@pytest.mark.parametrize("kind", [*ARRAYS, *VALUES])
def test_a_value_arrives_as_psycopg_sends_it(raw, kind):
    value = ARRAYS.get(kind, VALUES.get(kind))
    as_text = (
        [item.decode() if isinstance(item, bytes) else item for item in value] if kind == "text[]" else value
    )
    statement = Statement(f"SELECT (%(value)s::{kind})::text")
    (expected,) = raw.execute(statement.sql, {"value": as_text}).fetchone()
    assert asked(raw, statement, value=value).decode() == expected


@pytest.mark.parametrize("kind", [*ARRAYS, *VALUES])
def test_none_is_null_and_an_empty_list_an_empty_array(raw, kind):
    statement = Statement(f"SELECT (%(value)s::{kind})::text")
    assert asked(raw, statement, value=None) is None
    if kind in ARRAYS:
        assert execute(raw, statement, {"value": []}).get_value(0, 0) == b"{}"


def test_without_a_cast_the_place_says_the_type(raw):
    raw.execute("CREATE TEMPORARY TABLE kinds (a bytea, b interval, c int[], d text)")
    insert = Statement(
        "INSERT INTO kinds VALUES (%(a)s, %(b)s, ARRAY[%(c)s, 2], %(d)s) RETURNING to_jsonb(kinds)::text"
    )
    row = asked(raw, insert, a=b"\0'", b=timedelta(seconds=90), c=1, d=State.READY)
    assert row == rb'{"a": "\\x0027", "b": "00:01:30", "c": [1, 2], "d": "ready"}'


def test_parameters_are_numbered_as_they_appear_or_as_they_are_named():
    sql = "SELECT %(b)s::int, %(a)s::text, %(b)s::int, '%%(a)s'"
    assert Statement(sql).positional == b"SELECT $1::int, $2::text, $1::int, '%(a)s'"
    named = Statement(sql, "a b")
    assert named.positional == b"SELECT $2::int, $1::text, $2::int, '%(a)s'"
    assert named.values({"a": "x", "b": 5}) == [b"x", b"5"]


def test_a_cast_anywhere_in_the_text_is_the_type_everywhere(raw):
    assert asked(raw, Statement("SELECT pg_typeof(%(a)s)::text || (%(a)s::text = 'x')"), a="x") == b"texttrue"


def test_an_array_that_cannot_be_encoded_is_refused_when_the_statement_is_made():
    with pytest.raises(TypeError, match=r"cannot be encoded as smallint\[\]. Known: .*int2\[\]"):
        Statement("SELECT %(a)s::smallint[]")


def test_a_fraction_is_refused_where_an_integer_belongs(raw):
    with pytest.raises(psycopg.DataError, match=r"invalid input syntax for type integer: \"1\.5\""):
        asked(raw, Statement("SELECT %(a)s::int"), a=1.5)


def test_the_same_text_has_the_same_name_and_another_one_another():
    one, same, other = (Statement(f"SELECT %(a)s::{kind}") for kind in ("text", "text", "bytea"))
    assert one.name == same.name != other.name


@pytest.mark.parametrize("cast", ["", "::text", "::jsonb"])
def test_text_that_postgresql_cannot_hold_is_refused_before_it_is_sent(cast):
    with pytest.raises(psycopg.DataError, match="NUL"):
        Statement(f"SELECT %(a)s{cast}").values({"a": "x\0"})
    with pytest.raises(psycopg.DataError, match="NUL"):
        Statement("SELECT %(a)s::text[]").values({"a": ["x\0"]})
