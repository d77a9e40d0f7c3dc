"""The rows that are a limiter's slots: as many as its limit of `concurrent`, added when it grows."""

from pgonly_django.database.operation import Operation
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement
from pgonly_django.limits.pool_user import call
from pgonly_django.limits.renewal import LEASE_SECONDS
from pgonly_django.tables import qualified

# After a restart of PostgreSQL the holders, which are still inside, get some time to renew.
SETTLE_SECONDS = LEASE_SECONDS / 2


def is_free(slot: str) -> str:
    """In SQL: this row has no holder, or its holder is dead."""
    is_settled = f"pg_postmaster_start_time() < clock_timestamp() - interval '{SETTLE_SECONDS} seconds'"
    return f"({slot}.holder IS NULL OR {slot}.expires_at <= clock_timestamp() AND {is_settled})"


# Index: pgonly_limiter_slot_number.
ADD = Statement(
    qualified("""INSERT INTO pgonly_limiter_slot (limiter, number, who)
    SELECT name, number, '' FROM pgonly_limiter, generate_series(1, concurrent) AS number
    WHERE name = %(name)s::text ON CONFLICT (limiter, number) DO NOTHING""")
)


def add(pool: Pool, name: str) -> Operation[None]:
    """Give the limiter the rows that it lacks."""
    yield from call(pool, ADD, name=name)
