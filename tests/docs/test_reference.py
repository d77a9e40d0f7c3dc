"""The generated pages of docs/reference/ say what the code says, and the code says something."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from dataclasses import fields
from datetime import timedelta
from difflib import ndiff
from pathlib import Path

from django.apps import apps

from docs.generate import api
from docs.generate.checks import described
from docs.generate.columns import WORDS
from docs.generate.markdown import comments, default_of
from docs.generate.pages import REFERENCE, pages
from docs.generate.settings import INNER
from docs.generate.tasks import explained
from pgonly_django import Backoff, task
from pgonly_django.cache.options import Options
from pgonly_django.conf import Settings
from pgonly_django.limits import budget_settings, declarations
from pgonly_django.queue import declared_queues
from pgonly_django.scheduling import settings as schedules
from pgonly_django.tasks import PostgresTask
from pgonly_django.tasks.options import OF_ONE_CALL, OPTION_NAMES, TaskOptions
from tests.docs.pages import PAGES as ALL_PAGES
from tests.docs.pages import ROOT
from tests.guards import place, refuse

PAGES = pages()
ID = re.compile(r"pgonly_django\.([EWI]\d{3})")


def changes_of(name: str) -> list[str]:
    """The first lines in which the page differs from the code."""
    lines = ndiff((REFERENCE / name).read_text().splitlines(), PAGES[name].splitlines())
    return [f"docs/reference/{name}: {line}" for line in lines if line.startswith(("-", "+"))][:4]


def test_the_pages_are_what_the_code_says():
    out_of_date = [name for name, text in PAGES.items() if (REFERENCE / name).read_text() != text]
    refuse(
        [line for name in out_of_date for line in changes_of(name)],
        "These pages are out of date (- what they say, + what the code says). Run `python -m docs.generate`, and "
        "commit what it changes. Edit the code's comments and docstrings, not the pages.",
    )


def test_each_setting_and_option_says_what_it_is_for():
    refuse(
        [
            f"{place(Path(inspect.getfile(options)))}: {options.__name__}.{field.name} has no comment"
            for options in (Settings, Options)
            for field in fields(options)
            if not comments(options)[field.name]
        ],
        "Say what it is for, with its unit, in a comment right above the field. `python -m docs.generate` then writes "
        "it into docs/reference/; its how-to goes into SEE of docs/generate/settings.py.",
    )


def test_help_names_each_option_of_a_task_with_its_default():
    names = {"timedelta": timedelta, "Backoff": Backoff}
    said = {name: eval(default, names) for name, (default, _) in explained(task).items()}
    assert said == {
        field.name: default_of(field) for field in fields(TaskOptions) if field.name in OPTION_NAMES
    }
    assert set(OF_ONE_CALL) <= set(explained(PostgresTask.using))


def test_each_inner_key_of_a_setting_has_a_row():
    known = {
        "QUEUES": declared_queues.KEYS,
        "LIMITERS": declarations.LIMITER_KEYS,
        "BUDGETS": budget_settings.KEYS,
        "SCHEDULES": schedules.KEYS,
    }
    refuse(
        [
            f"{name}: INNER has {', '.join(INNER.get(name, ()))}; the code has {', '.join(keys)}"
            for name, keys in known.items()
            if tuple(INNER.get(name, ())) != tuple(keys)
        ],
        "Make INNER of docs/generate/settings.py the same, in that order, and run `python -m docs.generate`.",
    )


def ids_in_code():
    """Those that stand there, and those that sessions/checks.py makes of a number."""
    found = set()
    for file in (ROOT / "pgonly_django").rglob("*.py"):
        text = file.read_text()
        found |= set(ID.findall(text))
        if 'f"pgonly_django.E{number}"' in text:
            for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
                if getattr(call.func, "id", "") in ("_error", "_warning"):
                    found.add(f"{call.func.id[1].upper()}{call.args[-1].value}")
    return found


def test_each_check_has_a_row_on_a_page():
    """A table of the page that its hint names: | `pgonly_django.E001` | when it appears |."""
    in_code, on_pages = ids_in_code(), set(described())
    refuse(
        [
            *(f"pgonly_django.{number} is in the code, and on no page" for number in in_code - on_pages),
            *(f"pgonly_django.{number} is on a page, and not in the code" for number in on_pages - in_code),
        ],
        "The page that the hint of the check names has a row for it: | `pgonly_django.E001` | when it appears |. Then "
        "run `python -m docs.generate`.",
    )


def test_every_public_name_of_the_reference_has_a_docstring():
    empty = re.findall(
        r"^### (\w+)\n\n(?:```.*?```\n\n)?(?=###? )", PAGES["api.md"], re.MULTILINE | re.DOTALL
    )
    refuse(
        [f"{name} has no docstring" for name in empty],
        "docs/reference/api.md is made of docstrings: write one that begins with a whole sentence.",
    )


def imports_of_ours():
    """(page, module, name) of each import from this package in the Python of README and docs."""
    for page in ALL_PAGES:
        for block in page.blocks:
            for node in ast.walk(ast.parse(block.code)) if block.language == "python" else ():
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pgonly_django"):
                    yield from ((page.name, node.module, each.name) for each in node.names)


def test_words_for_columns_are_for_columns_without_help_text():
    models = {model.__name__: model for model in apps.get_app_config("pgonly_django").get_models()}
    named = [(name, column) for name, words in WORDS.items() for column in words]
    refuse(
        [
            f"{model}.{column} has a help_text"
            for model, column in named
            if models[model]._meta.get_field(column).help_text
        ],
        "Take it out of WORDS in docs/generate/columns.py: the page takes the help_text.",
    )


def test_what_the_pages_import_is_in_the_reference():
    modules = {*api.MODULES, *api.OTHERS}
    known = {(module, name) for module in api.MODULES for name in importlib.import_module(module).__all__}
    known |= {(module, name) for module, names in api.OTHERS.items() for name in names}
    missing = [
        (page, module, name)
        for page, module, name in imports_of_ours()
        if (module, name) not in known
        and f"{module}.{name}" not in modules
        and module not in {*api.ON_PAGES, "pgonly_django.models", "pgonly_django.exceptions"}
    ]
    refuse(
        [f"{page}: from {module} import {name}" for page, module, name in missing],
        "A page imports a name that no page of the reference lists. Import it from a public module, or make it public "
        "in MODULES, OTHERS or ON_PAGES of docs/generate/api.py.",
    )


def test_rows_without_words_are_none():
    names = ("settings.md", "tasks.md", "exceptions.md", "checks.md")
    refuse(
        [
            f"docs/reference/{name}: {row}"
            for name in names
            for row in re.findall(r"^\| `[^|]*` \| +\|.*$(?!\n\| ---)", PAGES[name], re.MULTILINE)
        ],
        "A row says nothing of its name: write the comment or docstring in the code that the page is made of.",
    )
