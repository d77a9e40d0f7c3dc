"""Every value comes back as Django's own engines give it back."""

from __future__ import annotations

import datetime as dt
import json
import math

import pytest
from django.contrib.sessions.serializers import JSONSerializer
from django.utils.module_loading import import_string
from hypothesis import given, settings
from hypothesis import strategies as st

from pgonly_django.models import Session
from pgonly_django.sessions.codec import SessionCodec
from tests.interruptions import AbortError, Interrupted, aborted_once
from tests.sessions.rows import PICKLE, again, stored

pytestmark = pytest.mark.django_db


def through_the_database(values: dict) -> dict:
    return dict(again(stored(values)).items())


ODD_VALUES = {
    "nul": "a\x00b",
    "surrogate": "\ud800",
    "infinite": float("inf"),
    "large_float": 1e16,
    "negative_zero": -0.0,
    "huge_integer": 10**400,
    "order": {"zz": 1, "a": 2, "m": [{"y": 1, "b": 2}]},
    "empty": {},
    "deep": [[[[[[[[[[["down"]]]]]]]]]]],
    "with\x00nul": 1,
    "\x01escaped": 2,
    "": "empty key",
    "ключ": "значение",
}


@pytest.mark.parametrize("key", ODD_VALUES)
def test_an_odd_value_comes_back_as_it_went(key):
    assert repr(through_the_database({key: ODD_VALUES[key], "plain": 1})[key]) == repr(ODD_VALUES[key])


def test_nan_comes_back():
    assert math.isnan(through_the_database({"nan": float("nan")})["nan"])


def test_keys_that_json_turns_into_text_are_turned_into_text():
    values = {7: "int", None: "none", True: "bool", 1.5: "float"}
    assert through_the_database(values) == JSONSerializer().loads(JSONSerializer().dumps(values))


def test_what_is_not_json_fails_at_save_and_writes_nothing():
    with pytest.raises(TypeError):
        stored(when=dt.datetime(2026, 1, 1))
    assert not Session.objects.exists()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(values=st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_value_comes_back_as_it_went(values):
    assert through_the_database(values) == json.loads(json.dumps(values))


def test_a_pickled_session_comes_back(settings):
    settings.SESSION_SERIALIZER = PICKLE
    values = {"when": dt.datetime(2026, 1, 1), (1, "a"): {2}, "kept": 1}
    assert through_the_database(values) == values


def test_a_pickled_value_that_did_not_change_is_not_written(settings, django_assert_num_queries):
    settings.SESSION_SERIALIZER = PICKLE
    session = stored(when=dt.datetime(2026, 1, 1))
    with django_assert_num_queries(1):
        again(session).save()


def test_a_new_serializer_still_reads_what_json_wrote(settings):
    session = stored(a=[1])
    settings.SESSION_SERIALIZER = PICKLE
    assert again(session)["a"] == [1]


def test_a_forged_value_is_logged_and_left_out(settings, caplog):
    settings.SESSION_SERIALIZER = PICKLE
    session = stored(good=1)
    data = Session.objects.get().data
    Session.objects.update(data={**data, "forged": {"encoded": "gASVBQAAAAAA:1abcde:forged"}})
    assert dict(again(session).items()) == {"good": 1}
    assert "Session data corrupted" in caplog.text


def test_what_a_signal_handler_raises_while_a_value_is_loaded_is_raised_and_no_value_is_left_out(settings):
    settings.SESSION_SERIALIZER = PICKLE
    session = stored(interrupted=Interrupted(), other=1)
    with aborted_once(), pytest.raises(AbortError):
        again(session).get("other")
    assert dict(again(session).items()) == {"interrupted": Interrupted(), "other": 1}


def test_what_a_signal_handler_raises_while_a_value_is_brought_over_is_raised():
    codec = SessionCodec(import_string(PICKLE), "salt")
    session = {"interrupted": Interrupted(to_be_pickled=True), "refused": lambda: None}
    with aborted_once(), pytest.raises(AbortError):
        codec.encode_what_can_be(session)
    entries, refused = codec.encode_what_can_be(session)
    assert (list(entries), refused) == (["interrupted"], ["refused"])
