"""Wakes the one who has waited longest for a limiter."""

from pgonly_django.database.operation import Operation
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement
from pgonly_django.limits.pool_user import call
from pgonly_django.tables import qualified

CHANNEL = "pgonly_limiter"

# Index: pgonly_limiter_waiter_next.
NEXT = qualified("""SELECT id FROM pgonly_limiter_waiter
        WHERE limiter = %(name)s::text AND id <> %(id)s::uuid AND expires_at > clock_timestamp()
        ORDER BY ticket LIMIT 1""")
# What payload() of database/listener.py makes of the waiter's id.
NOTIFY = f"pg_notify('{CHANNEL}', left(encode(sha256(id::text::bytea), 'hex'), 32))"

WAKE = Statement(qualified(f"SELECT {NOTIFY} FROM ({NEXT}) AS next WHERE id <> %(told)s::uuid"))


def wake_other(pool: Pool, name: str, holder: object, told: object) -> Operation[None]:
    """Wake the first who waits now, if that is not the one whom `holder` has told of its slot. That one may have got
    another slot before, which the statement of `holder` did not see yet."""
    yield from call(pool, WAKE, name=name, id=holder, told=told)
