"""PGONLY["BUDGETS"] and what budget() is given: what is wrong is named, with the value and the remedy."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from pgonly_django import budget
from pgonly_django.exceptions import AmountError, BudgetError
from pgonly_django.limits.budget_settings import check_budgets, exact_names


@pytest.fixture
def budgets(settings):
    def declare(entries):
        settings.PGONLY = {"BUDGETS": entries}

    return declare


def test_what_a_call_says_wins_over_the_settings_and_the_rest_is_theirs(budgets, settings):
    settings.TIME_ZONE = "Asia/Shanghai"
    budgets({"p": {"usd": 5, "per": "month"}, "q": {"usd": 1, "timezone": "Europe/Berlin"}})
    assert budget("p", 7).declaration.columns == {
        "usd": "7.000000",
        "per": "month",
        "timezone": "Asia/Shanghai",
    }
    assert budget("q", per="day").declaration.columns == {
        "usd": "1.000000",
        "per": "day",
        "timezone": "Europe/Berlin",
    }


def test_of_the_patterns_the_longest_counts_and_an_exact_name_before_them(budgets):
    budgets({"*": {"usd": 1}, "project:*": {"usd": 2}, "project:7": {"usd": 3}, "p[ao]?": {"usd": 4}})
    names = ("x", "project:8", "project:7", "pot")
    assert [budget(name).declaration.usd for name in names] == [1, 2, 3, 4]
    assert list(exact_names()) == ["project:7"]


def test_a_budget_without_a_cap_anywhere_may_have_a_row(budgets):
    budgets({"q": {"usd": 1}})
    assert budget("p").declaration is None
    with pytest.raises(BudgetError, match="has per and no cap: add usd=5"):
        budget("p", per="day")


@pytest.mark.parametrize("name", ["", "x" * 241, 7, None, "a\x00b", "half \udc80"])
def test_a_name_that_the_table_cannot_hold_is_refused(name):
    with pytest.raises(BudgetError, match="must be text of 1 to 240 characters"):
        budget(name, 1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, 'needs "usd", its cap in US dollars'),
        ({"usd": -1}, "must be an amount of US dollars.*got -1"),
        ({"usd": float("nan")}, "must be an amount of US dollars.*got nan"),
        ({"usd": 1, "pre": "day"}, r'\["pre"\] is not a setting\. Did you mean \'per\'\?'),
        ({"usd": 1, "per": "fortnight"}, '"per" must be one of hour, day, week, month, year'),
        ({"usd": 1, "timezone": "Mars/Olympus"}, '"timezone" must be the name of a time zone'),
        ({"usd": 1, "timezone": "Europe/Berln"}, "Did you mean 'Europe/Berlin'?"),
        ({"usd": 1, "timezone": 8}, 'It must be a name such as "Europe/Berlin"'),
        (5, "must be a dict such as"),
    ],
)
def test_a_wrong_entry_is_reported_by_the_check_and_when_it_is_used(budgets, entry, message):
    budgets({"p": entry})
    (found,) = check_budgets()
    assert found.id == "pgonly_django.E005"
    assert found.msg.startswith('PGONLY["BUDGETS"]')
    with pytest.raises(ImproperlyConfigured, match=message):
        budget("p")


def test_a_wrong_argument_names_the_call():
    with pytest.raises(AmountError, match=r"budget\('p'\): \"usd\" must be an amount"):
        budget("p", "much")
    with pytest.raises(BudgetError, match=r"budget\('p'\): \"per\" must be one of"):
        budget("p", 1, per="fortnight")
