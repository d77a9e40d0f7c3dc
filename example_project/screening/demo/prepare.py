"""Prepares the demo: creates the tables, an admin user, and a project with papers."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from django.contrib.auth import get_user_model
from django.core.management import call_command

from example_project.screening.importers import new_project, read_papers

if TYPE_CHECKING:
    from decimal import Decimal

    from example_project.screening.models import Project

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample.csv"
QUESTION = "Does the paper report the results of a clinical trial?"
CRITERIA = (
    "Include papers in which people (patients or healthy volunteers) were given a treatment or another "
    "intervention on purpose and its effect was measured, with or without a comparison group. Exclude animal "
    "and laboratory work, single cases, surveys, reviews and opinions."
)
USERNAME = "demo"
WHOLE_RUN_SECONDS = 15.0
LONGEST_DEFAULT_DELAY = 0.15


class Login(NamedTuple):
    username: str
    password: str


def migrate() -> None:
    call_command("migrate", interactive=False, verbosity=0)


def make_admin() -> Login:
    """The user "demo" with a new random password, because others may reach the database too."""
    password = secrets.token_urlsafe(9)
    user, _ = get_user_model().objects.get_or_create(username=USERNAME)
    user.is_staff = user.is_superuser = user.is_active = True
    user.set_password(password)
    user.save()
    return Login(USERNAME, password)


def load(file: Path, budget_usd: Decimal | None = None, name: str = "Clinical trials") -> Project:
    """A new project, each time, with the papers of `file`. Raises OSError, ColumnError or RowError."""
    papers = read_papers(file.read_bytes())
    return new_project(f"{name} in {file.name}", QUESTION, CRITERIA, papers, budget_usd)


def default_delay(papers: int) -> float:
    """Seconds added to each call: a run with offline reviewers then takes long enough to watch, at most 15 s."""
    return round(min(LONGEST_DEFAULT_DELAY, WHOLE_RUN_SECONDS / (2 * papers)), 4)
