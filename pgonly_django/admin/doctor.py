"""The page of the doctor."""

from __future__ import annotations

import re
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connections, router
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.base import Links, PageAdmin
from pgonly_django.cache.backend import our_caches
from pgonly_django.models import Doctor, Job, Queue, Wait
from pgonly_django.monitoring.conditions import QUEUES_UNSERVED, WAITS_FORGOTTEN
from pgonly_django.monitoring.doctor.examination import Examination, examine
from pgonly_django.monitoring.findings import ORDER, Finding, Level
from pgonly_django.monitoring.queues import QueueFigures
from pgonly_django.monitoring.workers import WorkerFigures

# The word and the colour of each.
BADGES = {
    Level.ERROR: (gettext_lazy("Error"), "failed"),
    Level.WARNING: (gettext_lazy("Warning"), "held"),
    Level.INFO: (gettext_lazy("Note"), "running"),
}
# SQL up to its semicolon, a command up to the end of its flags.
CODE = re.compile(
    r"((?:SELECT|ALTER|GRANT|CREATE) [^;]+;"
    r"|manage\.py [a-z_]+(?: (?!(?:and|it)\b)[\w.&*-]*[\w&*-])*)"
)


@admin.register(Doctor)
class DoctorAdmin(PageAdmin):
    """The doctor. It needs a separate permission: findings name tasks, hosts, and the work of the server's sessions."""

    def show(self, request: HttpRequest) -> HttpResponse:
        """Examines one of the databases that our tables are in, named by `?database=`; else the one of jobs."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        known = databases()
        alias = request.GET.get("database") or router.db_for_read(Job)
        if alias not in known:
            raise Http404
        try:
            found = _shown(examine(alias), self.links(request) if alias == router.db_for_read(Job) else None)
        except DatabaseError as error:
            found = {"problem": _("The database did not answer: %s") % " ".join(str(error).split())[:300]}
        return self.page(request, "doctor.html", _("Doctor"), database=alias, databases=known, **found)


def databases() -> list[str]:
    """Returns the aliases to which routers or caches lead our tables, that of jobs first."""
    models = [each for each in apps.get_app_config("pgonly_django").get_models() if not each._meta.proxy]  # noqa: SLF001 - documented
    aliases = [router.db_for_read(Job), *map(router.db_for_write, models)]
    aliases += [cache.store.pool.alias for cache in our_caches().values()]
    return [each for each in dict.fromkeys(aliases) if connections[each].vendor == "postgresql"]


def _shown(report: Examination, links: Links | None) -> dict[str, Any]:
    """`links`: None where the pages of this site are about another database."""
    titles = {subject.name: subject.title for subject in report.subjects}
    return {
        "report": report,
        "counts": [(*BADGES[level], number) for level in ORDER if (number := report.count(level))],
        "findings": [
            (
                finding,
                BADGES[finding.level],
                titles[finding.subject],
                parts_of(finding.advice),
                done_on(finding, links) if links else {},
            )
            for finding in report.findings
        ],
        "healthy": [subject.title for subject, findings in report.subjects.items() if not findings],
    }


def done_on(finding: Finding, links: Links) -> dict[str, Any]:
    """Returns the page on which something can be done about it, and the buttons of what can be done here."""
    about = finding.about
    match about:
        case QueueFigures():
            buttons = links.buttons(about.row, "resume")
            return {
                "url": links.to_row(about.row),
                "label": _("The queue"),
                "buttons": buttons,
                "of": about.name,
            }
        case WorkerFigures():
            return {"url": links.to_row(about.row), "label": _("The worker")}
    if finding.id == QUEUES_UNSERVED.id:
        return {"url": links.to_list(Queue), "label": _("The queues")}
    if finding.id == WAITS_FORGOTTEN.id:
        return {"url": links.to_list(Wait, waits="all"), "label": _("The waits")}
    return {}


def parts_of(advice: str) -> list[tuple[bool, str]]:
    """Returns pairs (whether it is SQL or a command, text): SQL and commands are shown as code, to be copied."""
    parts = CODE.split(advice)
    return [(bool(number % 2), part) for number, part in enumerate(parts) if part]
