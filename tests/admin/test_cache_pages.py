"""The two pages about whole caches are part of the admin like Django's own."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.django_db
LIST = "/admin/pgonly_django/cacheentry/"
DURABLE = "/admin/pgonly_django/durablecacheentry/"


@pytest.mark.parametrize(
    ("entries", "page", "above"),
    [(LIST, "numbers/", []), (DURABLE, "clear/answers/", [f"{DURABLE}numbers/"])],
)
def test_the_way_back_to_the_entries_is_at_the_top(admin_client, entries, page, above):
    html = admin_client.get(entries + page).content.decode()
    breadcrumbs = re.search(r'<ol class="breadcrumbs.*?</ol>', html, re.DOTALL)[0]
    assert re.findall('href="(.*?)"', breadcrumbs) == ["/admin/", "/admin/pgonly_django/", entries, *above]
    assert "pgonly_django/admin.css" in html


def test_a_narrow_screen_scrolls_the_numbers_not_the_page(admin_client):
    html = admin_client.get(f"{LIST}numbers/").content.decode()
    assert re.search(r'class="[^"]*pgonly-wide">\s*<table>', html)
