"""Money is a Decimal with six decimals, whatever it was given as."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from fractions import Fraction

import pytest

from pgonly_django.amounts import Cost, Costed, shown, usd
from pgonly_django.exceptions import AmountError, WrongArgumentsError


@pytest.mark.parametrize(
    ("given", "amount"),
    [
        (0.1, "0.100000"),
        (0.1 + 0.2, "0.300001"),  # 0.30000000000000004: a part of a millionth counts as a whole one
        (1e-9, "0.000001"),
        (5, "5.000000"),
        ("0.02", "0.020000"),
        (Decimal("1e3"), "1000.000000"),
        (-0.0, "0.000000"),
        (999_999_999_998, "999999999998.000000"),
    ],
)
def test_an_amount_is_rounded_up_to_a_millionth(given, amount):
    assert str(usd(given, "It")) == amount


@pytest.mark.parametrize(
    "wrong",
    [
        -1,
        -1e-9,
        float("nan"),
        float("inf"),
        Decimal("sNaN"),
        True,
        None,
        "",
        "5 $",
        [],
        1e12,
        Fraction(1, 3),
        10**5000,
    ],
    ids=lambda wrong: str(type(wrong)),
)
def test_what_is_no_amount_is_named_with_its_value(wrong):
    with pytest.raises(AmountError, match=r"^It must be an amount of US dollars") as caught:
        usd(wrong, "It")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("amount", "text"), [("5", "$5.00"), ("0.5", "$0.50"), ("0.000123", "$0.000123"), ("1234.5", "$1,234.50")]
)
def test_an_amount_is_shown_with_cents_and_no_further_zeros(amount, text):
    assert shown(usd(amount, "It")) == text


def test_a_cost_has_money_and_tokens():
    assert Cost(0.1, 5, 7) == Cost("0.1", tokens_in=5, tokens_out=7)
    assert Cost.of(0.1) == Cost(0.1)
    assert Cost.of(Cost(1)) == Cost(1)
    assert Costed("answer", 0.1).result == "answer"


class Model(str, Enum):  # noqa: UP042 - as a project may have it
    LARGE = "large"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("DeepSeek V3 深度", "DeepSeek V3 深度"),
        ("large\r\n", "large"),
        ("nul\0 and half\ud800", "nul and half"),
        ("\0" + "x" * 256, "x" * 255),
        (Model.LARGE, "large"),
        (None, None),
    ],
    ids=ascii,
)
def test_a_cost_keeps_of_a_model_what_the_column_can_hold(given, kept):
    model = Cost(1, model=given).model
    assert (model, type(model)) == (kept, type(kept))


@pytest.mark.parametrize("wrong", [7, b"large"])
def test_the_model_of_a_cost_is_a_str(wrong):
    with pytest.raises(WrongArgumentsError, match="model must be a str"):
        Cost(1, model=wrong)


@pytest.mark.parametrize("wrong", [-1, 1.5, "7", True, 2**63])
def test_tokens_are_whole_numbers(wrong):
    with pytest.raises(WrongArgumentsError, match="tokens_in must be a whole number"):
        Cost(1, tokens_in=wrong)
