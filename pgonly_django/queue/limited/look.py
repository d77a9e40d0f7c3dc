"""A look at what a limited claim could take: two statements that lock nothing.

Finding the groups costs one probe of an index for each, however many jobs it has: 10,000 jobs of a key before 10 of
another are two probes. A look walks over a bounded number of keys, and the next one continues where it ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgonly_django.database.connect import OwnConnection
from pgonly_django.database.statement import Params
from pgonly_django.models.job_rows import SUSPECT_FROM, WAITING_SINCE
from pgonly_django.queue.candidates import FIRST_BY_KEY, LIMITED_ROW, READY_ROW, SUSPECT_ROW
from pgonly_django.queue.claim import BAND_LIMIT, BANDS_OF_ALL, BANDS_OF_GIVEN, NOT_LEFT_TO_OTHERS, Band
from pgonly_django.queue.limited import gates
from pgonly_django.queue.limited.gates import ARE_KEPT, KEEPING, KEPT_JOBS, Gate
from pgonly_django.queue.limited.turns import GroupKind, LimitedGroup, Turns
from pgonly_django.tables import qualified

# The number of keys of a band that one look sees. No more keys can be full than there are running jobs.
KEYS_AT_MOST = 200
# After this long a job of several slots has its worker keep free slots for it.
OVERDUE_SECONDS = 60.0

# Index: pgonly_job_limited, one probe for each key; for the running ones pgonly_job_limited_running. The keys behind
# the cursor come first, then those up to it. `mine` is a job that has kept its key and is ready: it goes first.
_SINCE = f"date_part('epoch', {WAITING_SINCE})"
_HEAD = f"concurrency_key, coalesce(concurrency_limit, 1), slots, {_SINCE}, task, crashes"
_OF_BAND = f"{LIMITED_ROW} AND queue = band.queue AND priority = band.priority AND {NOT_LEFT_TO_OTHERS}"
KEYED = qualified(f"""
SELECT CASE WHEN mine.slots IS NULL THEN 'keyed' ELSE 'kept' END, band.queue, band.priority, head.key, head.key_limit,
    ((SELECT count(*) FROM (
        SELECT FROM pgonly_job WHERE slots IS NOT NULL AND state = 'running' AND concurrency_key = head.key
        LIMIT head.key_limit) AS running) + {KEEPING.format(key="head.key")})::int,
    coalesce(mine.slots, head.slots), head.since, head.task, head.place, head.crashes
FROM limited_band AS band
    LEFT JOIN unnest(%(cursor_queues)s::text[], %(cursor_priorities)s::int2[], %(cursor_keys)s::text[])
        AS last(queue, priority, key) ON last.queue = band.queue AND last.priority = band.priority
    CROSS JOIN LATERAL (
        SELECT (stretch.turn - 1) * {BAND_LIMIT} + first.place AS place, first.key, first.key_limit, first.slots,
            first.since, first.task, first.crashes
        FROM (VALUES (1, coalesce(last.key, ''), NULL), (2, '', last.key)) AS stretch(turn, after, until)
        CROSS JOIN LATERAL (
            WITH RECURSIVE heads(place, key, key_limit, slots, since, task, crashes) AS (
                (SELECT 1, {_HEAD} FROM pgonly_job WHERE {_OF_BAND} AND concurrency_key > stretch.after {FIRST_BY_KEY})
                UNION ALL
                SELECT heads.place + 1, next.* FROM heads CROSS JOIN LATERAL (
                    SELECT {_HEAD} FROM pgonly_job WHERE {_OF_BAND} AND concurrency_key > heads.key {FIRST_BY_KEY}
                ) AS next
                WHERE heads.place < %(keys_at_most)s::int AND (stretch.until IS NULL OR heads.key < stretch.until)
            )
            SELECT * FROM heads WHERE stretch.until IS NULL OR heads.key <= stretch.until
        ) AS first
        WHERE stretch.turn = 1 OR last.key IS NOT NULL
        LIMIT %(keys_at_most)s::int
    ) AS head
    CROSS JOIN LATERAL (SELECT CASE WHEN {ARE_KEPT} THEN (
        SELECT kept.slots FROM {KEPT_JOBS.format(key="head.key", states="'ready'")}
            AND kept.queue = band.queue AND kept.priority = band.priority AND {NOT_LEFT_TO_OTHERS} LIMIT 1
    ) END AS slots) AS mine
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


@dataclass
class Look:
    """The result of one look."""

    gates: dict[str, Gate]  # of all limited queues that this worker serves
    groups: list[LimitedGroup] = field(default_factory=list)  # that may have room, in the order of service
    overdue_slots: int = 0  # the number to keep free for a job that has waited for OVERDUE_SECONDS
    # Groups whose oldest job needs more slots than there are threads.
    too_heavy: list[LimitedGroup] = field(default_factory=list)
    is_cut: bool = False  # there are more keys, at which the next look begins
    has_full: bool = False  # something waits for the end of a running job
    is_for_others: bool = False  # a worker with more free slots, or without a suspect, may take more

    @property
    def opens_in_seconds(self) -> float | None:
        """The seconds after which time alone lets another job through."""
        opening = [gate.opens_in_seconds for gate in self.gates.values() if gate.has_waiting]
        return min((seconds for seconds in opening if seconds is not None), default=None)


def look(
    connection: OwnConnection, turns: Turns, threads: int, free_slots: int, leaving: Params, *, take_suspect: bool
) -> Look:  # fmt: skip
    """Looks. `free_slots`: of `threads`. `leaving`: parameters of NOT_LEFT_TO_OTHERS. Raises psycopg.Error."""
    limited = gates.by_queue(gates.ask(connection, turns.queues))
    found = _groups(connection, limited, turns, leaving, take_suspect=take_suspect)
    with_room = [group for group in found if group.has_room]
    now = [group for group in with_room if group.fits(free_slots or threads, take_suspect=take_suspect)]
    here = [group for group in with_room if group.fits(threads, take_suspect=take_suspect)]
    # Behind a job without a key that does not fit there may be a smaller one.
    keyless = [group for group in with_room if group.kind is GroupKind.KEYLESS]
    is_full = any(gate.has_waiting and gate.is_full for gate in limited.values())
    seen = Look(
        limited,
        turns.in_order(dict.fromkeys([*here, *keyless])),
        too_heavy=[group for group in with_room if group.slots > threads],
        is_cut=_is_cut(found, now, turns),
        has_full=is_full or len(with_room) < len(found),
        is_for_others=not take_suspect or bool(leaving["unknown"]) or len(now) < len(with_room),
    )
    heavy = [group for group in here if group.slots > 1 and group.waited_seconds >= OVERDUE_SECONDS]
    if heavy:
        longest = max(heavy, key=lambda group: group.waited_seconds)
        seen.groups.remove(longest)
        seen.groups.insert(0, longest)
        seen.overdue_slots = longest.slots
    return seen


def _groups(
    connection: OwnConnection, limited: dict[str, Gate], turns: Turns, leaving: Params, *, take_suspect: bool
) -> list[LimitedGroup]:
    """Returns all groups of the queues that the worker serves."""
    passable = [gate.queue for gate in limited.values() if gate.has_waiting and gate.starts > 0]
    parameters = {
        "queues": list(turns.queues),
        "open": passable,
        "closed": [queue for queue in limited if queue not in passable],
        "keys_at_most": KEYS_AT_MOST,
        "take_suspect": take_suspect,
        "cursor_queues": [queue for queue, _ in turns.cursors],
        "cursor_priorities": [priority for _, priority in turns.cursors],
        "cursor_keys": list(turns.cursors.values()),
        **leaving,
    }
    statement = GROUPS_OF_GIVEN if turns.queues else GROUPS_OF_ALL
    rows = connection.execute(statement, parameters, prepare=True).fetchall()
    return [LimitedGroup(GroupKind(kind), *rest) for kind, *rest in rows]


def _is_cut(found: list[LimitedGroup], now: list[LimitedGroup], turns: Turns) -> bool:
    """Makes the next look begin after these keys where there may be more keys of a band, and no job of those that were
    seen may start `now`. Returns whether that is so, and keys are left at which none of the last looks has looked."""
    bands: dict[Band, list[LimitedGroup]] = {}
    for group in found:
        if group.key is not None:
            bands.setdefault(group.band, []).append(group)
    open_bands = {group.band for group in now if group.key is not None}
    is_cut = False
    for band, keys in bands.items():
        if len(keys) < KEYS_AT_MOST or band in open_bands:
            turns.begin_round(band)
        elif not turns.note_vain(keys):
            is_cut = True
    return is_cut
