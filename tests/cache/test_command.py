from __future__ import annotations

import math
import os
import sys

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.db import connection

from pgonly_django.cache.counters import READS_PER_FLUSH
from pgonly_django.database.operation import run
from pgonly_django.models import CacheEntry, CacheLock, DurableCacheEntry
from tests import zygote
from tests.sql import sql, value
from tests.waiting import PATIENT


@pytest.fixture(autouse=True)
def two_caches(settings, transactional_db):
    backend = "pgonly_django.cache.PostgresCache"
    settings.CACHES = {
        "default": {"BACKEND": backend, "LOCATION": "pages", "OPTIONS": PATIENT},
        "answers": {"BACKEND": backend, "LOCATION": "answers", "OPTIONS": PATIENT | {"DURABLE": True}},
        "memory": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }


def test_it_shows_what_each_cache_holds(capsys):
    caches["default"].set_many({str(number): number for number in range(3)})
    for _ in range(750):
        caches["default"].get("1")
    for _ in range(250):
        caches["default"].get("missing")
    call_command("pgonly_cache")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["default", "pages", "pgonly_cache", "3", "360", "0", "75.0%"]
    assert lines[2] == ["answers", "answers", "pgonly_cache_durable", "0", "0", "0", "-"]


@pytest.mark.parametrize(
    ("arguments", "left"),
    [([], []), (["--prefix", ":1:user:"], ["page:1"]), (["--tag", "seven"], ["page:1", "user:2"])],
)
def test_it_clears_all_a_prefix_or_a_tag_of_one_cache(arguments, left, capsys):
    for cache in (caches["default"], caches["answers"]):
        cache.set("user:1", 1, tags=["seven"])
        cache.set_many({"user:2": 1, "page:1": 1})
    call_command("pgonly_cache", "clear", "default", *arguments)
    assert f"{3 - len(left)} entries deleted." in capsys.readouterr().out
    assert caches["default"].keys("*") == left
    assert len(caches["answers"].keys("*")) == 3


def test_it_switches_a_table_between_logged_and_unlogged():
    caches["default"].set("key", 1)
    for action, kind in (("logged", "p"), ("unlogged", "u")):
        call_command("pgonly_cache", action, "default")
        assert value("SELECT relpersistence FROM pg_class WHERE relname = 'pgonly_cache'") == kind
        assert caches["default"].get("key") == 1


def test_a_cache_that_is_not_ours_is_refused_with_those_that_are():
    with pytest.raises(CommandError, match="default, answers"):
        call_command("pgonly_cache", "clear", "memory")


@pytest.mark.parametrize("option", ["--tag", "--prefix"])
def test_an_empty_tag_or_prefix_is_refused_and_deletes_nothing(option):
    caches["default"].set("key", 1)
    with pytest.raises(CommandError, match=f'{option} is "". To delete all entries .* leave it out'):
        call_command("pgonly_cache", "clear", "default", option, "")
    assert caches["default"].get("key") == 1


@pytest.mark.parametrize("arguments", [[], ["--prefix", ":1:"], ["--tag", "seven"]])
def test_a_deletion_that_fails_is_an_error(arguments):
    caches["default"].set("key", 1)
    sql("ALTER TABLE pgonly_cache RENAME COLUMN expires_at TO gone")
    try:
        with pytest.raises(CommandError, match="Not all was deleted"):
            call_command("pgonly_cache", "clear", "default", *arguments)
    finally:
        sql("ALTER TABLE pgonly_cache RENAME COLUMN gone TO expires_at")


@pytest.mark.parametrize("read", ["get_or_set", "get_and_touch"])
def test_every_kind_of_read_tells_its_hits(read, capsys):
    caches["default"].set("key", 1)
    for _ in range(READS_PER_FLUSH):
        getattr(caches["default"], read)("key", 1)
    call_command("pgonly_cache")
    assert capsys.readouterr().out.splitlines()[1].endswith("100.0%")


def test_a_database_that_is_dead_costs_its_own_cache_only(tmp_path):
    """In another process: Django keeps a test from databases that it was not told of."""
    alive = {
        name: connection.settings_dict[name]
        for name in ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
    }
    dead = {**alive, "HOST": "127.0.0.1", "PORT": "1", "OPTIONS": {}}
    lost = {**settings.CACHES["default"], "LOCATION": "lost", "OPTIONS": {"DATABASE": "dead"}}
    lines = [
        "from tests.settings import *",
        f"DATABASES = { ({'default': alive, 'dead': dead})!r}",
        f"CACHES = { ({'lost': lost, **settings.CACHES})!r}",
    ]
    (tmp_path / "with_a_dead_database.py").write_text("\n".join(lines))
    caches["default"].set("key", 1)
    done = zygote.run(
        ["-m", "django", "pgonly_cache", "--settings", "with_a_dead_database"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1][:4] == ["lost", "lost", "pgonly_cache", "connection"]
    assert lines[2][:4] == ["default", "pages", "pgonly_cache", "1"]
    assert "Not counted, because the database did not answer: lost." in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("kind", ["json", "xml"])
def test_entries_and_locks_are_dumped_and_loaded(kind, tmp_path):
    for cache in (caches["default"], caches["answers"]):
        cache.set("tagged", {"a": [1]}, tags=["seven", 'of "all", \u00fc'])
        cache.set("number", 7, None)
        cache.lock(f"for ever in {cache.store.location}", timeout=math.inf).acquire()
    lock = caches["default"].lock("given up", timeout=5)
    run(lock._store.call(lock.GIVE_BACK, name=lock._key, holder="holder", payload="payload"))
    before = rows()
    dump = tmp_path / f"cache.{kind}"
    call_command("dumpdata", "pgonly_django", format=kind, output=str(dump), skip_checks=True)
    for model in MODELS:
        model.objects.all().delete()
    call_command("loaddata", str(dump), skip_checks=True)
    assert rows() == before
    assert caches["default"].get("tagged") == {"a": [1]}
    assert caches["answers"].delete_tags("seven") == 1


def test_tokens_go_on_growing_after_locks_were_loaded_into_another_database(tmp_path):
    lock = caches["default"].lock("import")
    lock.acquire()
    token = lock.token + 1000  # as many were given there
    lock.release()
    CacheLock.objects.update(token=token)
    call_command("dumpdata", "pgonly_django.cachelock", output=str(tmp_path / "locks.json"), skip_checks=True)
    CacheLock.objects.all().delete()
    call_command("loaddata", str(tmp_path / "locks.json"), skip_checks=True)
    CacheLock.objects.all().delete()  # as an hour later, when nobody used it
    with lock:
        assert lock.token > token
    call_command("loaddata", str(tmp_path / "locks.json"), skip_checks=True)
    with lock:
        assert lock.token > token + 1


MODELS = CacheEntry, DurableCacheEntry, CacheLock


def rows():
    """What JSON keeps: milliseconds. Of a BinaryField each reading makes a new object."""
    found = {model: list(model.objects.order_by("pk").values()) for model in MODELS}
    for row in (each for those in found.values() for each in those):
        moment = row["expires_at"]
        row["expires_at"] = moment and moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        row["value"] = bytes(row.get("value") or b"")
    return found
