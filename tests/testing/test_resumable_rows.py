"""What counts as the same, without a job."""

from __future__ import annotations

from dataclasses import replace

from django.db import models
from django.test.utils import isolate_apps

from pgonly_django.testing.resumable_rows import Comparison, Tables, rounded
from tests.sql import sql

PREPARED = {"shop.Order": {"1": {"name": "old", "paid": None}}, "shop.Line": {}}
BEFORE = Comparison(PREPARED)


def order(name, paid=None):
    return {"name": name, "paid": paid}


def line(key, amount=1):
    return {"order": key, "amount": amount}


def left(orders, lines=None):
    return {"shop.Order": {"1": order("old"), **orders}, "shop.Line": lines or {}}


def test_the_keys_of_new_rows_and_their_order_do_not_count():
    one = left({"2": order("a"), "3": order("b")}, {"1": line("a new"), "2": line("a new", 2)})
    two = left({"7": order("b"), "8": order("a")}, {"4": line("a new", 2), "5": line("a new")})
    assert BEFORE.differences(one, two) == []


def test_a_reference_to_another_prepared_row_counts():
    one, two = (left({}, {"1": line(which)}) for which in ("shop.Order 1", "shop.Order 2"))
    (said,) = BEFORE.differences(one, two)
    assert said.startswith("shop.Line: other values in new rows. Too many: {'order': 'shop.Order 2'")


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


def test_only_a_few_of_many_rows_are_shown():
    (said,) = BEFORE.differences(left({}), left({str(key): order(f"n{key}") for key in range(2, 12)}))
    assert said.startswith("shop.Order: 10 new rows instead of 0. Too many: ")
    assert said.endswith(" and 7 more.")


def test_floats_are_compared_to_twelve_digits():
    total, other = 0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1
    assert total != other
    assert rounded({"a": [total, None]}) == rounded({"a": [other, None]})


@isolate_apps("tests")
def test_a_table_is_read_with_a_key_of_two_columns_floats_and_json(db, monkeypatch):
    class Place(models.Model):
        pk = models.CompositePrimaryKey("row", "column")
        row = models.IntegerField()
        column = models.IntegerField()
        sizes = models.JSONField()
        hidden = models.TextField()

        class Meta:
            app_label, db_table = "tests", "places"

    sql('CREATE TEMP TABLE places ("row" int, "column" int, sizes jsonb, hidden text)')
    sql("INSERT INTO places VALUES (1, 2, '{\"a\": 0.30000000000000004}', 'x')")
    tables = Tables([], frozenset())
    tables._add("default", Place, {"tests.Place.hidden"})
    assert tables.read() == {"tests.Place": {"1,2": {"row": 1, "column": 2, "sizes": {"a": 0.3}}}}
