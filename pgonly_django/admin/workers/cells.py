"""The cells of the list of workers, and of a worker's page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.conf import settings
from pgonly_django.wording import duration


@admin.display(description=gettext_lazy("state"))
def life(worker: Any) -> SafeString:
    if worker.stopped_at is not None:
        return formats.badge("stopped", _("Stopped"), formats.exact_time(worker.stopped_at))
    if worker.sleeping_since is not None:
        return formats.badge("asleep", _("Asleep"), formats.exact_time(worker.sleeping_since))
    if not worker.is_live(worker.now):
        return _silence(worker)
    if worker.stop_requested_at is not None:
        return formats.badge("cancelling", _("Stopping"), formats.exact_time(worker.stop_requested_at))
    if worker.drain_requested_at is not None:
        return formats.badge("cancelling", _("Draining"), formats.exact_time(worker.drain_requested_at))
    return formats.badge("live", _("Live"))


def _silence(worker: Any) -> SafeString:
    if worker.now - worker.heartbeat_at < timedelta(seconds=settings().lease_seconds):
        return formats.badge("held", _("Silent"), _("Its heartbeat is late."))
    return formats.badge("dead", _("Dead"), _("Silent for too long: its jobs, if it had any, are rescued."))


@admin.display(description=gettext_lazy("name"))
def worker_name(worker: Any) -> SafeString:
    """With its place below it."""
    html = '<span class="pgonly-name">{}</span><span class="pgonly-second pgonly-whole">{}</span>'
    return format_html(html, worker.name, place(worker))


def place(worker: Any) -> str:
    return f"{worker.hostname}, {_('process %d') % worker.pid}"


@admin.display(description=gettext_lazy("queues"))
def served(worker: Any) -> str:
    queues = worker.queues if isinstance(worker.queues, list) else [worker.queues]
    return ", ".join(map(formats.as_text, queues)) or _("all")


@admin.display(description=gettext_lazy("running"))
def held(worker: Any) -> str:
    """By the rows of the jobs: a dead worker's own number stays when they are rescued."""
    return f"{worker.jobs_held:,}"


@admin.display(description=gettext_lazy("heartbeat"))
def heartbeat(worker: Any) -> SafeString:
    text = _("%s ago") % duration(worker.now - worker.heartbeat_at)
    return formats.time_tag(worker.heartbeat_at, text)


@admin.display(description=gettext_lazy("uptime"))
def since(worker: Any) -> SafeString:
    end = worker.stopped_at or worker.heartbeat_at
    return formats.time_tag(worker.started_at, duration(end - worker.started_at))


@admin.display(description=gettext_lazy("version"))
def version(worker: Any) -> str:
    return worker.version or _("one that does not say")
