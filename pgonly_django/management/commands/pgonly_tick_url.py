"""`manage.py pgonly_tick_url`: the signed URL that runs what is due."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.urls import NoReverseMatch, reverse

from pgonly_django.worker.tick.views import token

NO_URLS = """The URLs of pgonly_django are not in ROOT_URLCONF. Add:
path("pgonly/", include("pgonly_django.urls"))"""


class Command(BaseCommand):
    help = "Print the signed URL of the tick: a request to it runs what is due, for PGONLY['TICK_SECONDS']."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--base", default="", help="The site, such as https://example.com, to print the whole URL."
        )

    def handle(self, *args: Any, **flags: Any) -> None:  # noqa: ARG002 - Django's signature
        base = flags["base"].rstrip("/")
        parts = urlsplit(base)
        if base and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path):
            raise CommandError(
                f"--base must be a URL such as https://example.com, got {flags['base']!r}.", returncode=2
            )
        try:
            path = reverse("pgonly:tick", args=[token()])
        except NoReverseMatch as error:
            raise CommandError(NO_URLS) from error
        self.stdout.write(base + path)
