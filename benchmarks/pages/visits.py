"""Which pages there are, and what one request for each costs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

ADMIN = "/admin/pgonly_django/"
FILTERS = re.compile(r'href="(\?[^"]+)"')
BARS = re.compile(r'<a href="([^"]+)" tabindex="-1"')  # of the charts
OTHERS = ("cacheentry/numbers/", "cacheentry/clear/default/", "costentry/?days=90", "costentry/sums/?days=90")
VALUES_OF_A_FILTER = 3  # of each, the first so many are tried
SORTED_OR_PAGED = {"o", "p", "all"}


def paths(client: Any) -> Iterator[str]:
    """The first page, the overview, the figures behind it with bars of the charts, each list with each of its filters,
    each kind of page, a job of each state, a member of a large batch."""
    from django.apps import apps
    from django.contrib import admin
    from django.contrib.admin.utils import quote

    from pgonly_django.models import Job, State

    yield "/admin/"
    yield ADMIN
    for period in ("hour", "day", "week"):
        yield (page := f"{ADMIN}overview/more/?period={period}")
        yield from map(unescape, BARS.findall(client.get(page).content.decode())[:1])
    for model in apps.get_app_config("pgonly_django").get_models():
        if model._meta.proxy or not admin.site.is_registered(model):
            continue
        name = model._meta.model_name
        yield f"{ADMIN}{name}/"
        for query in _filters(client, f"{ADMIN}{name}/"):
            yield f"{ADMIN}{name}/{query}"
        row = model._default_manager.order_by("-pk").first()
        if row is not None and name != "job":
            yield f"{ADMIN}{name}/{quote(row.pk)}/change/"
    for state in State.values:
        if (job := Job.objects.filter(state=state).order_by("-pk").first()) is not None:
            yield f"{ADMIN}job/{job.pk}/change/"
    member = Job.objects.exclude(batch_id=None).order_by("-pk").first()
    yield from (f"{ADMIN}job/{member.pk}/change/", f"{ADMIN}job/?batch_id={member.batch_id}")
    searches = (f"q={search}" for search in ("task_7", "order 4711", "customer=17", job.pk))
    for query in (*_chosen(), *searches):
        yield f"{ADMIN}job/?{query}"
    yield f"{ADMIN}session/?q=10.0.3.7"
    yield f"{ADMIN}cacheentry/?q=page 77"
    for path in OTHERS:
        yield ADMIN + path


def _chosen() -> Iterator[str]:
    """Orders, and filters that stand in a form, which has no links."""
    from pgonly_django.models import Job

    yield from ("o=5", "state__exact=running&o=-4", "state__exact=scheduled&o=4", "state__exact=failed&o=-4")
    newest = Job.objects.exclude(worker_id=None).order_by("-pk").values("queue", "task").first() or {}
    yield from (urlencode({column: value}) for column, value in newest.items())


def _filters(client: Any, path: str) -> list[str]:
    """Links of the list's filters and tabs: of each parameter the first values."""
    found: dict[str, list[str]] = {}
    for link in FILTERS.findall(client.get(path).content.decode()):
        query = unescape(link)
        for name, _ in parse_qsl(query[1:]):
            known = found.setdefault(name, [])
            if name not in SORTED_OR_PAGED and query not in known and len(known) < VALUES_OF_A_FILTER:
                known.append(query)
    return list(dict.fromkeys(query for queries in found.values() for query in queries))


@dataclass(frozen=True)
class Visits:
    milliseconds: list[float]  # of each request, by the clock
    cpu_milliseconds: float  # of one request on average, of this process and of the server's process for it
    size: int  # bytes of the page


def visited(client: Any, path: str, times: int) -> Visits:
    """So many requests. One before them is not counted: it compiles templates."""
    answer = client.get(path)
    assert answer.status_code == 200, f"{path}: {answer.status_code}"
    samples, before = [], _cpu_seconds()
    for _ in range(times):
        began = time.perf_counter()
        client.get(path)
        samples.append((time.perf_counter() - began) * 1000)
    return Visits(samples, (_cpu_seconds() - before) / times * 1000, len(answer.content))


def _cpu_seconds() -> float:
    """Where the server's process cannot be seen, of this process alone."""
    from django.db import connection

    connection.ensure_connection()
    ours = time.process_time()
    with suppress(OSError):
        fields = (
            Path(f"/proc/{connection.connection.info.backend_pid}/stat")
            .read_text()
            .rpartition(")")[2]
            .split()
        )
        return ours + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return ours
