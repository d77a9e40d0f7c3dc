"""manage.py pgonly_cache: shows what the caches hold, clears one, makes a table logged or unlogged."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from pgonly_django.cache import deletion
from pgonly_django.cache.backend import PostgresCache, our_caches
from pgonly_django.cache.entry import CACHE_TABLES
from pgonly_django.database.operation import run
from pgonly_django.exceptions import CacheError
from pgonly_django.monitoring.storage import CacheFigures, caches
from pgonly_django.tables import table

COLUMNS = "{:16}{:20}{:24}{:>12}{:>12}{:>10}{:>10}"


class Command(BaseCommand):
    help = "Without an action: entries, size, expired entries and hit rate of each cache."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", title="actions")
        clear = actions.add_parser("clear", help="delete entries of one cache")
        clear.add_argument("cache", help="the alias of the cache in CACHES")
        chosen = clear.add_mutually_exclusive_group()
        chosen.add_argument("--prefix", help="only keys that begin with it (KEY_PREFIX and version included)")
        chosen.add_argument("--tag", help="only entries with this tag")
        for action, text in (("logged", "survive a crash"), ("unlogged", "cost no WAL")):
            switch = actions.add_parser(action, help=f"rewrite a cache's table, so that its entries {text}")
            switch.add_argument("cache", help="the alias of the cache in CACHES")

    def handle(self, *_: Any, action: str | None = None, **options: Any) -> None:
        if action is None:
            self._show()
        elif action == "clear":
            self._clear(self._cache(options["cache"]), options["prefix"], options["tag"])
        else:
            store = self._cache(options["cache"]).store
            name = CACHE_TABLES[store.durable]
            with connections[store.pool.alias].cursor() as cursor:
                cursor.execute(f"ALTER TABLE {table(name)} SET {action.upper()}")
            self.stdout.write(f"{name} is {action} now; every cache in that table with it.")

    def _show(self) -> None:
        heads = "cache", "location", "table", "entries", "bytes", "expired", "hit rate"
        self.stdout.write(COLUMNS.format(*heads))
        found = caches(counts_all=True)
        for each in found:
            self.stdout.write(_line(each))
        lost = [each.alias for each in found if each.problem]
        if lost:
            raise CommandError(f"Not counted, because the database did not answer: {', '.join(lost)}.")

    def _clear(self, cache: PostgresCache, prefix: str | None, tag: str | None) -> None:
        if "" in (prefix, tag):
            option = "--prefix" if prefix == "" else "--tag"
            raise CommandError(f'{option} is "". To delete all entries of the cache, leave it out.')
        store = cache.store
        try:  # not by the methods of the cache, which only log that they failed
            if tag is None:
                count = run(deletion.clear(store, prefix or ""))
            else:
                count = run(deletion.delete_tags(store, [store.tag(tag)]))
        except CacheError as error:
            raise CommandError(f"Not all was deleted: {error}") from error
        self.stdout.write(f"{count} entries deleted.")

    def _cache(self, alias: str) -> PostgresCache:
        ours = our_caches()
        if alias not in ours:
            known = ", ".join(ours) or "none"
            raise CommandError(f"{alias!r} is not a cache of pgonly_django. CACHES has of those: {known}.")
        return ours[alias]


def _line(each: CacheFigures) -> str:
    if each.problem:
        return f"{each.alias:16}{each.location:20}{each.table:24}{each.problem}"
    rate = "-" if each.hit_rate is None else f"{each.hit_rate:.1%}"
    numbers = f"{each.entries:,}", f"{each.bytes:,}", f"{each.expired:,}", rate
    return COLUMNS.format(each.alias, each.location, each.table, *numbers)
