from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from pgonly_django.conf import settings
from pgonly_django.sessions.reencrypt import reencrypt_sessions


class Command(BaseCommand):
    help = (
        'Bring stored sessions to PGONLY["SESSION_ENCRYPT_DATA"]: encrypted under SECRET_KEY, or readable when it '
        "is off. Run it after changing it, and before removing a key from SECRET_KEY_FALLBACKS."
    )

    def handle(self, *_args: Any, verbosity: int, **_options: Any) -> None:
        what = "encrypted" if settings().session_encrypt_data else "decrypted"
        count = 0
        for count in reencrypt_sessions():
            if verbosity > 1:
                self.stdout.write(f"{count} sessions {what}")
        self.stdout.write(self.style.SUCCESS(f"{count} sessions {what}"))
