"""A pipeline that the server gets in one piece.

psycopg sends each statement of a pipeline by itself, and the Sync behind them last. A process that is stopped between
two of these sends leaves its backend waiting for the rest, inside a transaction that no timeout of PostgreSQL 14 to 16
ends: it counts as active, not as idle in a transaction.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

# What libpq keeps before it sends by itself; see PIPELINE's OUTBUFFER_THRESHOLD in libpq.
KEPT_BYTES = 64 * 1024


class OneSendPipeline(psycopg.Pipeline):
    """Statements go out at each sync() and at the end of the block, together with their Sync, in one send while they
    are shorter than KEPT_BYTES. Answers come no earlier."""

    def _communicate_gen(self) -> Generator[Any, Any, None]:
        # Private to psycopg, and called after each statement and after each Sync.
        if not self.command_queue or self.command_queue[-1] != self.pgconn.pipeline_sync:
            return
        while self.command_queue:
            self.command_queue.popleft()()  # into libpq's buffer; the Sync sends it
        yield from super()._communicate_gen()


@contextmanager
def one_send_pipeline(connection: psycopg.Connection[Any]) -> Iterator[OneSendPipeline]:
    """As psycopg's Connection.pipeline(). Not within another pipeline. Raises psycopg.Error."""
    pipeline = OneSendPipeline(connection)
    connection._pipeline = pipeline  # noqa: SLF001 - as Connection.pipeline() does, with another class
    try:
        with pipeline:
            yield pipeline
    finally:
        connection._pipeline = None  # noqa: SLF001 - likewise
