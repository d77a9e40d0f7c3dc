"""Wakes the one who has waited longest for a limiter."""

from pgonly_django.tables import qualified

CHANNEL = "pgonly_limiter"

# The payload is what payload() of database/listener.py makes of the waiter's id. Index: pgonly_limiter_waiter_next.
WAKE_NEXT = qualified(f"""SELECT pg_notify('{CHANNEL}', left(encode(sha256(id::text::bytea), 'hex'), 32)) FROM (
        SELECT id FROM pgonly_limiter_waiter
        WHERE limiter = %(name)s::text AND id <> %(id)s::uuid AND expires_at > clock_timestamp()
        ORDER BY ticket LIMIT 1) AS next""")
