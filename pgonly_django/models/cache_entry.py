"""The tables of the cache, for the admin and the commands. The cache itself writes SQL (cache/entry.py).
ARCHITECTURE.md, "When you change a column", names the other files that know the columns."""

from __future__ import annotations

import json
from typing import Any

from django.db import connections, models
from django.db.models.functions import Length, Now
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.utils.translation import gettext_lazy as _

from pgonly_django.models.readable import TimestampField
from pgonly_django.tables import qualified, table


class TextArrayField(models.Field):  # type: ignore[type-arg]  # Django's own Field takes no parameters
    """A text[] column. With Django's own ArrayField every project would have to install django.contrib.postgres."""

    column_type = "text[]"

    def db_type(self, connection: object) -> str:  # noqa: ARG002 - Django's signature
        return self.column_type

    def value_to_string(self, obj: models.Model) -> str:
        """Returns the text for dumpdata, in JSON and in XML."""
        return json.dumps(self.value_from_object(obj))

    def to_python(self, value: Any) -> Any:
        """Reads what dumpdata wrote."""
        return json.loads(value) if isinstance(value, str) else value


class Entries(models.QuerySet[Any]):
    def of(self, namespace: str, prefix: str = "") -> Entries:
        """Returns the entries of one cache (its LOCATION), or those of them whose name begins with `prefix`."""
        start = f"{namespace}:{prefix}"
        return self.filter(key__gte=start, key__lt=f"{start}\U0010ffff")

    def live(self) -> Entries:
        return self.filter(models.Q(expires_at=None) | models.Q(expires_at__gt=Now()))

    def expired(self) -> Entries:
        return self.filter(expires_at__lte=Now())

    def with_size(self) -> Entries:
        """Adds `size` to each: the bytes of its value as stored. Does not read the value."""
        sized: Entries = self.defer("value").annotate(size=Length("value"))
        return sized


class AbstractEntry(models.Model):
    key = models.TextField(primary_key=True)
    value = models.BinaryField(null=True)
    number = models.BigIntegerField(null=True)
    # How `value` was written (cache/entry.py): units are the serializer, tens the compressor. 0: see `number`.
    codec = models.SmallIntegerField()
    expires_at = TimestampField(null=True)
    # The minute since 1970 after which the row may be deleted; coarse, so most writes leave its index alone.
    prune_minute = models.IntegerField(null=True)
    tags = TextArrayField(null=True)
    # The computation of get_or_set that is under way for this key.
    claim = models.BigIntegerField(null=True)
    claimed_until = TimestampField(null=True)

    objects = Entries.as_manager()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.key

    @property
    def namespace(self) -> str:
        """The LOCATION of its cache."""
        return self.key.partition(":")[0]

    @property
    def name(self) -> str:
        """The key as Django made it: prefix, version and the caller's own."""
        return self.key.partition(":")[2]


class CacheEntry(AbstractEntry):
    """An entry in an UNLOGGED table, which has no write-ahead log and is empty after a crash of PostgreSQL."""

    class Meta(AbstractEntry.Meta):
        db_table = table("pgonly_cache")
        verbose_name = _("cache entry")
        verbose_name_plural = _("cache entries")


class DurableCacheEntry(AbstractEntry):
    """An entry in a logged table, for values that cost money. OPTIONS={"DURABLE": True} chooses it."""

    class Meta(AbstractEntry.Meta):
        db_table = table("pgonly_cache_durable")
        verbose_name = _("durable cache entry")
        verbose_name_plural = _("durable cache entries")


class CacheUsage(models.Model):
    """The counts of all processes for one cache. `name` is its table and LOCATION."""

    name = models.TextField(primary_key=True)
    hits = models.BigIntegerField()
    misses = models.BigIntegerField()
    entries = models.BigIntegerField()
    bytes = models.BigIntegerField()
    writes = models.BigIntegerField()  # since the last recount
    written = models.BigIntegerField()  # bytes since the last vacuum

    class Meta:
        db_table = table("pgonly_cache_usage")
        verbose_name = _("cache usage")
        verbose_name_plural = _("cache usage")

    def __str__(self) -> str:
        return self.name


class CacheLock(models.Model):
    """A lock that is held, or was held within the last hour. `token` grows with every acquisition."""

    name = models.TextField(primary_key=True)
    token = models.BigIntegerField()
    expires_at = TimestampField()  # the end of the lease, or when it was released
    holder = models.TextField(null=True)  # noqa: DJ001 - of one acquisition; NULL where it is free
    refused = TextArrayField(null=True)  # holders that gave up and may still arrive

    class Meta:
        db_table = table("pgonly_cache_lock")
        verbose_name = _("cache lock")

    def __str__(self) -> str:
        return self.name


NO_OLDER_TOKENS = qualified("""
SELECT setval('pgonly_cache_lock_token'::regclass, %s) FROM pgonly_cache_lock_token WHERE last_value < %s
""")


@receiver(post_save, sender=CacheLock)
def _continue_tokens(*, instance: CacheLock, raw: bool, using: str, **_: Any) -> None:
    """Makes new tokens larger than those that loaddata wrote. Django resets only the sequences of primary keys."""
    if raw:
        with connections[using].cursor() as cursor:
            cursor.execute(NO_OLDER_TOKENS, [instance.token, instance.token])
