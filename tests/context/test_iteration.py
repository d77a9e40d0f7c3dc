"""Querysets of loops: in which order they are read, and from where on."""

from __future__ import annotations

import json
from collections import UserList, deque
from itertools import product

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.models import Count, F, Window
from django.db.models.functions import Lower, Random, RowNumber
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django.context import iteration as rows_module
from pgonly_django.context.iteration import Rows, count, items_from, require_order
from pgonly_django.models import Checkpoint, Job
from pgonly_django.queue.checkpoints import Position, load_checkpoint, positions_json
from tests.queue.rows import make

pytestmark = pytest.mark.django_db
NAMES = [f"name {number}" for number in range(10)]


@pytest.fixture(autouse=True)
def chunks_of_three(monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK_ROWS", 3)


@pytest.fixture
def groups():
    """In the table's own order the first ones come last."""
    made = Group.objects.bulk_create(Group(name=name) for name in NAMES)
    for group in made[:4]:
        group.save()
    return made


def read(alias, statement):
    return statement()


def walk(queryset, at=Position()):  # noqa: B008 - never changed
    return list(items_from(queryset, at, read))


def stored(at):
    """As the next run finds it."""
    return loaded({"items": at})["items"]


def loaded(positions):
    job = make()
    Checkpoint.objects.create(job=job, positions=json.loads(positions_json(positions)))
    found = load_checkpoint("default", str(job.pk)).positions
    job.delete()
    return found


def by_key():
    return {
        "unordered": Group.objects.all(),
        "by key": Group.objects.order_by("pk"),
        "by its name": Group.objects.order_by("id"),
        "descending": Group.objects.order_by("-pk"),
        "reversed": Group.objects.order_by("pk").reverse(),
        "filtered": Group.objects.exclude(name="name 5"),
        "keys": Group.objects.values_list("pk", flat=True),
        "tuples": Group.objects.values_list("name", "id"),
        "named tuples": Group.objects.values_list("name", "pk", named=True),
        "dicts": Group.objects.values("id", "name"),
        "all fields": Group.objects.values(),
        "counted": Group.objects.annotate(users=Count("user")),
        "distinct": Group.objects.filter(name__contains="name").distinct(),
        "prefetched": Group.objects.prefetch_related("permissions"),
        "deferred": Group.objects.only("name"),
        "sliced": Group.objects.order_by("pk")[2:9],
        "sliced in a chunk": Group.objects.order_by("-pk")[1:3],
        "empty": Group.objects.none(),
    }


def by_number():
    return {
        "by name": Group.objects.order_by("name"),
        "with ties": Group.objects.order_by(F("id") % 2),
        "of the model": Permission.objects.all(),
        "values": Group.objects.values("name"),
        "distinct values": Permission.objects.order_by().values_list("content_type__model").distinct(),
        "grouped": Permission.objects.values("content_type__model").annotate(n=Count("pk")),
        "window": Group.objects.annotate(place=Window(RowNumber(), order_by="name")),
        "joined": Group.objects.filter(user__is_active=True),
        "joined values": Group.objects.values_list("name", "user__username"),
        "joined annotation": Group.objects.annotate(of=F("user__username")),
        "first of each": Permission.objects.order_by().distinct("content_type"),
        "expression": Group.objects.values_list(Lower("name"), flat=True),
        "union": Group.objects.filter(pk__lt=0).union(Group.objects.all()).order_by("name"),
        "dates": User.objects.dates("date_joined", "day"),
        "ordered slice": Group.objects.order_by("name")[:5],
    }


def join(groups):
    """Two users, both in all groups."""
    for name in ("a", "b"):
        User.objects.create(username=name).groups.set(groups)


@pytest.mark.sample(2)
@pytest.mark.parametrize(("kind", "is_by_key"), [*product(by_key(), [True]), *product(by_number(), [False])])
def test_each_row_comes_once_from_any_position_on(groups, kind, is_by_key):
    join(groups)
    queryset = (by_key() | by_number())[kind]
    assert Rows(queryset)._is_by_key is is_by_key
    whole = walk(queryset)
    items = [item for item, _ in whole]
    assert sorted(map(str, items)) == sorted(map(str, queryset))
    for number, (_, at) in enumerate(whole, 1):
        assert at.done == number
        for start in (stored(at), Position(number)):
            assert [item for item, _ in walk(queryset, start)] == items[number:]
            assert count(queryset, start) == len(items)


def test_an_order_that_was_asked_for_stays(groups):
    assert [group.name for group, _ in walk(Group.objects.order_by("-name"))] == NAMES[::-1]
    assert [pk for pk, _ in walk(Group.objects.order_by("-pk").values_list("pk", flat=True))] == [
        group.pk for group in reversed(groups)
    ]


@pytest.mark.parametrize("order", ["pk", "-pk"])
def test_rows_that_go_while_the_loop_runs_take_no_other_with_them(groups, order):
    """Three are done and gone when the next run begins, and in it each goes when it is done."""
    queryset = Group.objects.order_by(order)
    expected = list(queryset.values_list("name", flat=True))
    (*_, (_, at)) = first = walk(queryset)[:3]
    for group, _ in first:
        group.delete()
    assert count(queryset, stored(at)) == len(NAMES)
    seen = []
    for group, _ in items_from(queryset, stored(at), read):
        seen.append(group.name)
        group.delete()
    assert seen == expected[3:]


def test_a_slice_has_as_many_rows_as_without_a_kill(groups):
    queryset = Group.objects.exclude(name__startswith="done").order_by("pk")[:6]
    whole = walk(queryset)
    at = whole[1][1]
    for group, _ in whole[:2]:
        Group.objects.filter(pk=group.pk).update(name=f"done {group.pk}")
    assert [group.name for group, _ in walk(queryset, stored(at))] == NAMES[2:6]
    assert count(queryset, stored(at)) == 6


@pytest.mark.parametrize("rows", [2, 3, 10])
def test_rows_that_the_loop_adds_do_not_keep_it_running(groups, rows):
    queryset = Group.objects.filter(pk__lte=groups[rows - 1].pk) | Group.objects.filter(
        name__startswith="new"
    )
    seen = []
    for group, at in items_from(queryset, Position(), read):
        seen.append(group.name)
        Group.objects.create(name=f"new {group.pk}")
        assert [item.name for item, _ in walk(queryset, stored(at))] == NAMES[at.done : rows]
    assert seen == NAMES[:rows]


def test_only_a_chunk_is_in_memory_and_each_is_one_query(groups):
    with CaptureQueriesContext(connection) as queries:
        pairs = items_from(Group.objects.prefetch_related("permissions"), Position(), read)
        for _ in range(3):
            next(pairs)
        assert len(queries) == 3  # the rows, what they prefetch, and the last key
        list(pairs)
    assert len(queries) == 3 + 2 * 3


@pytest.mark.parametrize("model", [Job, Session, ContentType])
def test_keys_of_other_types_are_stored_and_read_back(server, model):
    if model is Job:
        for _ in range(7):
            make()
    if model is Session:
        Session.objects.bulk_create(
            Session(session_key=f"{key}é'%", session_data="", expire_date=timezone.now()) for key in "zxyabc"
        )
    whole = walk(model.objects.order_by("pk"))
    assert len(whole) == model.objects.count() > 4
    for number, (_, at) in enumerate(whole, 1):
        assert walk(model.objects.all(), stored(at)) == whole[number:]


def test_a_position_is_stored_as_a_number_unless_it_has_keys():
    at = {"items": Position(3, 17, 99), "others": Position(5)}
    text = positions_json(at)
    assert json.loads(text) == {"items": [3, 17, 99], "others": 5}
    assert loaded(at) == at


@pytest.mark.parametrize(
    ("queryset", "says"),
    [
        (lambda: Group.objects.order_by("?"), "at random"),
        (lambda: Group.objects.order_by(Random().asc()), "at random"),
        (lambda: Group.objects.all()[:5], "was sliced.*before the slice"),
        (lambda: Group.objects.filter(pk=1).union(Group.objects.all()), "is a union"),
    ],
)
def test_a_queryset_that_can_be_given_no_order_is_refused(queryset, says):
    with pytest.raises(ValueError, match=f"(?s){says}"):
        walk(queryset())


@pytest.mark.parametrize("items", [{1, 2}, frozenset("ab"), Group.objects.raw("SELECT * FROM auth_group")])
def test_what_may_come_in_another_order_is_refused(items):
    with pytest.raises(TypeError, match="resumes by position"):
        require_order(items)


@pytest.mark.parametrize(
    "items",
    [{}.keys(), {}.items(), [], iter([]), Group.objects.raw("SELECT * FROM auth_group ORDER BY id")],
)
def test_what_has_an_order_is_accepted(items):
    require_order(items)


LETTERS = "abcde"


@pytest.mark.parametrize("kind", [list, tuple, str, deque, UserList, iter, dict.fromkeys])
@pytest.mark.parametrize("start", [0, 2, 5, 9])
def test_items_of_any_kind_are_gone_through_from_a_position_on(kind, start):
    pairs = items_from(kind(LETTERS), Position(start), read=None)
    assert list(pairs) == [(letter, Position(done)) for done, letter in enumerate(LETTERS, 1) if done > start]
