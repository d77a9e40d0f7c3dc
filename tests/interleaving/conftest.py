from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pgonly_django.database.statement import Statement
from tests.interleaving.scenes import Scene
from tests.interleaving.sessions import Order, Session

Explore = Callable[..., int]


class WrongOrderError(AssertionError):
    """What has to be true is not, after this order."""


@pytest.fixture
def explore(server: Any, other: Any) -> Iterator[Explore]:
    """explore(make_scene, "ask", "send") runs these scripts of a scene in every order, and returns how many there are.
    Those named in `lead` take these steps first. Raises WrongOrderError."""
    sessions = [Session(f"session {number}", other) for number in range(4)]

    def explore(make_scene: Callable[[Any], Scene], *names: str, lead: Sequence[str] = ()) -> int:
        choices: list[int] | None = []
        count = 0
        while choices is not None:
            order = one_order(sessions, make_scene(server), names, lead, choices)
            choices, count = order.next_choices, count + 1
        return count

    yield explore
    for session in sessions:
        session.close()


def one_order(
    sessions: Sequence[Session], scene: Scene, names: Sequence[str], lead: Sequence[str], choices: list[int]
) -> Order:
    order = scene.order = Order(sessions, {name: getattr(scene, name) for name in names}, choices)
    order.run(lead)
    wrongs = [f"{name}: {error!r}" for name, error in order.errors] or list(scene.wrongs())
    if wrongs:
        raise WrongOrderError("\n".join([*wrongs, "after:", str(order)]))
    return order


def cases(by_name: dict[str, Any], *slow: str) -> list[Any]:
    """The parameter sets of these cases."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in by_name]


def change(module: Any, name: str, part: str, instead: str = "") -> Callable[[], tuple[Any, str, Any]]:
    """For monkeypatch.setattr(), in the test: the statement of this name, with `part` replaced."""

    def changed() -> tuple[Any, str, Any]:
        whole = getattr(module, name)
        text = getattr(whole, "sql", whole)
        assert part in text, f"{name} has no {part!r} any more: which part is its check now?"
        new = text.replace(part, instead)
        return module, name, Statement(new) if isinstance(whole, Statement) else new

    return changed
