from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.conf import check_settings, schema
from pgonly_django.conf import settings as our_settings
from tests.guards import refuse

WRONG_URLS = [
    "", None, "a.example/wake", "ftp://a.example/wake", "file:///wake", "https:///wake", "https://a.example",
    "https://a.example/", "https://me:secret@a.example/wake", "https://a.example:x/wake", "https://a.example:0/wake",
    "https://a.example:65536/wake", "https://a.example/w ke", "https://a.example/wake\n", "https://ä.example/wake",
    "https://a.example/wake#now", "https://[::1/wake",
]  # fmt: skip


def test_wake_urls_may_have_a_port_a_query_and_an_address_of_ipv6(settings):
    urls = ("http://worker:8080/wake", "HTTPS://a.example/x/wake?worker=1", "http://[::1]:8080/wake")
    settings.PGONLY = {"WAKE_URLS": urls}
    assert our_settings().wake_urls == urls


def test_a_setting_follows_override_settings(settings):
    settings.PGONLY = {"LEASE_SECONDS": 30}
    assert our_settings().lease_seconds == 30


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"LEASE_SECONDS": 1}, 'PGONLY["LEASE_SECONDS"] must be at least 2, got 1.'),
        ({"TICK_SECRET": "hunter2"}, 'PGONLY["TICK_SECRET"] must have at least 16 characters, got 7.'),
        ({"METRICS_TOKEN": b"a real secret"}, 'PGONLY["METRICS_TOKEN"] must be a str, got bytes.'),
        ({"TICK_SECONDS": 0}, 'PGONLY["TICK_SECONDS"] must be at least 1, got 0.'),
        ({"LEASE_SECONDS": "60"}, "PGONLY[\"LEASE_SECONDS\"] must be a number, got '60'."),
        ({"LEASE_SECONDS": float("nan")}, 'PGONLY["LEASE_SECONDS"] must be a number, got nan.'),
        ({"LEASE_SECONDS": float("inf")}, 'PGONLY["LEASE_SECONDS"] must be at most 3.1536e+09, got inf.'),
        ({"OUTPUT_LIMIT": 50_000_001}, 'PGONLY["OUTPUT_LIMIT"] must be at most 50,000,000, got 50000001.'),
        ({"LEASE_SECONDS": True}, 'PGONLY["LEASE_SECONDS"] must be a number, got True.'),
        (
            {"SESSION_TRUSTED_PROXIES": 1.5},
            'PGONLY["SESSION_TRUSTED_PROXIES"] must be a whole number, got 1.5.',
        ),
        ({"SESSION_WAIT_FOR_DISK": 1}, 'PGONLY["SESSION_WAIT_FOR_DISK"] must be a bool, got 1.'),
        ({"LEASE_SECOND": 60}, "Did you mean 'LEASE_SECONDS'?"),
        ({1: 2}, 'PGONLY["1"] is not a setting. Known are: BUDGETS, LEASE_SECONDS'),
        ({"SCHEMA": None}, 'PGONLY["SCHEMA"] must be text, got None.'),
        (
            {"SCHEMA": 'job"queue'},
            'PGONLY["SCHEMA"] must be the name of a PostgreSQL schema (letters, digits',
        ),
        ({"SCHEMA": "50%"}, "got '50%'."),
        ({"SCHEMA": "1st"}, "a letter or _ first), got '1st'."),
        ({"SCHEMA": "ä" * 32}, 'PGONLY["SCHEMA"] must be at most 63 bytes long, got'),
        ({"SCHEMA": "pg_jobs"}, 'PGONLY["SCHEMA"] must be a schema of yours; PostgreSQL keeps pg_... and'),
        ({"SCHEMA": "information_schema"}, "information_schema for itself, got 'information_schema'."),
        ({"SCHEMA": "other"}, 'PGONLY["SCHEMA"] cannot change while Django runs: it was'),
        (
            {"MASKED_ARGUMENTS": "*token*"},
            'PGONLY["MASKED_ARGUMENTS"] must be a list of shell patterns such as "*token*", got',
        ),
        ({"SESSION_MASKED_KEYS": ["*key*", 5]}, 'PGONLY["SESSION_MASKED_KEYS"] must be a list of shell'),
        (
            {"RELEASE": 7},
            'PGONLY["RELEASE"] must be text of at most 128 characters, got 7.',
        ),
        ({"RELEASE": "a" * 129}, "at most 128 characters"),
        ({"RELEASE": "a\nb"}, "at most 128 characters"),
        ({"WAKE_URLS": "https://a.example/wake"}, 'PGONLY["WAKE_URLS"] must be a list of URLs, got'),
        *(
            (
                {"WAKE_URLS": ["https://a.example/wake", url]},
                'must be a list of URLs such as "https://worker.',
            )
            for url in WRONG_URLS
        ),
        (None, 'PGONLY must be a dict, such as {"LEASE_SECONDS": 60}, got None.'),
        ([], "PGONLY must be a dict"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(settings, value, message):
    settings.PGONLY = value
    ids = [error.id for error in check_settings()]
    try:
        our_settings()
    except ImproperlyConfigured as error:
        said = str(error)
    else:
        said = "nothing"
    refuse(
        [f"PGONLY = {value!r}", f"    says: {said}", f"    must say: {message}"] * (message not in said),
        "The bounds and types of settings, and what is said of a wrong value, are in pgonly_django/conf.py. If the new "
        "rule is right, change the row of tests/test_conf.py.",
    )
    assert ids == ["pgonly_django.E001"]


@pytest.mark.parametrize("value", ["", "job_queue", "Job-Queue", "_1", "ä" * 31, "public"])
def test_the_name_of_a_schema_is_read_once_at_the_start(settings, value):
    settings.PGONLY = {"SCHEMA": value}
    assert schema.__wrapped__() == value


@pytest.mark.parametrize("value", [None, 5, "a.b", "x' OR '1", "x" * 64, "PG_x"])
def test_a_process_does_not_start_with_a_wrong_name_of_a_schema(settings, value):
    settings.PGONLY = {"SCHEMA": value}
    with pytest.raises(ImproperlyConfigured, match=r'PGONLY\["SCHEMA"\] must be'):
        schema.__wrapped__()
