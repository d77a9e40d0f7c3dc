"""docs/project/stability.md names versions, URL names and a template tag: those of pyproject.toml and the code."""

from __future__ import annotations

import importlib
import re
import tomllib

import pytest
import yaml
from django.template import engines

from tests.docs.pages import ROOT
from tests.guards import refuse

TEXT = (ROOT / "docs" / "project" / "stability.md").read_text()


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        pytest.param("Python", r"Programming Language :: Python :: (\d+\.\d+)", id="Python"),
        pytest.param("Django", r"Framework :: Django :: (.+)", id="Django"),
    ],
)
def test_the_supported_versions_are_those_of_the_classifiers(name, classifier):
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    versions = [found[1] for each in classifiers if (found := re.fullmatch(classifier, each))]
    (listed,) = re.findall(rf"^\| {name} \| ([^|]+) \|", TEXT, re.MULTILINE)
    refuse(
        [f"stability.md has {listed}, pyproject.toml has {', '.join(versions)}"]
        * (listed.split(", ") != versions),
        f"Make the row {name} of docs/project/stability.md and the classifiers of pyproject.toml the same.",
    )


@pytest.mark.parametrize(
    ("name", "key"), [("Python", "python"), ("Django", "django"), ("PostgreSQL", "postgres")]
)
def test_the_workflow_tests_each_supported_version(name, key):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    tested = {each[key] for each in workflow["jobs"]["versions"]["strategy"]["matrix"]["include"]}
    (listed,) = re.findall(rf"^\| {name} \| ([\d., ]+)", TEXT, re.MULTILINE)
    refuse(
        [f"stability.md has {listed}, tests.yml has {', '.join(sorted(tested))}"]
        * (set(listed.strip().split(", ")) != tested),
        f"Make the row {name} of docs/project/stability.md and the matrix of tests.yml the same.",
    )


def test_the_url_names_exist():
    modules = [
        importlib.import_module(f"pgonly_django.{name}urls") for name in ("", "sessions.", "monitoring.")
    ]
    known = {f"{module.app_name}:{pattern.name}" for module in modules for pattern in module.urlpatterns}
    (row,) = re.findall(r"^\| URL names: ([^|]+) \|", TEXT, re.MULTILINE)
    listed = set(re.findall(r"`([^`]+)`", row))
    refuse(
        [f"docs/project/stability.md: no urls.py of ours has {name}" for name in sorted(listed - known)],
        "Projects reverse these names: keep it in urls.py, or announce the change in CHANGELOG.md.",
    )


def test_the_template_tag_exists():
    (tag,) = re.findall(r"the template tag `(\w+)` of `{% load pgonly %}`", TEXT)
    engines["django"].from_string(f"{{% load pgonly %}}{{% {tag} job %}}")
