"""What counts as the same, without a database."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from django.contrib.auth.models import User
from django.db import connection, models
from django.test.utils import isolate_apps

from pgonly_django.testing.resumable.choices import Choices
from pgonly_django.testing.resumable.comparison import Comparison, calls_differ
from pgonly_django.testing.resumable.rows import Reference, _comparable, _table, normal, rows_of
from tests.testing import resumable_jobs as jobs

PREPARED = {"shop.Order": {"1": {"name": "old", "paid": None}}, "shop.Line": {}}
BEFORE = Comparison(PREPARED, frozenset(), frozenset())


def order(name, paid=None):
    return {"name": name, "paid": paid}


def line(key, amount="1"):
    return {"order": Reference("shop.Order", key), "amount": amount}


def left(orders, lines=None):
    return {"shop.Order": {"1": order("old"), **orders}, "shop.Line": lines or {}}


def test_the_keys_of_new_rows_and_their_order_do_not_count():
    one = left({"2": order("a"), "3": order("b")}, {"1": line("2"), "2": line("3", "2"), "3": line("1")})
    two = left({"7": order("b"), "8": order("a")}, {"4": line("1"), "5": line("7", "2"), "6": line("8")})
    assert BEFORE.differences(one, two) == []


def test_a_reference_to_another_row_counts_though_the_keys_are_the_same():
    one = left({"2": order("a"), "3": order("b")}, {"1": line("2")})
    two = left({"2": order("b"), "3": order("a")}, {"1": line("2")})
    (said,) = BEFORE.differences(one, two)
    assert said.startswith(
        "shop.Line: other values in new rows. Too many: {'order': {'name': 'b'}, 'amount': '1'}."
    )


def test_a_reference_to_another_prepared_row_counts():
    prepared = {"shop.Order": {"1": order("same"), "2": order("same")}, "shop.Line": {}}
    comparison = Comparison(prepared, frozenset(), frozenset())
    rows = [{"shop.Order": prepared["shop.Order"], "shop.Line": {"1": line(key)}} for key in "12"]
    (said,) = comparison.differences(*rows)
    assert "'order': 'shop.Order 2'" in said


def test_rows_of_a_cycle_are_compared():
    def two_of(first, second):
        return {"shop.Node": {first: {"next": Reference("shop.Node", second)}, second: {"next": None}}}

    looped = {"shop.Node": {"1": {"next": Reference("shop.Node", "1")}}}
    comparison = Comparison({"shop.Node": {}}, frozenset(), frozenset())
    assert comparison.differences(two_of("1", "2"), two_of("5", "6")) == []
    assert comparison.differences(looped, looped) == []


def test_a_prepared_row_that_was_deleted_or_kept_is_said_by_its_key():
    kept, deleted = left({}), {"shop.Order": {}, "shop.Line": {}}
    assert BEFORE.differences(kept, deleted) == ["shop.Order 1 was deleted."]
    assert BEFORE.differences(deleted, kept) == ["shop.Order 1 was kept."]


def test_an_unsteady_field_still_counts_as_empty_or_not():
    one, two = left({"2": order("a", "10:01")}), left({"2": order("a", "10:02")})
    unsteady = BEFORE.unsteady_fields(one, two)
    assert unsteady == {("shop.Order", "paid")}
    comparison = replace(BEFORE, unsteady=unsteady)
    assert comparison.differences(one, two) == []
    assert len(comparison.differences(one, left({"2": order("a")}))) == 1


def test_ignored_models_and_fields_do_not_count():
    one, two = (
        left({"2": order("a")}, {"1": line("2")}),
        left({"2": order("b")}, {"1": line("2"), "2": line("2")}),
    )
    comparison = Comparison(PREPARED, frozenset({"shop.Line"}), frozenset({("shop.Order", "name")}))
    assert comparison.differences(one, two) == []


def test_only_a_few_of_many_rows_are_shown():
    (said,) = BEFORE.differences(left({}), left({str(key): order(f"n{key}") for key in range(2, 12)}))
    assert said.startswith("shop.Order: 10 new rows instead of 0. Too many: ")
    assert said.endswith(" and 7 more.")


def test_a_call_may_be_repeated_once_where_it_was_under_way():
    once, twice = Counter({"a": 1}), Counter({"a": 2})
    assert calls_differ(once, twice, Counter({"a": 1})) == []
    assert calls_differ(once, Counter({"a": 3}), Counter({"a": 1})) == [
        "a was called 3 times instead of once: it was paid twice."
    ]


def test_floats_are_compared_to_twelve_digits_also_within_json():
    total, other = 0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1
    assert total != other
    assert normal({"a": [total, None]}) == normal({"a": [other, None]})
    number, document = models.FloatField(), models.JSONField()
    assert _comparable(number, repr(total)) == _comparable(number, repr(other))
    assert _comparable(document, f'{{"b": 1, "a": {total}}}') == _comparable(
        document, f'{{"a": {other}, "b": 1}}'
    )
    assert _comparable(number, "NaN") == "nan"


def test_what_a_field_stores_otherwise_is_compared_as_text():
    assert [_comparable(each, "encrypted") for each in (models.FloatField(), models.JSONField())] == [
        "encrypted"
    ] * 2


@isolate_apps("tests")
def test_a_primary_key_of_two_columns_is_read(db):
    class Place(models.Model):
        pk = models.CompositePrimaryKey("row", "column")
        row = models.IntegerField()
        column = models.IntegerField()
        note = models.TextField()

        class Meta:
            app_label, db_table = "tests", "places"

    with connection.cursor() as cursor:
        cursor.execute('CREATE TEMP TABLE places ("row" int, "column" int, note text)')
        cursor.execute("INSERT INTO places VALUES (1, 2, 'here')")
    assert rows_of("default", [_table("default", Place)]) == [
        {"{1,2}": {"row": "1", "column": "2", "note": "here"}}
    ]


def test_of_many_places_as_many_as_wanted_are_chosen_evenly(transactional_db):
    choices = Choices.of(jobs.resumes, (), {}, None, None, [User], [], (), 4)
    assert choices.kills(3) == [1, 2, 3]
    assert choices.kills(10) == [1, 4, 7, 10]
    assert replace(choices, max_kills=1).kills(10) == [1]
    assert replace(choices, kill_at=[2, 5]).kills(10) == [2, 5]


def test_paid_takes_functions_of_modules_and_methods_of_classes(transactional_db):
    choices = Choices.of(
        jobs.resumes, (), {}, None, None, [], [jobs.pay, "django.contrib.auth.models.User.save"], (), 1
    )
    assert choices.paid == {
        "tests.testing.resumable_jobs.pay()": (jobs, "pay"),
        "django.contrib.auth.models.User.save()": (User, "save"),
    }
