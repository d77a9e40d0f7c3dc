"""The system checks of the modules of tasks, and of the names of queues."""

from __future__ import annotations

import sys

import pytest
from django.test import SimpleTestCase

from pgonly_django.tasks import registry
from pgonly_django.tasks.deploy_checks import check_names_of_queues, check_stored_jobs, check_task_modules
from tests.tasks.calls import DUMMY, IMMEDIATE

RENAMED = "from pgonly_django import task\n@task(aliases=['former_tasks.send'])\ndef send(): ...\n"


@pytest.fixture
def files(monkeypatch, tmp_path):
    """Modules that can be imported, and are forgotten at the end of the test."""
    monkeypatch.setattr(registry, "_claimed", {})
    monkeypatch.syspath_prepend(str(tmp_path))
    written = []

    def write(**modules):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
            written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_without_problems_there_are_none(files):
    files(renamed_tasks=RENAMED)
    __import__("renamed_tasks")
    assert check_task_modules() == []


def test_an_alias_that_is_still_a_task_is_an_error(files):
    """Its module is imported by nothing but the check."""
    files(renamed_tasks=RENAMED, former_tasks="from pgonly_django import task\n@task\ndef send(): ...\n")
    __import__("renamed_tasks")
    (error,) = check_task_modules()
    assert error.id == "pgonly_django.E502"
    assert "former_tasks.send is an alias of renamed_tasks.send" in error.msg


def test_an_alias_that_is_a_task_of_another_backend_is_an_error(files, settings):
    settings.TASKS = {**settings.TASKS, "now": {"BACKEND": IMMEDIATE}}
    former = "from tests.tasks.calls import djangos_task\n@djangos_task(backend='now')\ndef send(): ...\n"
    files(renamed_tasks=RENAMED, former_tasks=former)
    __import__("renamed_tasks")
    (error,) = check_task_modules()
    assert "renamed_tasks.send has the alias 'former_tasks.send', which is another task" in error.msg


def test_a_former_module_that_imports_the_task_under_its_old_name_is_fine(files):
    files(renamed_tasks=RENAMED, former_tasks="from renamed_tasks import send\n")
    __import__("renamed_tasks")
    assert check_task_modules() == []


def test_a_module_of_tasks_that_cannot_be_imported_is_an_error(monkeypatch):
    monkeypatch.setattr(registry, "_failures", {})
    monkeypatch.setattr(registry.importlib, "import_module", fail)
    error = next(each for each in check_task_modules() if each.msg.startswith("example_project.screening"))
    assert (error.id, error.hint[:25]) == ("pgonly_django.E503", "Its jobs would not run. S")
    assert error.msg == "example_project.screening.tasks cannot be imported: RuntimeError: no such key"


def fail(_path):
    raise RuntimeError("no such key")


OURS = "pgonly_django.tasks.PostgresBackend"


def found(settings, queues, *allowed, backend=OURS):
    settings.TASKS = {
        f"tasks{number}": {"BACKEND": backend, "QUEUES": names} for number, names in enumerate(allowed)
    }
    settings.PGONLY = {**settings.PGONLY, "QUEUES": queues}
    return [(message.id, message.msg, message.hint) for message in check_names_of_queues()]


def test_limits_of_a_misspelt_queue_are_warned_about_with_the_nearest_name(settings):
    ((check_id, message, hint),) = found(settings, {"revews": {"max_running": 5}}, ["default", "reviews"])
    assert check_id == "pgonly_django.W003"
    assert message.startswith(
        'PGONLY["QUEUES"] has \'revews\', which no "QUEUES" of TASKS has (default, reviews)'
    )
    assert hint == "Did you mean 'reviews'?"


def test_a_queue_of_any_entry_is_known(settings):
    assert found(settings, {"ai": {}, "mail": {}}, ["mail"], ["ai"]) == []


def test_where_an_entry_allows_every_name_nothing_is_misspelt(settings):
    assert found(settings, {"ai": {}}, ["mail"], []) == []


@pytest.mark.parametrize("queues", [{"dead": {"task": "tests.jobs.add"}}, {"default": 5}])
def test_what_other_checks_report_is_left_to_them(settings, queues):
    assert found(settings, queues, ["default"]) == []
    settings.PGONLY = {"QUEUE": {}}
    assert check_names_of_queues() == []


@pytest.mark.parametrize("backend", [DUMMY, "no.such.Backend"])
def test_entries_of_other_backends_are_left_alone(settings, backend):
    assert found(settings, {"ai": {}}, ["default"], backend=backend) == []


class WithoutDatabaseTests(SimpleTestCase):
    """In tests of a project it asks no database that Django refuses to the test."""

    def test_in_a_test_without_a_database_nothing_is_asked(self):
        self.assertEqual(check_stored_jobs(), [])
