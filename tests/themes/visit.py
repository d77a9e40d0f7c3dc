"""Opens every page of the admin as a superuser, with the settings of DJANGO_SETTINGS_MODULE, and prints what
each is made of. All it writes is rolled back."""

from __future__ import annotations

import json
import re
from typing import Any

import django
from django.conf import settings


def visit() -> dict[str, Any]:
    settings.ALLOWED_HOSTS = ["testserver"]
    django.setup()
    from django.contrib.auth import get_user_model
    from django.db import transaction
    from django.test import Client

    from tests.admin.rows import all_pages

    client = Client(raise_request_exception=True)
    with transaction.atomic():
        client.force_login(get_user_model().objects.create_superuser("theme"))
        seen = {page: facts(client.get(f"/admin/pgonly_django/{page}")) for page in all_pages("")}
        transaction.set_rollback(True)
    return seen


def facts(answer: Any) -> dict[str, Any]:
    html = answer.text
    return {
        "status": answer.status_code,
        "stylesheets": re.findall(r'href="[^"]*pgonly_django/(\w+)\.css"', html),
        "labels": sorted(set(re.findall(r'data-label="([^"]*)"', html))),
        "buttons": re.findall(r'<button[^>]* class="[^"]*pgonly-button-(\w+)', html),
        "listed": re.findall(r'href="/admin/pgonly_django/(overview|doctor)/"', html),
        "classes": re.search(r'<body[^>]*class="([^"]*)"', html)[1].split(),
    }


if __name__ == "__main__":
    print(json.dumps(visit()))
