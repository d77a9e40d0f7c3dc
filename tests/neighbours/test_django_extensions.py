"""django-extensions: its commands over our tables."""

from __future__ import annotations

import io
import pkgutil

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django_extensions.management import commands as theirs

from pgonly_django.management import commands as ours

pytestmark = pytest.mark.slow


def names(package):
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def test_no_command_of_theirs_has_the_name_of_one_of_ours():
    assert names(ours) & names(theirs) == set()


def test_clear_cache_empties_our_cache(transactional_db):
    cache.set("colour", "red")
    call_command("clear_cache", "--all", stdout=io.StringIO())
    assert cache.get("colour") is None


def test_shell_plus_loads_our_models_and_prints_the_sql_of_a_call(transactional_db):
    said = io.StringIO()
    call_command("list_model_info", "--model", "pgonly_django.Job", stdout=said)
    assert "Job" in said.getvalue()
