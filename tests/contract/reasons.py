"""Why some of Django's own tests are skipped."""

ANY_KEY_WORKS = "any key works, so there is no warning about keys"
# Django skips these two for Redis and memcached as well.
NO_CULLING = "eviction deletes only the excess, not a share of all entries: tests/cache/test_eviction.py"
COUNTS = "delete_many returns a count, so 0 and not None"
CACHE = {ANY_KEY_WORKS, NO_CULLING, COUNTS}

HASHED = "the row has only a hash of the key: tests/sessions/test_leaks.py"
DJANGOS_TABLE = "it reads django_session: tests/sessions/test_store.py has such a test"
NO_MANAGER_SAVE = "only the store writes rows, so that every write is a merge"
SESSION = {HASHED, DJANGOS_TABLE, NO_MANAGER_SAVE}

MORE = "this backend supports what the test expects to fail"
COMMITS = "a job is part of its transaction, so it cannot run before the commit: promise 1"
TASK = {MORE, COMMITS}
