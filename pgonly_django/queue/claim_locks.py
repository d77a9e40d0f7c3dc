"""Two advisory locks, by which a worker knows that it may stop looking at the leases of others.

An idle worker looks for dead workers every quarter of a lease, which keeps a database awake. It may rest where no job
runs and each claim from now on will be told to it. Both locks are taken in shared mode only: no caller waits for them.

* CLAIMING is held while a claim may commit without telling: by the session of a worker that has had jobs lately,
  else by the transaction of the claim.
* RESTING is held by the session that listens, of each worker that rests.

A worker that takes CLAIMING looks then whether another session holds RESTING, and if so sends NOTIFY "holding" in the
transaction of its claim. A worker that wants to rest takes RESTING, then sees that no session holds CLAIMING, and then,
in a new snapshot, that no job runs.

Why no claim stays untold: take the transaction of a claim. Was CLAIMING taken after the other one had RESTING? Then the
claim is told in its own commit. Was it taken before? Then it is either still held when the other one looks for it, or
the commit was visible before it was given up, and the snapshot shows the job. PostgreSQL releases the locks of a
transaction after its commit can be seen, and those of a session when that ends. No clock is asked: a process that is
killed or stands still between any two statements changes nothing.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg

from pgonly_django.conf import schema
from pgonly_django.database import notify
from pgonly_django.events import emit
from pgonly_django.tables import qualified

# The two numbers of an advisory lock. Installations in other schemas of the database have locks of their own. The class
# is not that of the gates (queue/gates.py), whose second numbers may be any: a claim takes those exclusively.
CLASS = 0x7067636C  # "pgcl"
CLAIMING = (zlib.crc32(schema().encode()) & 0x3FFFFFFF) * 2
RESTING = CLAIMING + 1

# What the commit of a NOTIFY fails with while the queue is full, which one session may cause for the whole server.
PROGRAM_LIMIT, COMMITS_NOTIFY = "54000", "PreCommit_Notify"
UNTOLD_SECONDS = 60.0

HELD = f"""
SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = {CLASS} AND objid = {{lock}} AND objsubid = 2
    AND pid <> pg_backend_pid() AND database = (SELECT datid FROM pg_stat_get_activity(pg_backend_pid()))
"""
TAKE_FOR_SESSION = f"SELECT pg_advisory_lock_shared({CLASS}, {CLAIMING})"
TAKE_FOR_TRANSACTION = f"SELECT pg_advisory_xact_lock_shared({CLASS}, {CLAIMING})"
GIVE_UP = "SELECT pg_advisory_unlock_all()"
TELL = f"""
SELECT pg_notify('{notify.CHANNEL}', '{notify.HOLDING} ' || %(worker)s) WHERE EXISTS ({HELD.format(lock=RESTING)})
"""
# Index: pgonly_job_running (all running rows are few).
TELL_OF_JOBS = qualified(f"""{TELL} AND EXISTS (
    SELECT FROM pgonly_job WHERE state = 'running' AND worker_id = %(worker)s::uuid)
""")


class ClaimLock:
    """CLAIMING, for the main connection of one worker."""

    def __init__(self, worker_id: UUID) -> None:
        self._worker = {"worker": str(worker_id)}
        self.is_held = False  # by the session: claims need nothing more
        self._has_had_jobs = self._takes_for_session = self._may_be_held = False
        self._untold_until = 0.0

    def note_new_connection(self) -> None:
        self.is_held = self._has_had_jobs = self._may_be_held = False

    def note_jobs(self) -> None:
        """A claim has brought some: the next one takes the lock for the session."""
        self._has_had_jobs = True

    @contextmanager
    def around_claim(self, connection: psycopg.Connection[Any], *, keeps_session: bool) -> Iterator[None]:
        """In the transaction of a claim, around it. `keeps_session`: no pooler swaps the connection at its other end.
        When the transaction has committed, call note_committed(). Raises psycopg.Error."""
        if self.is_held:
            yield
            return
        can_tell = time.monotonic() >= self._untold_until
        for_session = keeps_session and self._has_had_jobs and can_tell
        self._takes_for_session, self._may_be_held = for_session, self._may_be_held or for_session
        connection.execute(TAKE_FOR_SESSION if for_session else TAKE_FOR_TRANSACTION, prepare=True)
        yield
        # A worker that takes it for the session tells of it in any case: later claims are silent.
        if can_tell:
            connection.execute(TELL if for_session else TELL_OF_JOBS, self._worker, prepare=True)

    def goes_untold(self, error: psycopg.Error) -> bool:
        """Whether the transaction of the claim failed since the server's queue of NOTIFY is full. Then the next ones
        are not told: jobs that run are worth more. Workers that rest find them with their next beat."""
        if error.sqlstate != PROGRAM_LIMIT or error.diag.source_function != COMMITS_NOTIFY:
            return False
        self._untold_until = time.monotonic() + UNTOLD_SECONDS
        message = (
            "PostgreSQL takes no NOTIFY: a session listens inside a transaction that does not end. Workers at rest "
            f"learn of this worker's jobs within 5 minutes only. {str(error).strip()}"
        )
        emit("worker.claims_untold", message, level=logging.ERROR)
        return True

    def note_committed(self) -> None:
        self.is_held = self.is_held or self._takes_for_session

    def give_up(self, connection: psycopg.Connection[Any]) -> bool:
        """While no claim is under way. Raises psycopg.Error."""
        if self._may_be_held:
            self.is_held = self._has_had_jobs = self._takes_for_session = False
            connection.execute(GIVE_UP, prepare=False)
            self._may_be_held = False
        return True


# Every other lock of the session was given up before.
TAKE_RESTING = f"SELECT pg_advisory_lock_shared({CLASS}, {RESTING})"
GIVE_UP_RESTING = f"SELECT pg_advisory_unlock_shared({CLASS}, {RESTING})"
SOMEBODY_CLAIMS = f"SELECT EXISTS ({HELD.format(lock=CLAIMING)})"


def take_resting(connection: psycopg.Connection[Any]) -> bool:
    """Take RESTING. Whether no other session holds CLAIMING; then look for running jobs. Raises psycopg.Error."""
    connection.execute(TAKE_RESTING, prepare=False)
    row = connection.execute(SOMEBODY_CLAIMS, prepare=False).fetchone()
    return row is not None and not row[0]


def give_up_resting(connection: psycopg.Connection[Any]) -> bool:
    """Raises psycopg.Error."""
    connection.execute(GIVE_UP_RESTING, prepare=False)
    return True
