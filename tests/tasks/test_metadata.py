from __future__ import annotations

import copy
from datetime import timedelta

import pytest
from django.db import transaction

from pgonly_django import enqueue_many
from pgonly_django.exceptions import NotStorableError, OptionError
from pgonly_django.models import Job
from tests.tasks.calls import add

pytestmark = pytest.mark.django_db
ACME = {"tenant": "acme", "tags": ["a", {"b": None}], "n": 1}


def stored(result):
    return Job.objects.get(pk=result.id).metadata


def test_a_job_carries_its_metadata_and_its_result_shows_it():
    result = add.using(metadata=ACME).enqueue(1)
    assert stored(result) == ACME == dict(result.metadata) == dict(add.get_result(result.id).metadata)


def test_a_job_without_metadata_has_none_in_its_row_and_an_empty_mapping_to_read():
    result = add.enqueue(1)
    assert stored(result) is None
    assert dict(result.metadata) == {}


@pytest.mark.parametrize("nothing", [None, {}])
def test_nothing_takes_earlier_metadata_away(nothing):
    assert stored(add.using(metadata=ACME).using(metadata=nothing).enqueue(1)) is None


def test_another_using_keeps_it_and_another_metadata_replaces_it():
    chosen = add.using(metadata=ACME)
    assert stored(chosen.using(priority=5, max_attempts=1).enqueue(1)) == ACME
    assert stored(chosen.using(metadata={"b": 1}).enqueue(1)) == {"b": 1}


def test_what_becomes_of_the_dict_later_changes_no_job():
    metadata = {"tenant": "acme", "tags": ["a"]}
    chosen = add.using(metadata=metadata)
    metadata["tenant"] = "other"
    metadata["tags"].append("b")
    first = chosen.enqueue(1)
    assert stored(first) == {"tenant": "acme", "tags": ["a"]}


def test_what_a_result_shows_cannot_be_changed():
    result = add.using(metadata=ACME).enqueue(1)
    with pytest.raises(TypeError):
        result.metadata["tenant"] = "other"


def test_the_metadata_of_a_task_is_part_of_it():
    chosen = add.using(metadata=ACME)
    assert chosen != add
    assert hash(chosen) == hash(add.using(metadata=ACME))
    assert stored(copy.copy(chosen).enqueue(1)) == ACME


@pytest.mark.parametrize(
    ("metadata", "error", "says"),
    [
        ([("a", 1)], OptionError, "metadata must be a dict, or None, got"),
        ({None: "a"}, OptionError, "the keys of metadata must be text, got None"),
        ({"a": float("nan")}, NotStorableError, "cannot be stored as JSON"),
        ({"nul \0": 1}, NotStorableError, "NUL"),
        ({"a": "x" * 8192}, NotStorableError, r"8,200 bytes, more than 8,192"),
        ({"a": "é" * 4096}, NotStorableError, r"8,200 bytes, more than 8,192"),
        ({"a": "x" * 10_000_000}, NotStorableError, "10,000,008 bytes"),
    ],
)
def test_what_cannot_be_metadata_is_said_before_anything_is_written(metadata, error, says):
    with transaction.atomic():
        with pytest.raises(error, match=says) as caught:
            add.using(metadata=metadata)
        with pytest.raises(error, match=says):
            enqueue_many([(add, [1], {}, None), (add, [2], {}, metadata)])
        assert len(str(caught.value)) < 400
        assert not Job.objects.exists()


def test_eight_kilobytes_fit():
    metadata = {"a": "x" * (8192 - len('{"a":""}'))}
    assert stored(add.using(metadata=metadata).enqueue(1)) == metadata


def test_calls_that_are_written_together_have_their_own_or_that_of_their_task():
    results = enqueue_many(
        [
            (add.using(metadata=ACME), [1]),
            (add, [2], {}, {"tab\t": "\\N \n"}),
            (add, [3]),
            (add.using(metadata=ACME), [4], {}, {"own": True}),
            (add.using(metadata=ACME), [5], {"b": 2}, None),
        ]
    )
    wanted = [ACME, {"tab\t": "\\N \n"}, None, {"own": True}, ACME]
    assert [stored(result) for result in results] == wanted
    assert [dict(result.metadata) for result in results] == [each or {} for each in wanted]


def test_it_stands_beside_the_columns_of_a_limited_job():
    limited = add.using(concurrency_key="k", slots=2, metadata=ACME)
    jobs = [limited.enqueue(1), *enqueue_many([(limited, [2]), (add.using(slots=2), [3])])]
    assert [stored(job) for job in jobs] == [ACME, ACME, None]
    assert list(Job.objects.values_list("slots", flat=True)) == [2, 2, 2]


@pytest.mark.parametrize("debounce", [None, timedelta(minutes=1)])
def test_a_unique_job_keeps_the_metadata_of_the_call_that_made_it(debounce):
    unique = add.using(unique=["b"], debounce=debounce)
    first = unique.using(metadata={"call": 1}).enqueue(1)
    second = unique.using(metadata={"call": 2}).enqueue(2)
    (third,) = enqueue_many([(unique, [3], {}, {"call": 3})])
    assert {first.id} == {second.id, third.id}
    assert stored(first) == {"call": 1}
    assert Job.objects.get().args == [3 if debounce else 1]


def test_of_unique_calls_that_are_written_together_the_first_one_counts():
    enqueue_many([(add.using(unique=True), [1], {}, {"call": number}) for number in range(3)])
    assert Job.objects.get().metadata == {"call": 0}
