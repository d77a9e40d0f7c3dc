"""manage.py pgonly_import_beat: schedules of Celery beat become rows of pgonly_schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from django.conf import settings as django_settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import router
from django.utils import timezone
from django.utils.module_loading import import_string

from pgonly_django.models import Schedule
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.scheduling import beat, calls
from pgonly_django.scheduling.beat import Found
from pgonly_django.scheduling.declaration import OVERLAP, Declaration
from pgonly_django.scheduling.due import timing_of
from pgonly_django.tasks.arguments import call_signature

NOTHING = (
    "Nothing to import: no tables of django-celery-beat in {database!r} (--from-database), no CELERY_BEAT_SCHEDULE in "
    "the settings, and no --app."
)


class Command(BaseCommand):
    help = (
        "Make schedules of those of Celery beat: from django-celery-beat's tables and from CELERY_BEAT_SCHEDULE. Both "
        "are only read. Stop Celery beat first, or every task runs twice. A schedule whose task is not one of Django's "
        "tasks yet is paused; resume it in the admin. Run it as often as you like: names that exist are left alone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--dry-run", action="store_true", help="Say what would be done, and write nothing.")
        add("--paused", action="store_true", help="Pause all of them.")
        add("--overwrite", action="store_true", help="Names that exist get the new times and arguments.")
        add("--overlap", choices=OVERLAP, default="allow", help="Default: allow, as Celery beat does.")
        add(
            "--task",
            action="append",
            default=[],
            metavar="CELERY=OURS",
            help="A task that has another path here.",
        )
        add(
            "--app",
            help="Where the Celery app is, such as project.celery.app: its conf.beat_schedule is read too.",
        )
        add("--from-database", default="default", help="The alias with django-celery-beat's tables.")

    def handle(self, *_args: Any, **options: Any) -> None:
        self.options, self.database = options, router.db_for_write(Schedule)
        self.paths = dict(self._path(each) for each in options["task"])
        self.known = set(Schedule.objects.using(self.database).values_list("name", flat=True))
        counts = {"imported": 0, "left out": 0}
        for found in self._found():
            counts["imported" if self._take(found) else "left out"] += 1
        if not any(counts.values()):
            raise CommandError(NOTHING.format(database=options["from_database"]))
        would = "Nothing was written. " if options["dry_run"] else ""
        self.stdout.write(f"{would}{counts['imported']} imported, {counts['left out']} left out.")

    def _found(self) -> Iterator[Found]:
        """Tables first: django-celery-beat copies the settings into them, and people edit it there."""
        database, overlap = self.options["from_database"], self.options["overlap"]
        entries = dict(getattr(django_settings, "CELERY_BEAT_SCHEDULE", None) or {})
        if self.options["app"]:
            entries |= self._entries_of_app(self.options["app"])
        rows = beat.from_tables(database, overlap) if beat.has_tables(database) else iter(())
        return chain(rows, beat.from_settings(entries, overlap))

    def _entries_of_app(self, path: str) -> dict[str, Any]:
        try:
            return dict(import_string(path).conf.beat_schedule or {})
        except (ImportError, AttributeError) as error:
            raise CommandError(f"--app {path}: {error}") from error

    def _path(self, mapping: str) -> tuple[str, str]:
        celery, sign, ours = mapping.partition("=")
        if not (celery and sign and ours):
            raise CommandError(
                f"--task must be CELERY=OURS, such as mail.send=mail.tasks.send, got {mapping!r}."
            )
        return celery, ours

    def _take(self, found: Found) -> bool:
        if found.declaration is None:
            return self._leave_out(found.name, found.reason)
        if found.name in self.known and not self.options["overwrite"]:
            return self._leave_out(found.name, "a schedule of this name exists")
        declaration = replace(
            found.declaration, task=self.paths.get(found.declaration.task, found.declaration.task)
        )
        problem = self._problem(declaration)
        notes = [*found.notes, *([problem] if problem else [])]
        pauses = bool(problem) or not found.is_enabled or self.options["paused"]
        if not self.options["dry_run"]:
            self._write(declaration, found, pauses=pauses)
        self.known.add(found.name)
        words = timing_of(Schedule(created_at=timezone.now(), **declaration.columns())).words()
        said = "; ".join([f"{words}, {declaration.task}", *(["paused"] if pauses else []), *notes])
        self.stdout.write(f"{self.style.SUCCESS('imported')}  {found.name}: {said}")
        return True

    def _write(self, declaration: Declaration, found: Found, *, pauses: bool) -> None:
        rows: Any = Schedule.objects.using(self.database).filter(name=found.name)
        columns = declaration.columns()
        if not rows.edit(**columns):
            # Its interval goes on from Celery's last run.
            made = {"edited_at": ClockTimestamp(), "last_tick_at": found.last_run_at}
            Schedule.objects.using(self.database).create(name=found.name, **columns, **made)
        if pauses:
            rows.pause()

    def _problem(self, declaration: Declaration) -> str:
        """Why a worker could not enqueue it; "" where it could."""
        try:
            task = calls.task_of(Schedule(**declaration.columns()), self.database)
            call_signature(task.func, task.takes_context).check(declaration.args, declaration.kwargs)
        except Exception as error:  # noqa: BLE001 - the task's module and its backend may raise anything
            return str(error)
        return ""

    def _leave_out(self, name: str, reason: str) -> bool:
        self.stdout.write(f"{self.style.WARNING('left out')}  {name}: {reason}.")
        return False
