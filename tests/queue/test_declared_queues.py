from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.models import Queue
from pgonly_django.queue.declared_queues import check_queues, declare_queues, declared_limits

LIMITERS = {"deepseek": {"concurrent": 5}}


@pytest.fixture
def declare(settings):
    def set_queues(queues):
        settings.PGONLY = {**settings.PGONLY, "QUEUES": queues, "LIMITERS": LIMITERS}

    return set_queues


def test_each_key_becomes_columns_of_the_queue(declare):
    declare({"ai": {"max_running": 5, "rate": (10, 60), "limiter": "deepseek"}, "mail": {}})
    assert declared_limits() == {
        "ai": {"max_running": 5, "rate_count": 10, "rate_seconds": 60.0, "limiter": "deepseek"},
        "mail": dict.fromkeys(("max_running", "rate_count", "rate_seconds", "limiter")),
    }
    assert check_queues() == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"max_runing": 5}, r"\['ai'\]\[\"max_runing\"\] is not a setting. Did you mean 'max_running'"),
        ({"max_running": 0}, r"\[\"max_running\"\] must be a whole number from 1 to 1,000,000, got 0"),
        ({"max_running": True}, "must be a whole number"),
        ({"rate": 10}, r"\[\"rate\"\] must be a pair such as \(10, 60\)"),
        ({"rate": (10, 0)}, "must be a pair"),
        ({"rate": (1.5, 60)}, "must be a pair"),
        ({"rate": (10, float("nan"))}, "must be a pair"),
        ({"limiter": "deepsek"}, "did you mean 'deepseek'"),
        ({"limiter": 5}, "known are: deepseek"),
        (5, "must be a dict"),
    ],
)
def test_a_wrong_entry_is_named_with_the_value_and_the_remedy(declare, entry, said):
    declare({"ai": entry})
    with pytest.raises(ImproperlyConfigured, match=said):
        declared_limits()
    (error,) = check_queues()
    assert error.id == "pgonly_django.E009"


def test_a_percent_sign_in_a_name_is_only_a_name(declare):
    declare({"50%s": {"max_runing": 5}})
    with pytest.raises(ImproperlyConfigured, match=r"\['50%s'\]\[\"max_runing\"\] is not a setting"):
        declared_limits()


def test_a_limiter_whose_name_is_no_text_breaks_no_check_of_queues(settings):
    settings.PGONLY = {"QUEUES": {"ai": {"limiter": "deepseek"}}, "LIMITERS": {3: {}, "deepseeek": {}}}
    (error,) = check_queues()
    assert "did you mean 'deepseeek'" in error.msg


@pytest.mark.parametrize("name", ["", "x" * 65, "a\0b", 5])
def test_a_name_that_no_queue_can_have_is_refused(declare, name):
    declare({name: {}})
    with pytest.raises(ImproperlyConfigured, match="a queue's name must be a str of 1 to 64 characters"):
        declared_limits()


def test_a_wrong_pgonly_is_reported_once(settings):
    settings.PGONLY = {"QUEUE": {}}
    assert check_queues() == []


@pytest.mark.django_db
def test_the_rows_follow_the_settings(declare):
    declare({"ai": {"max_running": 5}})
    declare_queues("default", ["default", "ai"])
    assert dict(Queue.objects.values_list("name", "max_running")) == {"ai": 5, "default": None}
    declare({})
    declare_queues("default", ["default", "ai"])
    assert dict(Queue.objects.values_list("name", "max_running")) == {"ai": None, "default": None}


@pytest.mark.django_db
def test_a_pause_survives_a_deploy(declare):
    declare({"ai": {"max_running": 5}})
    declare_queues("default")
    Queue.objects.named("ai").pause()
    declare({"ai": {"max_running": 6}})
    declare_queues("default")
    queue = Queue.objects.get()
    assert queue.max_running == 6
    assert queue.paused_at is not None
