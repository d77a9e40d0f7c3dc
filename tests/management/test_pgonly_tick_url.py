from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command
from django.urls import path

from pgonly_django.worker.tick.views import token


class WithoutUs:
    urlpatterns = (path("x/", lambda request: None),)


def printed(capsys, *flags):
    call_command("pgonly_tick_url", *flags)
    return capsys.readouterr().out


def test_it_prints_the_path_or_the_whole_url(capsys):
    assert printed(capsys) == f"/pgonly/tick/{token()}/\n"
    assert (
        printed(capsys, "--base", "https://example.com/") == f"https://example.com/pgonly/tick/{token()}/\n"
    )


@pytest.mark.parametrize("base", ["example.com", "ftp://example.com", "https://", "https://example.com/x"])
def test_a_base_that_is_no_site_is_refused(base):
    with pytest.raises(
        CommandError, match=r"--base must be a URL such as https://example\.com, got"
    ) as refused:
        call_command("pgonly_tick_url", "--base", base)
    assert refused.value.returncode == 2


def test_without_our_urls_it_says_what_to_add(settings):
    settings.ROOT_URLCONF = WithoutUs
    with pytest.raises(CommandError, match=r'path\("pgonly/", include\("pgonly_django.urls"\)\)'):
        call_command("pgonly_tick_url")
