"""The statements of a budget's reservations. Each is one round trip, and may be sent twice without harm."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from psycopg.pq.abc import PGresult

from pgonly_django.database.statement import Statement
from pgonly_django.models.budget import PERIOD_START, SPENT
from pgonly_django.tables import qualified

# Index, of every statement here: the primary keys. All callers that spend meet at the row of the budget: of two
# statements the second one waits for the first and judges the row that the first one leaves. A reservation that is
# there already was made by the same call, whose answer got lost.
RESERVE = Statement(
    qualified(f"""
WITH taken AS (
    UPDATE pgonly_budget AS b SET
        spent = {SPENT}, period_start = {PERIOD_START}, reserved = b.reserved + %(usd)s::numeric
    WHERE b.name = %(name)s::text AND {SPENT} + b.reserved + %(usd)s::numeric <= b.usd
        AND (%(usd)s::numeric > 0 OR {SPENT} + b.reserved < b.usd)
        AND NOT EXISTS (SELECT FROM pgonly_reservation WHERE id = %(id)s::uuid)
    RETURNING b.name
),
made AS (
    INSERT INTO pgonly_reservation (id, budget, usd, job_id, task, queue, step, expires_at)
    SELECT %(id)s::uuid, name, %(usd)s::numeric, %(job_id)s::uuid, %(task)s::text, %(queue)s::text, %(step)s::text,
        clock_timestamp() + %(lease)s::float8 * interval '1 second'
    FROM taken RETURNING id
)
SELECT EXISTS (SELECT FROM made) OR EXISTS (SELECT FROM pgonly_reservation WHERE id = %(id)s::uuid),
    b.usd::text, ({SPENT})::text, b.reserved::text
FROM pgonly_budget AS b WHERE b.name = %(name)s::text
""")
)

# The first statement deletes the reservation's row. A reservation that has expired was counted as spent: that sum is
# corrected, and so is its row among the costs.
SETTLE = Statement(
    qualified(f"""
WITH gone AS (
    DELETE FROM pgonly_reservation WHERE id = %(id)s::uuid AND budget = %(name)s::text RETURNING *
),
paid AS (
    UPDATE pgonly_budget AS b SET
        spent = greatest({SPENT} + %(usd)s::numeric - CASE WHEN gone.is_expired THEN gone.usd ELSE 0 END, 0),
        reserved = greatest(b.reserved - CASE WHEN gone.is_expired THEN 0 ELSE gone.usd END, 0),
        period_start = {PERIOD_START}
    FROM gone WHERE b.name = gone.budget
),
noted AS (
    INSERT INTO pgonly_cost
        (reservation, job_id, task, queue, budget, step, usd, tokens_in, tokens_out, model, is_estimate)
    SELECT gone.id, gone.job_id, gone.task, gone.queue, gone.budget, gone.step, %(usd)s::numeric,
        %(tokens_in)s::int8, %(tokens_out)s::int8, coalesce(%(model)s::text, ''), %(is_estimate)s::int = 1
    FROM gone WHERE %(is_recorded)s::int = 1 OR gone.is_expired
    ON CONFLICT (reservation) WHERE reservation IS NOT NULL DO UPDATE SET usd = excluded.usd,
        tokens_in = excluded.tokens_in, tokens_out = excluded.tokens_out, model = excluded.model,
        is_estimate = excluded.is_estimate
)
SELECT count(*) FROM gone
""")
)

# What a call has cost, before its step is saved in another database; SETTLE or EXPIRE finds it. Index:
# pgonly_cost_reservation.
NOTE = Statement(
    qualified("""
INSERT INTO pgonly_cost (reservation, job_id, task, queue, budget, step, usd, tokens_in, tokens_out, model)
VALUES (%(id)s::uuid, %(job_id)s::uuid, %(task)s::text, %(queue)s::text, %(budget)s::text, %(step)s::text,
    %(usd)s::numeric, %(tokens_in)s::int8, %(tokens_out)s::int8, coalesce(%(model)s::text, ''))
ON CONFLICT (reservation) WHERE reservation IS NOT NULL DO UPDATE SET usd = excluded.usd,
    tokens_in = excluded.tokens_in, tokens_out = excluded.tokens_out, model = excluded.model, is_estimate = false
""")
)

# Renews the reservations that this process holds.
RENEW = Statement(
    qualified("""
UPDATE pgonly_reservation SET expires_at = clock_timestamp() + %(lease)s::float8 * interval '1 second'
WHERE id = ANY (%(ids)s::uuid[]) AND NOT is_expired RETURNING id
""")
)


@dataclass(frozen=True, slots=True)
class ReserveAnswer:
    """PostgreSQL's answer to a caller that wants to reserve."""

    is_made: bool
    usd: Decimal  # the cap
    spent: Decimal
    reserved: Decimal


def answer_in(result: PGresult) -> ReserveAnswer | None:
    """Returns None when there is no such budget."""
    if not result.ntuples:
        return None
    made, *amounts = (result.get_value(0, column) for column in range(4))
    usd, spent, reserved = (Decimal((raw or b"0").decode()) for raw in amounts)
    return ReserveAnswer(made == b"\x01", usd, spent, reserved)
