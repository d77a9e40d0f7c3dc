"""The arithmetic of a limiter's two buckets, in SQL. `l` is the limiter's row, `clock` has the column `now`.

A bucket fills at its rate, and holds half a second's worth and one more: so after any pause no more than that comes on
top of the rate. It may be drawn below zero, by a reservation that is larger than the bucket or by more use than was
reserved: then all wait until it is filled up again. All times are the database's.
"""

# Half a second's worth of a rate per minute.
_CAPACITY = "(1 + l.{limit} / 120)"


def left(bucket: str, limit: str) -> str:
    """What is in the bucket now; NULL without a limit."""
    capacity = _CAPACITY.format(limit=limit)
    filled = f"l.{bucket} + l.{limit} / 60 * greatest(extract(epoch FROM now - l.refilled_at), 0)"
    return f"least({capacity}, coalesce({filled}, {capacity}))"


def needed(cost: str, limit: str) -> str:
    """What must be in the bucket for a reservation of `cost`: not all of it where that is much, or the time from when
    the bucket is full until the caller comes would be lost."""
    return f"least({cost}, 1 + l.{limit} / 240)"


REQUESTS_LEFT = left("requests", "requests_per_minute")
TOKENS_LEFT = left("tokens", "tokens_per_minute")
REQUESTS_NEEDED = needed("%(requests)s::float8", "requests_per_minute")
TOKENS_NEEDED = needed("%(tokens)s::float8", "tokens_per_minute")

HAS_ENOUGH = f"""(l.requests_per_minute IS NULL OR {REQUESTS_LEFT} >= {REQUESTS_NEEDED})
        AND (l.tokens_per_minute IS NULL OR {TOKENS_LEFT} >= {TOKENS_NEEDED})"""
# Until it has; NULL where it has.
SECONDS_UNTIL_ENOUGH = f"""greatest(({REQUESTS_NEEDED} - {REQUESTS_LEFT}) * 60 / l.requests_per_minute,
        ({TOKENS_NEEDED} - {TOKENS_LEFT}) * 60 / l.tokens_per_minute)"""
# For SET, with numbers that are taken out (or put back, where they are negative).
DRAW = f"""requests = {REQUESTS_LEFT} - %(requests)s::float8, tokens = {TOKENS_LEFT} - %(tokens)s::float8,
        refilled_at = greatest(l.refilled_at, now)"""
