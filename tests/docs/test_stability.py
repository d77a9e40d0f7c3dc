"""docs/project/stability.md names versions, URL names and a template tag: those of pyproject.toml and the code."""

from __future__ import annotations

import importlib
import re
import tomllib

import pytest
from django.template import engines

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "project" / "stability.md"
TEXT = PAGE.read_text()


@pytest.mark.parametrize(
    ("name", "classifier"),
    [("Python", r"Programming Language :: Python :: (\d+\.\d+)"), ("Django", r"Framework :: Django :: (.+)")],
)
def test_the_supported_versions_are_those_of_the_classifiers(name, classifier):
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    versions = [found[1] for each in classifiers if (found := re.fullmatch(classifier, each))]
    (listed,) = re.findall(rf"^\| {name} \| ([^|]+) \|", TEXT, re.MULTILINE)
    assert listed.split(", ") == versions, (
        f"make the row {name} of docs/project/stability.md and the classifiers of pyproject.toml the same"
    )


def test_the_url_names_exist():
    modules = [
        importlib.import_module(f"pgonly_django.{name}urls") for name in ("", "sessions.", "monitoring.")
    ]
    known = {f"{module.app_name}:{pattern.name}" for module in modules for pattern in module.urlpatterns}
    (row,) = re.findall(r"^\| URL names: ([^|]+) \|", TEXT, re.MULTILINE)
    listed = set(re.findall(r"`([^`]+)`", row))
    assert listed <= known, f"{PAGE.relative_to(ROOT)}: no urls.py has {listed - known}"


def test_the_template_tag_exists():
    (tag,) = re.findall(r"the template tag `(\w+)` of `{% load pgonly %}`", TEXT)
    engines["django"].from_string(f"{{% load pgonly %}}{{% {tag} job %}}")
