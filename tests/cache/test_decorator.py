from __future__ import annotations

import asyncio

import pytest
from django.contrib.auth.models import User

from pgonly_django.cache import cached


@pytest.fixture(autouse=True)
def answers(settings, transactional_db, request):
    settings.CACHES = {
        "default": {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": request.node.name[:50]},
        "memory": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }


def test_a_second_call_with_the_same_arguments_makes_no_call():
    calls = []

    @cached(60)
    def screen(paper, model="small"):
        calls.append(paper)
        return {"include": True}

    assert screen("a") == screen("a", model="small") == screen(paper="a") == {"include": True}
    assert calls == ["a"]
    screen("a", model="large")
    screen("b")
    assert calls == ["a", "a", "b"]


def test_an_answer_of_none_is_an_answer():
    calls = []

    @cached(None)
    def nothing():
        calls.append(1)

    nothing()
    nothing()
    assert calls == [1]


def test_async_functions_stay_async():
    calls = []

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

    calls = []

    @cached(60, tags=["project:{project}"])
    def answer(project, question):
        calls.append(question)
        return question

    answer(7, "a")
    answer(8, "a")
    cache.delete_tags("project:7")
    answer(7, "a")
    answer(8, "a")
    assert len(calls) == 3


def test_forget_takes_the_answer_to_these_arguments_away():
    calls = []

    @cached(60)
    def answer(question):
        calls.append(question)
        return question

    answer("a")
    assert answer.forget("a")
    answer("a")
    assert calls == ["a", "a"]


def test_model_instances_make_a_key_and_other_objects_ask_for_one():
    @cached(60)
    def answer(thing):
        return 1

    assert answer.cache_key(User(pk=1)) != answer.cache_key(User(pk=2))
    with pytest.raises(TypeError, match="Give @cached a key"):
        answer(object())


def test_a_failing_call_is_not_kept():
    calls = []

    @cached(60)
    def answer():
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return "fine"

    with pytest.raises(ZeroDivisionError):
        answer()
    assert answer() == "fine"


def test_another_backend_behind_the_alias_gets_the_timeout_only():
    @cached(60, tags=["tag"], stale=5, cache="memory")
    def answer():
        return 5

    assert answer() == answer() == 5


def test_without_a_timeout_it_says_what_is_missing():
    with pytest.raises(TypeError, match="needs its timeout"):

        @cached
        def answer():
            return 5
