from __future__ import annotations

import os
import re
import sys

import pytest
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings

from pgonly_django.cache import PostgresCache
from pgonly_django.cache.checks import check_caches, check_pools
from pgonly_django.cache.entry import zstd
from pgonly_django.cache.options import parse
from tests import zygote

OURS = {"BACKEND": "pgonly_django.cache.PostgresCache"}


class Demanding:
    def __init__(self, level):
        pass


def with_cache(**options):
    memory = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"WHATEVER": 1}}
    return override_settings(CACHES={"default": {**OURS, "OPTIONS": options}, "memory": memory})


def only(found):
    (message,) = found
    return message


def test_good_settings_give_no_message():
    with with_cache(MAX_ENTRIES=1000, CULL_FREQUENCY=2, COMPRESSOR="zlib", ON_ERROR="ignore"):
        assert check_caches() == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"MAX_ENTRY": 1}, "Did you mean 'MAX_ENTRIES'?"),
        ({"POOL_SIZE": 0}, "must be a whole number above 0, got 0"),
        ({"POOL_SIZE": 2.5}, "must be a whole number above 0, got 2.5"),
        ({"POOL_SIZE": True}, "must be a whole number above 0, got True"),
        ({"TIMEOUT_SECONDS": 1e300}, "must be at most 86,400, got 1e+300"),
        ({"MAX_BYTES": 10**30}, "must be at most 1,000,000,000,000,000, got 10"),
        ({"MAX_ENTRIES": float("inf")}, "must be a whole number above 0, got inf"),
        ({"MAX_BYTES": float("nan")}, "must be a whole number above 0, got nan"),
        ({"TIMEOUT_SECONDS": float("nan")}, "must be a number above 0, got nan"),
        ({"TIMEOUT_SECONDS": "1"}, "must be a number above 0, got '1'"),
        (
            {"SERIALIZER": "msgpack"},
            'must be "pickle", "json" or the dotted path of a class, got \'msgpack\'',
        ),
        ({"SERIALIZER": "tests.nowhere.Codec"}, "No module named 'tests.nowhere'"),
        ({"SERIALIZER": "json.JSONDecoder"}, "which needs the methods dumps(value) and loads(data)"),
        ({"SERIALIZER": "tests.cache.test_checks.Demanding"}, "missing 1 required positional argument"),
        ({"TIMEOUT": 300}, 'TIMEOUT stands beside OPTIONS, not in it: {"TIMEOUT": 300, "OPTIONS": {...}}.'),
        ({"DURABLE": "yes"}, "must be a bool, got 'yes'"),
        ({"COMPRESSOR": "lzma"}, "must be one of"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_or_the_nearest_known_one(options, says):
    with with_cache(**options):
        message = only(check_caches())
        assert message.id == "pgonly_django.E101"
        assert message.hint == "All options: docs/how-to/cache.md#options."
        assert says in message.msg
        with pytest.raises(ImproperlyConfigured, match=re.escape(says)):
            caches["default"].get("key")


def test_an_unknown_database_and_another_kind_of_database():
    with with_cache(DATABASE="missing"):
        assert only(check_caches()).id == "pgonly_django.E102"
        assert check_pools(databases=["default", "missing"]) == []
        with pytest.raises(ImproperlyConfigured, match="'missing', which is not in DATABASES: default"):
            caches["default"].get("key")
    connections.settings["lite"] = {**connections.settings["default"], "ENGINE": "django.db.backends.sqlite3"}
    try:
        with with_cache(DATABASE="lite"):
            message = only(check_caches())
            assert "which is sqlite" in message.msg
            assert """Make DATABASES['lite'] a PostgreSQL database""" in message.hint
            assert check_pools(databases=["lite"]) == []
    finally:
        del connections["lite"], connections.settings["lite"]


class NotHere:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "pgonly_django"


def test_a_router_that_keeps_the_tables_away():
    with with_cache(), override_settings(DATABASE_ROUTERS=[NotHere()]):
        assert only(check_caches()).id == "pgonly_django.W101"


def test_a_pool_larger_than_the_server_allows(db):
    with with_cache(POOL_SIZE=10_000):
        assert only(check_pools(databases=["default"])).id == "pgonly_django.W102"
        assert check_pools(databases=None) == []
    with with_cache():
        assert check_pools(databases=["default"]) == []


def test_without_the_app_the_cache_says_what_to_install():
    with override_settings(INSTALLED_APPS=[]), pytest.raises(ImproperlyConfigured, match="INSTALLED_APPS"):
        PostgresCache("x", {})


def test_numbers_may_be_written_as_floats_that_are_whole():
    with with_cache(MAX_BYTES=5e8, MAX_ENTRIES=None, TIMEOUT_SECONDS=0.5):
        assert check_caches() == []
    assert parse({"MAX_BYTES": 5e8}).max_bytes == 500_000_000


def test_an_option_beside_options_would_have_no_effect_and_is_named():
    with override_settings(CACHES={"default": {**OURS, "TIMEOUT": 5, "MAX_BYTES": 1, "ours": 1}}):
        message = only(check_caches())
    assert message.id == "pgonly_django.E101"
    assert message.msg == "CACHES['default']: MAX_BYTES has no effect beside OPTIONS. Put it in OPTIONS."


def test_zstd_without_its_module_is_found_before_the_first_large_value():
    try:
        zstd()
    except ImportError:
        with with_cache(COMPRESSOR="zstd"):
            assert "pip install backports.zstd" in only(check_caches()).msg
        with pytest.raises(ImproperlyConfigured, match=r"pip install backports\.zstd"):
            PostgresCache("x", {"OPTIONS": {"COMPRESSOR": "zstd"}}).get("key")
    else:
        with with_cache(COMPRESSOR="zstd"):
            assert check_caches() == []


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        (
            "TIMEOUT",
            ["soon", float("nan"), True, [60]],
            "TIMEOUT must be a number of seconds, a timedelta or None, got",
        ),
        ("LOCATION", [["answers"], [], 5, b"answers"], 'LOCATION must be text such as "answers", got'),
        ("OPTIONS", [None, [], "durable"], "OPTIONS must be a dict, got"),
    ],
)
def test_a_wrong_entry_is_an_error_of_check_and_of_the_first_use(name, values, says):
    for value in values:
        with override_settings(CACHES={"default": {**OURS, name: value}}):
            message = only(check_caches())
            assert message.id == "pgonly_django.E101"
            assert says in message.msg
            with pytest.raises(ImproperlyConfigured, match=says):
                caches["default"].set("key", 1)


SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("cache", "says"),
    [
        (OURS, "pgonly_django.E102"),
        ({**OURS, "OPTIONS": {"DATABASE": "missing"}}, "pgonly_django.E102"),
        ({**OURS, "OPTIONS": {"MAX_ENTRY": 1}}, "pgonly_django.E101"),
        ({**OURS, "OPTIONS": {"TIMEOUT": 60}}, "pgonly_django.E101"),
    ],
    ids=["sqlite", "unknown database", "unknown option", "misplaced option"],
)
@pytest.mark.parametrize("command", ["check", "migrate"])
def test_a_command_shows_what_is_wrong_and_no_traceback(command, cache, says, tmp_path):
    """With the settings that startproject makes and README's line."""
    done = run_in_a_project(tmp_path, SQLITE, cache, command)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_away_is_no_reason_for_check_to_fail(tmp_path):
    away = {"ENGINE": "django.db.backends.postgresql", "NAME": "x", "HOST": "127.0.0.1", "PORT": "1"}
    done = run_in_a_project(tmp_path, away, OURS, "check", "--database", "default")
    assert done.returncode == 0, done.stderr


def run_in_a_project(folder, database, cache, *command):
    settings = {
        "SECRET_KEY": "x",
        "INSTALLED_APPS": ["pgonly_django"],
        "DATABASES": {"default": database},
        "CACHES": {"default": cache},
    }
    lines = [f"{name} = {value!r}\n" for name, value in settings.items()]
    (folder / "of_a_project.py").write_text("".join(lines))
    path = os.pathsep.join([str(folder), *sys.path])
    command = ["-m", "django", *command, "--settings", "of_a_project"]
    return zygote.run(command, env={**os.environ, "PYTHONPATH": path})
