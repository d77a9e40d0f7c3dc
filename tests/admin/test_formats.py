"""How our pages show times and texts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from pgonly_django.admin import formats
from tests.admin.rows import all_pages

MOMENT = datetime(2026, 3, 1, 4, 5, 6, tzinfo=UTC)
# As Django shows a time by itself: "March 1, 2026, 4:05 a.m.", or a time without its date.
OTHER = re.compile(r"\b\d\d?(?::\d\d)? [ap]\.m\.|>\s*\d\d:\d\d:\d\d\s*<")


@pytest.mark.django_db
def test_no_page_shows_a_time_in_another_format(admin_client):
    found = {}
    for page in all_pages("/admin/pgonly_django/"):
        if not page.endswith("/history/"):  # that page is Django's
            found[page] = OTHER.findall(admin_client.get(page).text)
    assert len(found) > 20
    assert {page: times for page, times in found.items() if times} == {}


def test_a_time_is_shown_in_the_time_zone_of_the_request():
    for zone, text in (
        ("Asia/Kathmandu", "2026-03-01 09:50:06"),
        ("America/New_York", "2026-02-28 23:05:06"),
    ):
        with timezone.override(zone):
            assert formats.exact_time(MOMENT) == text
            assert formats.exact(MOMENT) == f'<time datetime="2026-03-01T04:05:06+00:00">{text}</time>'
    assert formats.exact(None) == "-"


@pytest.mark.parametrize(
    ("time", "text"),
    [(timedelta(0), "0\xa0s"), (timedelta(hours=2, minutes=59), "2\xa0h"), (timedelta(days=400), "400\xa0d")],
)
def test_an_age_in_a_narrow_column_has_its_largest_unit_alone(time, text):
    assert formats.about(time) == text


def test_no_line_breaks_between_a_number_and_its_unit():
    assert formats.duration(0.0005) == "500\xa0µs"
    assert formats.duration(timedelta(minutes=8, seconds=31)) == "8\xa0min 31\xa0s"


def test_a_text_of_several_lines_becomes_one_that_is_escaped_and_is_whole_on_hover():
    assert formats.one_line(' <b>\n "x" ') == (
        '<span class="pgonly-line" title="&lt;b&gt; &quot;x&quot;">&lt;b&gt; &quot;x&quot;</span>'
    )
    assert formats.one_line("a" * 400) == (
        f'<span class="pgonly-line" title="{"a" * 400}">{"a" * 299}…</span>'
    )
    assert formats.one_line(" \n") == ""
