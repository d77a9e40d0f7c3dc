from django.db import migrations, models

import pgonly_django.models.cache_entry
from pgonly_django.tables import qualified, table

# What Django's schema editor cannot say: UNLOGGED, COLLATE "C", storage, expression and partial indexes,
# and what keeps updates in their page (fillfactor) and dead rows few (autovacuum).
_COLUMNS = """(
    expires_at timestamptz,
    claimed_until timestamptz,
    number bigint,
    claim bigint,
    prune_minute integer,
    codec smallint NOT NULL,
    key text COLLATE "C" PRIMARY KEY,
    value bytea,
    tags text[]
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.02,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
)"""


def _entries(name, kind):
    return f"""
    CREATE {kind} TABLE {name} {_COLUMNS};
    ALTER TABLE {name} ALTER value SET STORAGE EXTERNAL;
    CREATE INDEX {name}_prune ON {name} (split_part(key, ':', 1), prune_minute);
    CREATE INDEX {name}_tags ON {name} USING gin (tags) WITH (gin_pending_list_limit = 256)
        WHERE tags IS NOT NULL;
    """


_REST = qualified("""
    CREATE UNLOGGED TABLE pgonly_cache_usage (
        name text COLLATE "C" PRIMARY KEY,
        hits bigint NOT NULL,
        misses bigint NOT NULL,
        entries bigint NOT NULL,
        bytes bigint NOT NULL,
        writes bigint NOT NULL,
        written bigint NOT NULL
    ) WITH (fillfactor = 20);
    CREATE SEQUENCE pgonly_cache_lock_token;
    CREATE TABLE pgonly_cache_lock (
        token bigint NOT NULL DEFAULT nextval('pgonly_cache_lock_token'::regclass),
        expires_at timestamptz NOT NULL,
        name text COLLATE "C" PRIMARY KEY,
        holder text COLLATE "C",
        refused text[]
    ) WITH (fillfactor = 50);
    ALTER SEQUENCE pgonly_cache_lock_token OWNED BY pgonly_cache_lock.token;
""")
_DROP = qualified("DROP TABLE pgonly_cache, pgonly_cache_durable, pgonly_cache_usage, pgonly_cache_lock")


def _fields():
    return [
        ("key", models.TextField(primary_key=True, serialize=False)),
        ("value", models.BinaryField(null=True)),
        ("number", models.BigIntegerField(null=True)),
        ("codec", models.SmallIntegerField()),
        ("expires_at", models.DateTimeField(null=True)),
        ("prune_minute", models.IntegerField(null=True)),
        ("tags", pgonly_django.models.cache_entry.TextArrayField(null=True)),
        ("claim", models.BigIntegerField(null=True)),
        ("claimed_until", models.DateTimeField(null=True)),
    ]


def _model(name, db_table, fields, verbose_name, verbose_name_plural=None):
    options = {"db_table": table(db_table), "verbose_name": verbose_name}
    if verbose_name_plural:
        options["verbose_name_plural"] = verbose_name_plural
    return migrations.CreateModel(name=name, fields=fields, options=options)


class Migration(migrations.Migration):
    dependencies = [("pgonly_django", "0001_queue")]

    operations = [
        migrations.RunSQL(
            qualified(_entries("pgonly_cache", "UNLOGGED") + _entries("pgonly_cache_durable", "")) + _REST,
            _DROP,
            state_operations=[
                _model("CacheEntry", "pgonly_cache", _fields(), "cache entry", "cache entries"),
                _model(
                    "DurableCacheEntry",
                    "pgonly_cache_durable",
                    _fields(),
                    "durable cache entry",
                    "durable cache entries",
                ),
                _model(
                    "CacheUsage",
                    "pgonly_cache_usage",
                    [
                        ("name", models.TextField(primary_key=True, serialize=False)),
                        ("hits", models.BigIntegerField()),
                        ("misses", models.BigIntegerField()),
                        ("entries", models.BigIntegerField()),
                        ("bytes", models.BigIntegerField()),
                        ("writes", models.BigIntegerField()),
                        ("written", models.BigIntegerField()),
                    ],
                    "cache usage",
                    "cache usage",
                ),
                _model(
                    "CacheLock",
                    "pgonly_cache_lock",
                    [
                        ("name", models.TextField(primary_key=True, serialize=False)),
                        ("token", models.BigIntegerField()),
                        ("expires_at", models.DateTimeField()),
                        ("holder", models.TextField(null=True)),
                        ("refused", pgonly_django.models.cache_entry.TextArrayField(null=True)),
                    ],
                    "cache lock",
                ),
            ],
            hints={"model_name": "cacheentry"},
        )
    ]
