"""The versions in .github/ and of the hooks are those of pyproject.toml, and what CONTRIBUTING.md names exists."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import yaml

from pgonly_django.compat import TESTED

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
STABILITY = (ROOT / "docs" / "project" / "stability.md").read_text()


def supported(kind: str) -> set[str]:
    return set(re.findall(rf"^{kind} :: (\d+\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE))


def cells() -> list[dict[str, str]]:
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    return jobs["versions"]["strategy"]["matrix"]["include"]


def test_the_matrix_has_each_supported_pair_of_python_and_django():
    pairs = {
        (python, django)
        for python in supported("Programming Language :: Python")
        for django in supported("Framework :: Django")
    }
    impossible = {("3.11", django) for django in supported("Framework :: Django") - {"5.2"}}
    assert {(each["python"], each["django"]) for each in cells()} == pairs - impossible


def test_the_matrix_has_each_supported_postgresql():
    versions, of_django_6_1 = re.search(
        r"PostgreSQL \| ([\d, ]+) \(Django 6\.1 needs (\d+)\)", STABILITY
    ).groups()
    assert {each["postgres"] for each in cells()} == set(versions.split(", "))
    assert all(int(each["postgres"]) >= int(of_django_6_1) for each in cells() if each["django"] == "6.1")


def test_newer_than_tested_is_newer_than_the_newest_of_the_matrix():
    for name, key in {"Python": "python", "Django": "django", "PostgreSQL": "postgres"}.items():
        assert TESTED[name] == max(tuple(map(int, each[key].split("."))) for each in cells())


def test_the_hooks_rewrite_for_the_oldest_django():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook for repo in repos for hook in repo["hooks"]]
    targets = {hook["args"][1] for hook in hooks if hook["id"] in ("django-upgrade", "djade")}
    assert targets == {min(supported("Framework :: Django"))}


def test_what_contributing_names_exists():
    named = re.findall(r"\b(?:tests|pgonly_django|docs|benchmarks)/[\w./]*\w/?", CONTRIBUTING)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
    modules = set(re.findall(r"python -m ([\w.]+)", CONTRIBUTING))
    assert [each for each in modules if importlib.util.find_spec(each) is None and each != "sphinx"] == []
    assert all(
        name in (ROOT / "tests/queue/test_finish.py").read_text()
        for name in re.findall(r"::(test_\w+)", CONTRIBUTING)
    )
