from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from pgonly_django.conf import settings
from pgonly_django.sessions.reencrypt import reencrypt_sessions


class Command(BaseCommand):
    help = (
        'Rewrite stored sessions as PGONLY["SESSION_ENCRYPT_DATA"] says: encrypted under SECRET_KEY, or readable '
        "when it is off. Run it after you change the setting, and before you remove a key from SECRET_KEY_FALLBACKS."
    )

    def handle(self, *_args: Any, verbosity: int, **_options: Any) -> None:
        done = "encrypted" if settings().session_encrypt_data else "decrypted"
        count = 0
        for count in reencrypt_sessions():
            if verbosity > 1:
                self.stdout.write(f"{count} sessions {done}")
        self.stdout.write(self.style.SUCCESS(f"{count} sessions {done}"))
