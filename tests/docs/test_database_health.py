"""docs/how-to/database_health.md: each query finds what its heading asks for, in a database where that was planted."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.db import connection, connections

from pgonly_django.embedded import unprivileged
from pgonly_django.queue.candidates import READY_ROW
from pgonly_django.tables import qualified
from tests.docs.pages import DOCS, Page
from tests.guards import refuse
from tests.in_memory import new_server
from tests.monitoring.doctor.conftest import OPTIONS, as_alias, at, version
from tests.queue.rows import insert_jobs, make_worker
from tests.waiting import wait_for

PAGE = Page(DOCS / "how-to/database_health.md")
QUERIES = dict(re.findall(r"^## ([^\n]+)\n+```sql\n(.+?)```", PAGE.text, re.MULTILINE | re.DOTALL))
pytestmark = pytest.mark.django_db(transaction=True)


def ask(question, using="default"):
    """The rows of the query under this heading, by the names of their columns."""
    with connections[using].cursor() as cursor:
        cursor.execute(QUERIES[question])
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def one(question, using="default", **columns):
    """The one row with these values."""
    (found,) = [row for row in ask(question, using) if columns.items() <= row.items()]
    return found


def test_each_query_is_asked_here_and_each_section_has_one():
    asked = re.findall(r"(?:ask|one)\(\s*\"([^\"]+\?)\"", Path(__file__).read_text())
    headings = re.findall(r"^## (.+)$", PAGE.text, re.MULTILINE)
    refuse(
        [
            *(f"no test asks {heading!r}" for heading in headings if heading not in asked),
            *(f"{heading!r} has no SQL right below it" for heading in headings if heading not in QUERIES),
        ],
        "docs/how-to/database_health.md: each section begins with its query. Plant what it finds, and ask it here.",
    )
    assert len(QUERIES) == len([block for block in PAGE.blocks if block.language == "sql"])


def test_a_session_that_holds_vacuum_back(other):
    other.execute("BEGIN")
    other.execute("SELECT count(*), pg_current_xact_id() FROM pgonly_job")
    found = one("What holds vacuum back?", id=str(other.info.backend_pid))
    assert found["holder"] == "client backend"
    assert found["state"] == "idle in transaction"
    assert found["transactions"] >= 0
    assert found["open_for"] < timedelta(minutes=1)
    other.execute("ROLLBACK")
    assert ask("What holds vacuum back?") == []


def test_a_prepared_transaction_and_a_slot_hold_vacuum_back(own_server):
    own_server.execute("SELECT pg_create_logical_replication_slot('reader', 'pgoutput')")
    with psycopg.connect(own_server.server.url(), autocommit=True) as raw:
        raw.execute("BEGIN")
        raw.execute("INSERT INTO pgonly_queue_tokens (queue, tokens, refilled_at) VALUES ('a', 1, now())")
        raw.execute("PREPARE TRANSACTION 'it''s forgotten'")
    try:
        assert one("What holds vacuum back?", "own", id="it's forgotten")["name"] == "postgres"
        found = one("What holds vacuum back?", "own", id="reader")
        assert (found["holder"], found["state"]) == ("replication slot", "inactive")
    finally:
        own_server.execute("ROLLBACK PREPARED 'it''s forgotten'", "SELECT pg_drop_replication_slot('reader')")
    assert ask("What holds vacuum back?", "own") == []


def test_a_replication_slot_that_nothing_reads(own_server):
    assert ask("Does a replication slot fill the disk?", "own") == []
    own_server.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
    own_server.execute(
        "CREATE TABLE IF NOT EXISTS written AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)"
    )
    (found,) = ask("Does a replication slot fill the disk?", "own")
    own_server.execute("SELECT pg_drop_replication_slot('forgotten')", "DROP TABLE written")
    assert (found["slot_name"], found["slot_type"], found["active"]) == ("forgotten", "physical", False)
    assert int(re.fullmatch(r"(\d+) [kM]B", found["wal_kept"])[1]) > 0


def test_who_waits_for_a_lock_is_named_with_those_before_him(server, other):
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM pgonly_job")
    waiter = server.pgconn
    waiter.send_query(qualified("ALTER TABLE pgonly_job ADD COLUMN x int").encode())
    try:
        (found,) = wait_for(lambda: ask("Who waits for a lock?"))
        assert found["pid"] == server.info.backend_pid
        assert found["query"].startswith("ALTER TABLE ")
        assert (found["blocked_by"], found["state"]) == (other.info.backend_pid, "idle in transaction")
    finally:
        with psycopg.connect(other.info.dsn) as third:
            third.execute("SELECT pg_cancel_backend(%s)", [server.info.backend_pid])
        while waiter.get_result() is not None:
            pass
        other.execute("ROLLBACK")
    assert ask("Who waits for a lock?") == []


@pytest.mark.parametrize("setting", ["autovacuum", "track_counts"])
def test_autovacuum_off_on_the_server(own_server, setting):
    own_server.set(**{setting: "off"})
    wait_for(lambda: one("Is autovacuum on?", "own", name=setting)["setting"] == "off")
    own_server.set(**{setting: "on"})
    wait_for(lambda: ask("Is autovacuum on?", "own") == [
        {"name": "autovacuum", "setting": "on"}, {"name": "track_counts", "setting": "on"}
    ])  # fmt: skip


def test_autovacuum_off_for_a_table(sql):
    sql("ALTER TABLE pgonly_session SET (autovacuum_enabled = false)")
    found = one("Is autovacuum on?", name="pgonly_session")
    sql("ALTER TABLE pgonly_session RESET (autovacuum_enabled)")
    assert "autovacuum_enabled=false" in found["setting"]
    assert {row["name"] for row in ask("Is autovacuum on?")} == {"autovacuum", "track_counts"}


@pytest.fixture
def many_dead(sql):
    """40,000 jobs that were ready, and are claimed by now; autovacuum does not come in between."""
    sql(
        "ALTER TABLE pgonly_job SET (autovacuum_enabled = off)",
        "TRUNCATE pgonly_job CASCADE",
        "SELECT pg_stat_reset_single_table_counters('pgonly_job'::regclass)",
        insert_jobs("generate_series(1, 40000) AS n", queue="'default'"),
    )
    yield lambda: sql("UPDATE pgonly_job SET state = 'succeeded', finished_at = now()")
    sql("TRUNCATE pgonly_job CASCADE", "ALTER TABLE pgonly_job RESET (autovacuum_enabled)")


def flush_statistics(sql):
    if connection.pg_version >= 150000:  # PostgreSQL 14 has a process that collects them, twice a second
        sql("SELECT pg_stat_force_next_flush()")
    sql("SELECT pg_stat_clear_snapshot()")


@pytest.mark.slow
def test_dead_rows_until_they_are_vacuumed(sql, many_dead):
    sql("VACUUM pgonly_job")
    many_dead()

    def dead():
        flush_statistics(sql)
        return [row for row in ask("Does vacuum keep up?") if row["table"] == "pgonly_job" and row["dead"]]

    (found,) = wait_for(lambda: [row for row in dead() if row["dead"] >= 40_000])
    assert found["live"] >= 40_000
    assert found["vacuums"] >= 1
    assert found["vacuumed_ago"] < timedelta(minutes=5)
    sql("VACUUM (ANALYZE, VERBOSE) pgonly_job")
    wait_for(lambda: not dead())
    (largest, *_) = ask("How large are the tables?")
    assert (largest["table"], largest["estimated_rows"]) == ("pgonly_job", 40_000)
    assert largest["total"].endswith(" MB")


def test_a_claim_reads_dead_entries_while_an_old_transaction_is_open(sql, many_dead, other):
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    other.execute("SELECT count(*) FROM pgonly_job")
    many_dead()
    sql("VACUUM pgonly_job")

    def pages():
        plan = [row["QUERY PLAN"] for row in ask("How much does a claim read?")]
        assert any("Scan using pgonly_job_ready on" in line for line in plan)
        assert "Buffers: shared" in plan[1]
        return sum(map(int, re.findall(r"(?:hit|read)=(\d+)", plan[1])))

    assert pages() > 1_000
    other.execute("ROLLBACK")
    sql("VACUUM (INDEX_CLEANUP ON) pgonly_job")
    assert pages() < 20


def test_the_query_of_a_claim_asks_for_the_rows_of_its_index():
    condition = re.sub(r'["()]', "", READY_ROW)
    assert f"WHERE {condition.lower()} AND queue = ".lower() in QUERIES["How much does a claim read?"].lower()


@pytest.mark.slow
def test_the_age_of_the_oldest_row(server_to_ruin):
    """By pg_resetwal: the server believes that so many transactions have been."""
    server = server_to_ruin.server
    assert ask("How old is the oldest row?", "own")[0]["transactions"] < 1_000_000
    connections["own"].close()
    server.stop()
    next_id = 1_600 * 1024**2  # the first of a file of pg_xact, which has to be there
    server._run("pg_resetwal", "-f", "-x", str(next_id))
    commits = server.data / "pg_xact" / f"{next_id // 1024**2:04X}"
    commits.write_bytes(bytes(256 * 1024))
    if account := unprivileged():
        shutil.chown(commits, account["user"], account["group"])
    server.start()
    (found,) = ask("How old is the oldest row?", "own")
    assert found["transactions"] > 1_500_000_000
    assert found["frozen_from"] == "200000000"
    assert found["oldest_table"]


def invalid(name):
    return f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{at(name)}'::regclass"


def test_an_invalid_index_is_mended(sql):
    """Also while a copy of the database, where the index has the same OID, builds its own."""
    sql(
        invalid("pgonly_job_failed"),
        "CREATE TEMP VIEW pg_stat_progress_create_index AS "
        f"SELECT 'another'::name AS datname, '{at('pgonly_job_failed')}'::regclass::oid AS index_relid",
    )
    (found,) = ask("Are all indexes valid?")
    assert found["index"].endswith("pgonly_job_failed")
    assert found["table"].endswith("pgonly_job")
    assert not found["is_being_built"]
    sql(
        "CREATE OR REPLACE TEMP VIEW pg_stat_progress_create_index AS "
        f"SELECT current_database() AS datname, '{at('pgonly_job_failed')}'::regclass::oid AS index_relid"
    )
    assert ask("Are all indexes valid?")[0]["is_being_built"]
    sql(
        "DROP VIEW pg_temp.pg_stat_progress_create_index",
        f"REINDEX INDEX CONCURRENTLY {at('pgonly_job_failed')}",
    )
    assert ask("Are all indexes valid?") == []


def test_a_left_over_of_an_interrupted_build_is_dropped(sql):
    sql("CREATE INDEX pgonly_job_ready_ccnew ON pgonly_job (queue)", invalid("pgonly_job_ready_ccnew"))
    assert ask("Are all indexes valid?")[0]["index"].endswith("pgonly_job_ready_ccnew")
    sql(f"DROP INDEX CONCURRENTLY {at('pgonly_job_ready_ccnew')}")
    assert ask("Are all indexes valid?") == []


def test_reads_that_do_not_come_from_memory(own_server):
    own_server.execute(insert_jobs("generate_series(1, 2000) AS n", queue="'cold'"))
    own_server.restart()
    own_server.execute("SELECT pg_stat_reset()")
    own_server.execute("SELECT sum(octet_length(task)) FROM pgonly_job")
    cold = wait_for(lambda: [row for row in ask("Do reads come from memory?", "own") if row["reads"]])[0]
    assert cold["table"] == "pgonly_job"
    for _ in range(5):
        own_server.execute("SELECT sum(octet_length(task)) FROM pgonly_job")
    warm = wait_for(
        lambda: [row for row in ask("Do reads come from memory?", "own") if row["hits"] > 2 * cold["reads"]]
    )[0]
    assert warm["hit_percent"] > (cold["hit_percent"] or 0)
    own_server.execute("TRUNCATE pgonly_job CASCADE")


def test_connections_that_are_used_up(own_server):
    held = [psycopg.connect(own_server.server.url()) for _ in range(20)]
    try:
        found = one("How many connections are in use?", "own", **{"limit of": "server"})
        assert found["allowed"] == 37
        assert found["used"] >= 20
    finally:
        for each in held:
            each.close()


def test_the_limit_of_a_role_and_of_the_database(own_server):
    own_server.execute(
        "CREATE ROLE few LOGIN CONNECTION LIMIT 5", "ALTER DATABASE postgres CONNECTION LIMIT 6"
    )
    try:
        with as_alias(own_server.server, "few", USER="few"):
            rows = {row["limit of"]: row for row in ask("How many connections are in use?", "few")}
            connections["few"].close()
        assert (rows["role few"]["used"], rows["role few"]["allowed"]) == (1, 5)
        assert rows["database postgres"]["allowed"] == 6
    finally:
        own_server.execute(
            "ALTER DATABASE postgres CONNECTION LIMIT -1", "DROP OWNED BY few", "DROP ROLE few"
        )


def test_what_live_workers_may_open():
    for _ in range(2):
        make_worker(threads=8)
    make_worker(threads=100, silent_for=timedelta(hours=2))
    assert ask("How many connections may the workers open?") == [{"workers": 2, "connections": 22}]


@contextmanager
def listening(url):
    with psycopg.connect(url) as listener:
        listener.execute("LISTEN news")
        listener.commit()
        listener.execute("SELECT 1")  # and stays in this transaction
        yield


@pytest.mark.slow
def test_the_queue_of_notifications_while_a_listener_has_a_transaction_open(any_database):
    if connection.pg_version < 170000:
        pytest.skip("the size of the queue can be set from PostgreSQL 17 on")
    with new_server(options=(*OPTIONS, "max_notify_queue_pages=64")) as server, as_alias(server):
        assert ask("How full is the queue of notifications?", "own")[0]["percent_full"] == 0
        with listening(server.url()), psycopg.connect(server.url(), autocommit=True) as sender:
            for number in range(50):
                sender.execute("SELECT pg_notify('news', %s)", [str(number) + "x" * 7000])
            assert ask("How full is the queue of notifications?", "own")[0]["percent_full"] >= 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("statement_timeout", "800ms"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("lock_timeout", "200ms"),
        ("transaction_timeout", "30s"),
        ("synchronous_commit", "remote_apply"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_read_only", "on"),
    ],
)
def test_a_setting_of_the_role(own_server, name, value):
    if name == "transaction_timeout" and connections["own"].pg_version < 170000:
        pytest.skip("PostgreSQL has it from 17 on")
    own_server.execute(f"ALTER ROLE postgres SET {name} = '{value}'")
    connections["own"].close()
    found = one("Which settings change what jobs do?", "own", name=name)
    assert (found["value"], found["source"]) == (value, "user")
    rows = ask("Which settings change what jobs do?", "own")
    assert [row["name"] for row in rows if row["source"] not in ("default", "user")] == []


ROLE = """jsonb_populate_record(NULL::pg_catalog.pg_roles, '{"rolname": "supabase_admin"}')"""
SERVERS = {
    "is_aurora": "CREATE FUNCTION aurora_version() RETURNS text LANGUAGE sql AS $$ SELECT '16.4.0'::text $$",
    "is_supabase": f"CREATE VIEW pg_roles AS SELECT * FROM pg_catalog.pg_roles UNION ALL SELECT ({ROLE}).*",
    "is_yugabyte": version("PostgreSQL 15.12-YB-2025.2.3.0-b1 on x86_64-pc-linux-gnu"),
    "has_citus": "CREATE VIEW pg_extension AS SELECT 'citus'::name AS extname",
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_leaves_something_out(pretend, name):
    """None of them can be started here: functions and views stand before those of the catalog."""
    pretend(SERVERS[name])
    (found,) = ask("Which server is it?", "fake")
    assert [each for each, is_it in found.items() if is_it is True] == [name]


def test_neon_by_its_setting(pretend):
    pretend(neon__timeline_id="0123456789abcdef")
    assert ask("Which server is it?", "fake")[0]["is_neon"]
    assert ask("Which server is it?")[0]["version"].startswith("PostgreSQL 1")
