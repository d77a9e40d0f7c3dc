"""Every statement that a module or class of the package keeps in a constant, found by its text."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

from django.apps import apps

import pgonly_django
from pgonly_django.tables import name_of, qualified
from tests.guards import place

MODELS = list(apps.get_app_config("pgonly_django").get_models())
TABLES = {name_of(model._meta.db_table) for model in MODELS}
# All but those of the cache and the sessions.
OF_THE_QUEUE = {
    name_of(model._meta.db_table)
    for model in MODELS
    if not model.__module__.endswith((".cache_entry", ".session"))
}
STATEMENT = re.compile(
    rf"\s*(WITH|SELECT|INSERT|UPDATE|DELETE|COPY)\b.*(\b({'|'.join(TABLES)})\b|{{table}})", re.DOTALL
)
MARKS = re.compile(r"%%|%s|%\((\w+)\)s")


def sql_of(constant: Any, number: int = 0) -> str | None:
    """The text of a statement, be it a str or an object that has one; None of anything else.

    Of a tuple of them (a statement of the cache, for each of its tables) that with this number.
    """
    one = constant[number] if isinstance(constant, tuple) and number < len(constant) else constant
    text = one if isinstance(one, str) else getattr(one, "sql", None)
    return text if isinstance(text, str) and STATEMENT.match(text) else None


def found() -> dict[str, Any]:
    """By the places where they stand: "sessions.statements.LOAD". One that several modules import stands once, and what
    is a part of another one does not."""
    constants: dict[str, tuple[str, Any]] = {}
    for info in pkgutil.walk_packages(pgonly_django.__path__, "pgonly_django."):
        if ".migrations" in info.name:
            continue
        try:
            module = importlib.import_module(info.name)
        except ModuleNotFoundError as missing:
            assert not missing.name.startswith(
                "pgonly_django"
            )  # one for a package that is not installed here
            continue
        own_classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == info.name]
        for owner in (module, *own_classes):
            place = info.name if owner is module else f"{info.name}.{owner.__name__}"
            for name, constant in vars(owner).items():
                if (sql := sql_of(constant)) and not name.startswith("__"):
                    constants.setdefault(sql, (f"{place}.{name}".removeprefix("pgonly_django."), constant))
    return dict(each for sql, each in constants.items() if not any(is_part(sql, of) for of in constants))


def where(name: str) -> str:
    """Of a name of found(): "pgonly_django/sessions/statements.py: LOAD"."""
    *path, constant = name.split(".")
    while path:
        file = Path(pgonly_django.__file__).parent.joinpath(*path).with_suffix(".py")
        if file.exists():
            return f"{place(file)}: {constant}"
        constant = f"{path.pop()}.{constant}"
    return name


def where_is(sql: str, otherwise: str) -> str:
    """Of the text of a statement; `otherwise` where it is put together from several."""
    return next((where(name) for name, each in found().items() if sql_of(each) == sql), otherwise)


def shown(nodes: list[dict[str, Any]]) -> str:
    """A plan in a line: its scans, from the outside to the inside."""
    scans = [node for node in nodes if "Scan" in node["Node Type"]]
    names = [
        node.get("Index Name") or node.get("Relation Name") or node.get("CTE Name", "") for node in scans
    ]
    return "    the plan: " + ", ".join(
        f"{node['Node Type']} {name}".strip() for node, name in zip(scans, names, strict=True)
    )


def is_part(sql: str, of: str) -> bool:
    sql, of = (qualified(text.strip().replace("{table}", "pgonly_cache")) for text in (sql, of))
    return sql in of and sql != of


def positional(sql: str) -> tuple[str, list[str]]:
    """With `$1` for `%(name)s` and `%s`, each name once, in the order of its first place: and those names."""
    names: list[str] = []

    def number(mark: re.Match[str]) -> str:
        if mark.group() == "%%":
            return "%"
        name = mark.group(1) or f"p{len(names)}"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return MARKS.sub(number, sql), names
