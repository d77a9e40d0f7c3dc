from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, Protocol

from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit

P = ParamSpec("P")


class Duty(Protocol):
    """One of the maintenance thread's."""

    name: str  # as its failure is logged: "<name> failed"
    interval: float  # seconds until it comes again when it has found nothing to do

    def run_once(self, connection: OwnConnection) -> int: ...


def tried(what: str, work: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
    """`work(...)`; 0 where it fails, which is logged and keeps nothing else from being done."""
    try:
        return work(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - a router of the project may even exit
        message = f"{what} failed, it is tried again later: {str(error).strip()}"
        emit("worker.maintenance_failed", message, level=logging.WARNING)
        return 0
