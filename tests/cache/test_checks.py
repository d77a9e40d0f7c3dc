from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings

from pgonly_django.cache import PostgresCache
from pgonly_django.cache.checks import check_caches, check_pools
from pgonly_django.cache.codec import zstd
from pgonly_django.cache.options import parse


class Demanding:
    def __init__(self, level):
        pass


def with_cache(**options):
    cache = {"BACKEND": "pgonly_django.cache.PostgresCache", "OPTIONS": options}
    memory = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"WHATEVER": 1}}
    return override_settings(CACHES={"default": cache, "memory": memory})


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
        ({"POOL_SIZE": None}, "must be a whole number above 0, got None"),
        ({"COMPRESS_ABOVE": 0.5}, "must be a whole number above 0, got 0.5"),
        ({"MAX_ENTRIES": 1.5}, "must be a whole number above 0, got 1.5"),
        ({"MAX_ENTRIES": float("inf")}, "must be a whole number above 0, got inf"),
        ({"MAX_BYTES": float("nan")}, "must be a whole number above 0, got nan"),
        ({"MAX_BYTES": float("inf")}, "must be a whole number above 0, got inf"),
        ({"TIMEOUT_SECONDS": float("nan")}, "must be a number above 0, got nan"),
        ({"TIMEOUT_SECONDS": float("inf")}, "must be a number above 0, got inf"),
        ({"TIMEOUT_SECONDS": "1"}, "must be a number above 0, got '1'"),
        (
            {"SERIALIZER": "msgpack"},
            'must be "pickle", "json" or the dotted path of a class, got \'msgpack\'',
        ),
        ({"SERIALIZER": "tests.nowhere.Codec"}, "No module named 'tests.nowhere'"),
        ({"SERIALIZER": "json.JSONDecoder"}, "which needs the methods dumps(value) and loads(data)"),
        ({"SERIALIZER": "tests.cache.test_checks.Demanding"}, "missing 1 required positional argument"),
        ({"TIMEOUT": 300}, 'TIMEOUT stands beside OPTIONS, not in it: {"TIMEOUT": 300, "OPTIONS": {...}}.'),
        ({"KEY_PREFIX": "shop"}, "KEY_PREFIX stands beside OPTIONS"),
        ({"LOCATION": "pages"}, "LOCATION stands beside OPTIONS"),
        ({"DURABLE": "yes"}, "must be a bool, got 'yes'"),
        ({"COMPRESSOR": "lzma"}, "must be one of"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_or_the_nearest_known_one(options, says):
    with with_cache(**options):
        message = only(check_caches())
        assert message.id == "pgonly_django.E101"
        assert message.hint == "All options: docs/cache.md#several-caches."
        assert says in message.msg
        with pytest.raises(ImproperlyConfigured):
            PostgresCache("x", {"OPTIONS": options})


def test_an_unknown_database_and_another_kind_of_database():
    with with_cache(DATABASE="missing"):
        assert only(check_caches()).id == "pgonly_django.E102"
    connections.settings["lite"] = {**connections.settings["default"], "ENGINE": "django.db.backends.sqlite3"}
    try:
        with with_cache(DATABASE="lite"):
            assert "which is sqlite" in only(check_caches()).msg
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
    cache = {"BACKEND": "pgonly_django.cache.PostgresCache", "TIMEOUT": 5, "MAX_BYTES": 1, "ours": 1}
    with override_settings(CACHES={"default": cache}):
        message = only(check_caches())
    assert message.id == "pgonly_django.E101"
    assert message.msg == "CACHES['default']: MAX_BYTES has no effect beside OPTIONS; it stands in it."


def test_zstd_without_its_module_is_found_before_the_first_large_value():
    try:
        zstd()
    except ImportError:
        with with_cache(COMPRESSOR="zstd"):
            assert "pip install backports.zstd" in only(check_caches()).msg
        with pytest.raises(ImproperlyConfigured, match=r"pip install backports\.zstd"):
            PostgresCache("x", {"OPTIONS": {"COMPRESSOR": "zstd"}})
    else:
        with with_cache(COMPRESSOR="zstd"):
            assert check_caches() == []
