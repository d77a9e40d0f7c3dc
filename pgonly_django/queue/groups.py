"""The groups of jobs that only a limited claim takes: those of one kind, queue, priority and concurrency key.

Within a group the oldest job goes first; the groups take turns. To find them costs one probe of an index for each,
however many jobs it has: 10,000 jobs of a key in front of 10 of another are two probes. A look walks over a bounded
number of keys and the next one goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import NamedTuple

from pgonly_django.database.connect import OwnConnection
from pgonly_django.database.statement import Params
from pgonly_django.models.job import LIMITED_ROW, READY_ROW, SUSPECT_FROM, SUSPECT_ROW, WAITING_SINCE
from pgonly_django.queue.claim import BAND_LIMIT, BANDS_OF_ALL, BANDS_OF_GIVEN, Band
from pgonly_django.queue.unknown_tasks import NOT_LEFT_TO_OTHERS
from pgonly_django.tables import qualified

# So many keys of a band are looked at in one look. No more keys can be full than there are running jobs.
KEYS_AT_MOST = 200


class Kind(StrEnum):
    SUSPECT = "suspect"  # of a limited queue
    PLAIN = "plain"  # of a limited queue
    KEYLESS = "keyless"  # several slots, no concurrency key
    KEYED = "keyed"


class Group(NamedTuple):
    """What a look has found, without any lock, and the oldest job of it."""

    kind: Kind
    queue: str
    priority: int
    key: str | None
    key_limit: int
    key_running: int
    slots: int
    waited_seconds: float
    task: str
    place: int  # in its band, counted from where the last look ended
    is_suspect: bool  # its oldest job

    @property
    def band(self) -> Band:
        return self.queue, self.priority

    @property
    def is_behind_the_end(self) -> bool:
        """Of keys: the look has begun again at the first one."""
        return self.place > BAND_LIMIT

    @property
    def has_room(self) -> bool:
        return self.key is None or self.key_running < self.key_limit

    def fits(self, slots: int, *, take_suspect: bool) -> bool:
        """Whether its oldest job may start in a worker with so many `slots`."""
        return self.slots <= slots and (take_suspect or not self.is_suspect)


# Index: pgonly_job_limited, one probe for each key; for the running ones pgonly_job_limited_running. The keys behind
# the cursor come first, then those up to it.
_SINCE = f"date_part('epoch', {WAITING_SINCE})"
_HEAD = f"concurrency_key, coalesce(concurrency_limit, 1), slots, {_SINCE}, task, crashes"
_OF_BAND = f"{LIMITED_ROW} AND queue = band.queue AND priority = band.priority AND {NOT_LEFT_TO_OTHERS}"
_BY_KEY = "ORDER BY concurrency_key, ready_at, id LIMIT 1"
KEYED = qualified(f"""
SELECT 'keyed', band.queue, band.priority, head.key, head.key_limit, (SELECT count(*) FROM (
        SELECT FROM pgonly_job WHERE slots IS NOT NULL AND state = 'running' AND concurrency_key = head.key
        LIMIT head.key_limit) AS running)::int,
    head.slots, head.since, head.task, head.place, head.crashes
FROM limited_band AS band
    LEFT JOIN unnest(%(cursor_queues)s::text[], %(cursor_priorities)s::int2[], %(cursor_keys)s::text[])
        AS last(queue, priority, key) ON last.queue = band.queue AND last.priority = band.priority
    CROSS JOIN LATERAL (
        SELECT (stretch.turn - 1) * {BAND_LIMIT} + first.place AS place, first.key, first.key_limit, first.slots,
            first.since, first.task, first.crashes
        FROM (VALUES (1, coalesce(last.key, ''), NULL), (2, '', last.key)) AS stretch(turn, after, until)
        CROSS JOIN LATERAL (
            WITH RECURSIVE heads(place, key, key_limit, slots, since, task, crashes) AS (
                (SELECT 1, {_HEAD} FROM pgonly_job WHERE {_OF_BAND} AND concurrency_key > stretch.after {_BY_KEY})
                UNION ALL
                SELECT heads.place + 1, next.* FROM heads CROSS JOIN LATERAL (
                    SELECT {_HEAD} FROM pgonly_job WHERE {_OF_BAND} AND concurrency_key > heads.key {_BY_KEY}
                ) AS next
                WHERE heads.place < %(keys_at_most)s::int AND (stretch.until IS NULL OR heads.key < stretch.until)
            )
            SELECT * FROM heads WHERE stretch.until IS NULL OR heads.key <= stretch.until
        ) AS first
        WHERE stretch.turn = 1 OR last.key IS NOT NULL
        LIMIT %(keys_at_most)s::int
    ) AS head
""")
# Index: pgonly_job_ready and pgonly_job_limited, one probe for each band of a queue that is open; pgonly_job_suspect.
GROUPS = qualified(f"""
WITH RECURSIVE plain_band(queue, priority) AS ({{plain_bands}}),
limited_bands(queue, priority) AS ({{limited_bands}}),
limited_band AS (SELECT * FROM limited_bands WHERE queue <> ALL (%(closed)s::text[]))
SELECT kind, queue::text, priority, key::text, key_limit, key_running, slots,
    date_part('epoch', clock_timestamp()) - since, task, place, crashes >= {SUSPECT_FROM}
FROM (
    (SELECT 'suspect' AS kind, queue, priority, NULL AS key, 1 AS key_limit, 0 AS key_running, 1 AS slots,
        {_SINCE} AS since, task, 0 AS place, crashes
    FROM pgonly_job
    WHERE {SUSPECT_ROW} AND {NOT_LEFT_TO_OTHERS} AND queue = ANY (%(open)s::text[]) AND %(take_suspect)s::bool
    ORDER BY pgonly_job.ready_at LIMIT 1)
    UNION ALL
    SELECT 'plain', queue, priority, NULL, 1, 0, 1, date_part('epoch', clock_timestamp()), '', 0, 0 FROM plain_band
    UNION ALL
    SELECT 'keyless', band.queue, band.priority, NULL, 1, 0, head.slots, head.since, head.task, 0, head.crashes
    FROM limited_band AS band CROSS JOIN LATERAL (
        SELECT slots, {_SINCE} AS since, task, crashes FROM pgonly_job
        WHERE {_OF_BAND} AND concurrency_key IS NULL ORDER BY pgonly_job.ready_at, id LIMIT 1
    ) AS head
    UNION ALL
    ({KEYED})
) AS found
""")
_PLAIN = BANDS_OF_GIVEN.format(row=READY_ROW, bands="plain_band", queues="%(open)s::text[]")
_LIMITED_OF_GIVEN = BANDS_OF_GIVEN.format(row=LIMITED_ROW, bands="limited_bands", queues="%(queues)s::text[]")
_LIMITED_OF_ALL = BANDS_OF_ALL.format(row=LIMITED_ROW, bands="limited_bands")
GROUPS_OF_GIVEN = GROUPS.format(plain_bands=_PLAIN, limited_bands=_LIMITED_OF_GIVEN)
GROUPS_OF_ALL = GROUPS.format(plain_bands=_PLAIN, limited_bands=_LIMITED_OF_ALL)


class Cursors(dict[Band, str]):
    """The last key of each band that a worker has served, or looked at in vain."""

    def parameters(self) -> Params:
        return {
            "cursor_queues": [queue for queue, _ in self],
            "cursor_priorities": [priority for _, priority in self],
            "cursor_keys": list(self.values()),
        }


def groups(
    connection: OwnConnection,
    queues: Sequence[str],
    gates: tuple[Collection[str], Collection[str]],
    cursors: Cursors,
    *,
    keys_at_most: int,
    take_suspect: bool,
    leaving: Params,
) -> list[Group]:
    """All groups of `queues`, or of all queues where there are none; `gates`: the limited queues that are open and
    those that are closed. Raises psycopg.Error."""
    still_open, closed = gates
    parameters = {
        "queues": list(queues),
        "open": list(still_open),
        "closed": list(closed),
        "keys_at_most": keys_at_most,
        "take_suspect": take_suspect,
        **cursors.parameters(),
        **leaving,
    }
    statement = GROUPS_OF_GIVEN if queues else GROUPS_OF_ALL
    rows = connection.execute(statement, parameters, prepare=True).fetchall()
    return [Group(Kind(kind), *rest) for kind, *rest in rows]
