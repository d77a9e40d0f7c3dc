from __future__ import annotations

import pytest

from pgonly_django.tasks.checks import check_names_of_queues

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


@pytest.mark.parametrize("backend", ["django.tasks.backends.dummy.DummyBackend", "no.such.Backend"])
def test_entries_of_other_backends_are_left_alone(settings, backend):
    assert found(settings, {"ai": {}}, ["default"], backend=backend) == []
