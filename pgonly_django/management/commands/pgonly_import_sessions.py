from __future__ import annotations

from typing import Any

from django.conf import settings as django_settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from pgonly_django.conf import settings
from pgonly_django.exceptions import CannotListKeysError
from pgonly_django.sessions.bulk_import import Counts, import_sessions

ENGINES = {name: f"django.contrib.sessions.backends.{name}" for name in ("db", "cache", "cached_db")}


class Command(BaseCommand):
    help = (
        "Copy the live sessions of the previous engine here, without logging any user out. Run it while that engine "
        "still serves, as often as you like, and a last time right before the switch."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--from", dest="engine", choices=ENGINES, required=True, help="the previous engine"
        )
        parser.add_argument("--batch", type=int, default=1000, help="sessions per statement (default: 1000)")

    def handle(self, *_args: Any, engine: str, batch: int, verbosity: int, **_options: Any) -> None:
        if batch < 1:
            raise CommandError(f"--batch must be at least 1, got {batch}.")
        self._refuse_revival()
        self._refuse_another_engine(engine)
        counts = Counts()
        try:
            for counts in import_sessions(ENGINES[engine], batch):
                if verbosity > 1:
                    self.stdout.write(_summary(counts))
        except CannotListKeysError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(self.style.SUCCESS(_summary(counts)))

    def _refuse_revival(self) -> None:
        """Once this engine serves, a session that ends leaves a row only while the fallback is set."""
        serves_here = django_settings.SESSION_ENGINE == "pgonly_django.sessions"
        if serves_here and not settings().session_fallback_engine:
            raise CommandError(
                "Sessions that were ended here since the switch would come back. Set "
                'PGONLY["SESSION_FALLBACK_ENGINE"] to the previous engine, or import before the switch.'
            )

    def _refuse_another_engine(self, name: str) -> None:
        """A session that the wrong engine does not know would look ended: every imported one would be dropped."""
        serving = settings().session_fallback_engine or django_settings.SESSION_ENGINE
        right = next((known for known, engine in ENGINES.items() if engine == serving), None)
        if right is not None and (right == "cache") != (name == "cache"):
            raise CommandError(f"The sessions of this site are in {serving}. Type --from {right}.")


def _summary(counts: Counts) -> str:
    text = (
        f"{counts.copied} copied, {counts.refreshed} brought up to date, {counts.kept} kept as they were, "
        f"{counts.dropped} dropped because they ended"
    )
    if counts.left_out:
        text += f"; {counts.left_out} values left out that cannot be encoded here"
    return text
