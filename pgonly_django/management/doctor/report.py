"""What pgonly_doctor prints for people."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

from pgonly_django.monitoring.doctor.examination import Examined, Report
from pgonly_django.monitoring.doctor.findings import ORDER, Finding, Level

WIDEST, NARROWEST = 110, 60
INDENT = " " * 9
STYLES = {Level.ERROR: "ERROR", Level.WARNING: "WARNING", Level.INFO: "NOTICE"}
COUNTED = {Level.ERROR: "error", Level.WARNING: "warning", Level.INFO: "note"}


def lines_of(report: Report, style: Any) -> Iterator[str]:
    """The subjects without findings in one line each, then the findings of the others, then the sum. `style` is the
    command's."""
    yield f"{report.server}, database {report.alias!r}"
    yield ""
    for subject in report.subjects:
        yield from _of_subject(subject, style)
    yield ""
    yield _sum(report, style)


def _of_subject(subject: Examined, style: Any) -> Iterator[str]:
    if subject.level is None:
        yield f"{style.SUCCESS('ok')}       {subject.title}"
        return
    for finding in subject.findings:
        yield from _of_finding(finding, f"{subject.title}", style)


def _of_finding(finding: Finding, title: str, style: Any) -> Iterator[str]:
    mark = getattr(style, STYLES[finding.level])(finding.level.value.ljust(8))
    yield f"{mark} {finding.id} {title}"
    yield from _wrapped(finding.fact, INDENT)
    yield from _wrapped(finding.advice, INDENT, first=f"{INDENT}-> ", rest=f"{INDENT}   ")


def _wrapped(text: str, indent: str, *, first: str = "", rest: str = "") -> list[str]:
    """Names, commands and SQL are not broken inside of a word, so that they can be copied."""
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    return textwrap.wrap(
        text, width, initial_indent=first or indent, subsequent_indent=rest or indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _sum(report: Report, style: Any) -> str:
    counts = [(report.count(level), COUNTED[level]) for level in ORDER]
    found = ", ".join(f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in counts if number)
    text = f"{found or 'Nothing found'}, after {report.seconds:.1f} s."
    worst = next((level for level in ORDER if report.count(level)), None)
    return str(style.SUCCESS(text) if worst in (None, Level.INFO) else getattr(style, STYLES[worst])(text))
