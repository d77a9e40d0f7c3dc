from __future__ import annotations

import asyncio
import functools
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from itertools import combinations
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db.models import TextChoices
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st

from pgonly_django.cache import cached
from tests.waiting import PATIENT

calls = []


@cached(60)
def screen(paper, model="small"):
    calls.append(paper)
    return {"include": True}


@cached(None)
def nothing():
    calls.append(1)


@cached(60, tags=["project:{project}"])
def tagged(project, question):
    calls.append(question)
    return question


@cached(60)
def answer(question):
    calls.append(question)
    return question


@cached(60)
def fails_once():
    calls.append(1)
    if len(calls) == 1:
        raise ZeroDivisionError
    return "fine"


@cached(60, tags=["tag"], stale=5, cache="memory")
def in_memory():
    return 5


class Person:
    @cached(60)
    def greeting(self, language="en"):
        return "Hi"


class Reader(User):
    class Meta:
        proxy = True
        app_label = "screening"

    @cached(60)
    def greeting(self):
        calls.append(self.pk)
        return f"Hi {self.pk}"


@pytest.fixture(autouse=True)
def answers(settings, transactional_db, request):
    calls.clear()
    settings.CACHES = {
        "default": {
            "BACKEND": "pgonly_django.cache.PostgresCache",
            "LOCATION": request.node.name[:50],
            "OPTIONS": PATIENT,
        },
        "memory": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }


def test_a_second_call_with_the_same_arguments_makes_no_call():
    assert screen("a") == screen("a", model="small") == screen(paper="a") == {"include": True}
    assert calls == ["a"]
    screen("a", model="large")
    screen("b")
    assert calls == ["a", "a", "b"]


def test_an_answer_of_none_is_an_answer():
    nothing()
    nothing()
    assert calls == [1]


def test_async_functions_stay_async():
    @cached(60, key="paper:{pmid}")
    async def screen(pmid):
        calls.append(pmid)
        return pmid * 2

    async def both():
        return await screen(4), await screen(4)

    assert asyncio.run(both()) == (8, 8)
    assert calls == [4]
    assert screen.cache_key(4) == "paper:4"


def test_tags_are_filled_in_and_delete_the_answers():
    from django.core.cache import cache

    tagged(7, "a")
    tagged(8, "a")
    cache.delete_tags("project:7")
    tagged(7, "a")
    tagged(8, "a")
    assert len(calls) == 3


def test_forget_takes_the_answer_to_these_arguments_away():
    answer("a")
    assert answer.forget("a")
    answer("a")
    assert calls == ["a", "a"]


def test_model_instances_make_a_key_and_other_objects_ask_for_one():
    assert answer.cache_key(User(pk=1)) != answer.cache_key(User(pk=2))
    with pytest.raises(TypeError, match="Give @cached a key"):
        answer(object())


def test_a_failing_call_is_not_kept():
    with pytest.raises(ZeroDivisionError):
        fails_once()
    assert fails_once() == "fine"


def test_another_backend_behind_the_alias_gets_the_timeout_only():
    assert in_memory() == in_memory() == 5


def test_without_a_timeout_it_says_what_is_missing():
    with pytest.raises(TypeError, match="needs its timeout"):

        @cached
        def answer():
            return 5


class Colour(Enum):
    RED = "red"


class Fruit(Enum):
    CHERRY = "red"


class Status(TextChoices):
    DRAFT = "draft"


NOON = datetime(2026, 1, 2, 12)
OF_ANOTHER_KIND_OR_VALUE = [
    None, True, 1, 1.0, "1", Decimal(1), b"1", "", 0, False, 10**5000,
    NOON, NOON.replace(microsecond=1), NOON.replace(microsecond=2), NOON.replace(tzinfo=UTC),
    NOON.replace(tzinfo=timezone(timedelta(hours=1))), NOON.isoformat(), NOON.date(), NOON.time(),
    time(12, 0, 0, 1), date(2026, 1, 3), timedelta(seconds=1), timedelta(microseconds=1), 1e-6,
    UUID(int=1), str(UUID(int=1)), User(pk=1), User(pk=2), Reader(pk=1),
    [], (), {}, set(), [1], (1,), {1}, [True], ["1"], [[1]], [1, 1],
    {1: "a"}, {"1": "a"}, {1: "a", "1": "b"}, {1: "b", "1": "a"}, {None: "a"}, {"None": "a"},
    ["datetime", NOON.isoformat()], ["list", []], ["Model", "auth.User", 1], {"datetime": NOON.isoformat()},
    Colour.RED, Fruit.CHERRY, "red", "<b>", mark_safe("<b>"), "\ud800",
]  # fmt: skip


def test_no_two_different_arguments_share_a_key():
    for one, other in combinations(OF_ANOTHER_KIND_OR_VALUE, 2):
        assert answer.cache_key(one) != answer.cache_key(other), (one, other)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.decimals(allow_nan=False) | st.datetimes() | st.dates() | st.times() | st.timedeltas() | st.uuids()
)  # fmt: skip
hashable = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=3
)
values = st.recursive(
    hashable,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hashable, inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_arguments_that_are_not_equal_never_share_a_key(one, other):
    if one != other:
        assert answer.cache_key(one) != answer.cache_key(other)


@pytest.mark.slow
@given(st.dictionaries(hashable, st.integers(), max_size=5), st.randoms())
def test_the_order_of_a_dict_or_a_set_makes_no_other_key(values, random):
    items = list(values.items())
    random.shuffle(items)
    assert answer.cache_key(values) == answer.cache_key(dict(items))
    assert answer.cache_key(set(values)) == answer.cache_key({key for key, _ in items})


def test_what_stands_for_the_same_makes_the_same_key():
    assert answer.cache_key(SimpleLazyObject(lambda: User(pk=1))) == answer.cache_key(User(pk=1))
    assert answer.cache_key(Status.DRAFT) == answer.cache_key("draft")


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [object(), Text("a"), User, answer, {"deep": [object()]}])
def test_a_value_that_nothing_tells_from_others_is_named_with_its_argument(value):
    with pytest.raises(TypeError, match=r"question has a value of .*Give @cached a key"):
        answer(value)


def test_an_instance_that_is_not_saved_has_no_key():
    with pytest.raises(
        TypeError, match=r"question has a auth.User without a primary key.*Give @cached a key"
    ):
        answer(User())


def test_a_list_inside_itself_has_no_key():
    endless = []
    endless.append(endless)
    with pytest.raises(TypeError, match="Give @cached a key"):
        answer(endless)


@pytest.mark.parametrize("function", [lambda: 1, functools.partial(len, "a")])
def test_a_function_without_a_name_of_its_own_needs_a_key(function):
    with pytest.raises(TypeError, match=r"no name that is its alone.*Give @cached a key"):
        cached(60)(function)
    assert cached(60, key="one")(function)() == 1


def test_a_function_inside_another_needs_a_key():
    def inside():
        return 1

    with pytest.raises(TypeError, match=r"<locals>.inside.*Give @cached a key"):
        cached(60)(inside)


def test_a_method_is_kept_by_its_instance_which_must_be_a_model():
    one, two = Reader(pk=1), Reader(pk=2)
    assert [one.greeting(), two.greeting(), one.greeting()] == ["Hi 1", "Hi 2", "Hi 1"]
    assert calls == [1, 2]
    assert Reader.greeting.forget(one)
    one.greeting()
    assert calls == [1, 2, 1]
    with pytest.raises(TypeError, match=r"self has a value of .*Person.*Give @cached a key"):
        Person().greeting()


def test_a_text_in_place_of_a_list_of_tags_is_refused():
    with pytest.raises(TypeError, match="must be a list of texts"):
        cached(60, tags="project:7")
    with pytest.raises(TypeError, match="must be a list of texts"):
        cached(60, key="key", tags=lambda: "project:7")(lambda: 1)()


@cached(60, key="foreign:{number}", cache="foreign")
async def doubled(number):
    return number * 2


@pytest.mark.parametrize("backend", ["locmem.LocMemCache", "dummy.DummyCache"])
def test_an_async_function_is_kept_by_other_backends_too(settings, backend):
    settings.CACHES = {**settings.CACHES, "foreign": {"BACKEND": f"django.core.cache.backends.{backend}"}}
    assert asyncio.run(doubled(5)) == 10
    assert asyncio.run(doubled(5)) == 10
