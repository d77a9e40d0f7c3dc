"""Somebody's session is revoked in the admin: his browser is signed out at its next request."""

from __future__ import annotations

import pytest

from tests.browser.pages import APP

pytestmark = pytest.mark.slow


def test_a_revoked_session_is_signed_out_at_its_next_request_and_no_other(person):
    someone, admin = person("reader"), person()
    someone.goes_to(APP)
    page = admin.goes_to(f"{APP}session/")
    page.get_by_role("row").filter(has_text="reader").get_by_role("link").first.click()
    admin.presses("Revoke")
    someone.page.goto(someone.site.url + APP)
    assert "/login/" in someone.page.url
    admin.goes_to(APP)
