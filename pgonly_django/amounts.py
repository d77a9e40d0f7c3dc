"""Amounts of money: US dollars as Decimal with six decimals, as the columns numeric(18,6) have them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_UP, Decimal, InvalidOperation
from typing import Any, Generic, TypeVar

from pgonly_django.exceptions import AmountError, WrongArgumentsError

T = TypeVar("T")

Amount = Decimal | int | float | str
UNIT = Decimal("0.000001")
LIMIT = Decimal(10) ** 12
TOKENS_LIMIT = 2**63 - 1
MODEL_LENGTH = 255


def usd(value: Any, what: str) -> Decimal:
    """Returns `value` as it is stored, rounded up to a millionth. A float counts as what Python prints of it: 0.1 is
    0.1. Raises AmountError for anything else: negative, NaN, infinite, not a number, or a trillion and more."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int | float | str):
        raise AmountError(what, value)
    try:
        exact = value if isinstance(value, Decimal) else Decimal(str(value).strip())
        if not (exact.is_finite() and 0 <= exact < LIMIT - 1):
            raise AmountError(what, value)
        return abs(exact).quantize(UNIT, ROUND_UP)
    except (InvalidOperation, ValueError) as error:
        raise AmountError(what, value) from error


def shown(amount: Decimal) -> str:
    """Formats an amount for people, with at least cents and without further zeros: "$0.50", "$0.000123"."""
    text = f"{amount:,.6f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals:0<2}"


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a call: US dollars, and of a language model the tokens and the name, of which the first 255 printable
    characters are kept. Raises AmountError and WrongArgumentsError."""

    usd: Decimal = Decimal(0)
    tokens_in: int | None = None
    tokens_out: int | None = None
    model: str | None = None

    def __init__(
        self,
        usd: Amount = 0,
        tokens_in: int | None = None,
        tokens_out: int | None = None,
        model: str | None = None,
    ) -> None:
        object.__setattr__(self, "usd", _usd(usd, "A cost"))
        object.__setattr__(self, "tokens_in", _tokens(tokens_in, "tokens_in"))
        object.__setattr__(self, "tokens_out", _tokens(tokens_out, "tokens_out"))
        object.__setattr__(self, "model", _model(model))

    @classmethod
    def of(cls, value: Any) -> Cost:
        """Returns a Cost unchanged, and an amount as a Cost without tokens."""
        return value if isinstance(value, Cost) else cls(value)


@dataclass(frozen=True, slots=True)
class Costed(Generic[T]):
    """The result of a step's function together with its cost: `return Costed(answer.text, Cost(0.02))`. The step stores
    `result`, and `cost` beside it."""

    result: T
    cost: Cost | Amount


_usd = usd  # Cost has a field of that name


def _tokens(value: Any, name: str) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_LIMIT
    if value is not None and not is_count:
        raise WrongArgumentsError("Cost", f"{name} must be a whole number of at least 0, got {value!r}")
    return None if value is None else int(value)


def _model(value: Any) -> str | None:
    """Returns the name as the column can hold it: it may come from a provider's answer, which is paid for."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise WrongArgumentsError("Cost", f"model must be a str, got {value!r}")
    text = str.__str__(value)  # str() of an enum's member is the name of the member
    return "".join(filter(str.isprintable, text))[:MODEL_LENGTH]
