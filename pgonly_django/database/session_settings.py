"""The settings of PostgreSQL on every connection of ours, whatever OPTIONS, the role or the database say."""

from __future__ import annotations

from pgonly_django.database.statement import Params, Statement

SETTINGS = {
    # The project has set these for its own statements. They would cancel ours, end our connections, or have two
    # claims fail for each other.
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "30s",
    "default_transaction_isolation": "read committed",
    # A prepared statement keeps the plan it got while its table was small: read all of it. When ten thousand rows
    # come within a minute, sooner than autovacuum looks, a claim takes 6 and a cached get 170 times as long.
    "enable_seqscan": "off",
    # A plan that has no index to use looks expensive then, and would be compiled.
    "jit": "off",
    # What is sent again and again is planned once: left to itself the server plans each claim of a few jobs once
    # more, 773 instead of 529 us.
    "plan_cache_mode": "force_generic_plan",
}

# A name that this server does not know is left out, and so is a check for gone clients that somebody has set already.
# A pooler, whose connections others use too, announces a process id that it made up: there nothing is set, and no row
# comes back.
SET = Statement("""
SELECT set_config(name, wanted, false) FROM unnest(%(names)s::text[], %(values)s::text[]) AS w(name, wanted)
WHERE current_setting(name, true) IS NOT NULL AND pg_backend_pid() = coalesce(%(pid)s::int, pg_backend_pid())
AND (name <> 'client_connection_check_interval' OR current_setting(name, true) = '0')
""")


def parameters(pid: int | None, **more: str) -> Params:
    """Those of SET, for SETTINGS and `more`. Without the process id that was announced, it sets them anyway."""
    wanted = SETTINGS | more
    return {"names": list(wanted), "values": list(wanted.values()), "pid": pid}
