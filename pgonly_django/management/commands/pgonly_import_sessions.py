from __future__ import annotations

from importlib import import_module
from typing import Any

from django.conf import settings as django_settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from pgonly_django.conf import settings
from pgonly_django.exceptions import CannotListKeysError
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions.previous_engine import ImportCounts, import_sessions


class Command(BaseCommand):
    help = (
        "Move the sessions that are still in the previous engine here, without logging any user out. Run it when no "
        'server runs the old code any more. After that PGONLY["SESSION_PREVIOUS_ENGINE"] can be removed.'
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--batch", type=int, default=1000, help="sessions per statement (default: 1000)")

    def handle(self, *_args: Any, batch: int, verbosity: int, **_options: Any) -> None:
        if batch < 1:
            raise CommandError(f"--batch must be at least 1, got {batch}.")
        if not settings().session_previous_engine:
            raise CommandError('Set PGONLY["SESSION_PREVIOUS_ENGINE"] to the engine whose sessions to move.')
        store = import_module(django_settings.SESSION_ENGINE).SessionStore
        if not issubclass(store, SessionStore):
            raise CommandError(
                f"{django_settings.SESSION_ENGINE} still serves, so what changes there after this run would be lost. "
                'Set SESSION_ENGINE = "pgonly_django.sessions" first.'
            )
        counts = ImportCounts()
        try:
            for counts in import_sessions(store().codec, batch):
                if verbosity > 1:
                    self.stdout.write(_summary(counts))
        except CannotListKeysError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(self.style.SUCCESS(_summary(counts)))


def _summary(counts: ImportCounts) -> str:
    text = f"{counts.moved} moved, {counts.kept} were here already"
    if counts.left_out:
        text += f"; {counts.left_out} values left out that cannot be encoded here"
    return text
