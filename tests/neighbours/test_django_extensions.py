"""django-extensions: its commands over our tables."""

from __future__ import annotations

import pkgutil

import pytest
from django_extensions.management import commands as theirs

from pgonly_django.management import commands as ours

pytestmark = pytest.mark.slow


def names(package):
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def test_no_command_of_theirs_has_the_name_of_one_of_ours():
    assert names(ours) & names(theirs) == set()
