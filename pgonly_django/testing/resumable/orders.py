"""What the test's process and its child tell each other, pickled. Importable before Django is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setup:
    """How the child process sets up Django."""

    settings_module: str | None  # None: settings.configure()
    overrides: dict[str, Any]  # settings that the test has changed
    databases: dict[str, dict[str, Any] | None]  # DATABASES; None: no test database, so it must not be used


@dataclass(frozen=True)
class Modules:
    """To be imported before the runs that need them, with their files. The answer says whether runs are forked."""

    files: dict[str, str | None]


@dataclass(frozen=True)
class Order:
    """One run of the job, up to its end or to the save at which its process is killed."""

    names: dict[str, str]  # the database of each alias
    alias: str  # the one that has the job
    job_id: str
    kill_at: int | None
    marks: str  # the file that notes calls and saves
    seconds: float
    setup: str | None  # "module:name" of a function to be called before
    paid: dict[str, str]  # functions whose calls are counted, "module:name", by what a message calls them


@dataclass(frozen=True)
class Ended:
    """How the process of a run ended: its exit code, negative for a signal."""

    code: int
    timed_out: bool
