"""python -m docs.generate: writes the generated pages of docs/reference/, and names those that it changed.

tests/docs/test_reference.py fails while a page is not what the code says.
"""

from __future__ import annotations

import os
import sys

import django

# Nothing is asked of a database. DATABASE_URL keeps the settings from starting a server.
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
os.environ["DATABASE_URL"] = "postgres://nobody@127.0.0.1:1/none"
django.setup()

from docs.generate.pages import REFERENCE, pages  # noqa: E402 - the apps are loaded first

for name, text in pages().items():
    path = REFERENCE / name
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        sys.stdout.write(f"{path.relative_to(REFERENCE.parents[1])}\n")
