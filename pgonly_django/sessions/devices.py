"""Sessions as their owner recognises them: browser and device, place, and when each was last used."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings as django_settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.paginator import Page, Paginator
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.utils.translation import gettext as _

from pgonly_django.events import emit
from pgonly_django.models import Session
from pgonly_django.models.session import hash_key

PER_PAGE = 25

# The first name that matches counts: most browsers also name the browsers that they descend from.
BROWSERS = (
    ("Edge", r"Edg(?:e|A|iOS)?/(\d+)"),
    ("Opera", r"OPR/(\d+)"),
    ("Samsung Internet", r"SamsungBrowser/(\d+)"),
    ("Firefox", r"(?:Firefox|FxiOS)/(\d+)"),
    ("Chrome", r"(?:Chrome|CriOS)/(\d+)"),
    ("Safari", r"Version/(\d+)\S* (?:Mobile/\S+ )?Safari/"),
)
SYSTEMS = (
    ("iPad", r"iPad"),
    ("iPhone", r"iPhone"),
    ("Android", r"Android"),
    ("ChromeOS", r"CrOS"),
    ("Windows", r"Windows"),
    ("macOS", r"Macintosh|Mac OS X"),
    ("Linux", r"Linux|X11"),
)


@dataclass(frozen=True)
class Device:
    session: Session
    is_this: bool
    name: str
    place: str


def page_of_devices(user: AbstractBaseUser, session_key: str | None, number: Any = 1) -> Page[Device]:
    """Returns a page of PER_PAGE devices on which `user` is logged in: the one with `session_key` first, then by last
    use. A `number` beyond the pages counts as the last page, and a value that is not a number as the first. The data of
    the sessions are not read.
    """
    here = hash_key(session_key).hex() if session_key else ""
    sessions = Session.objects.for_user(user).active().defer("data")
    is_here = ExpressionWrapper(Q(key_hash=here), output_field=BooleanField())
    # The key comes last: without it, sessions of the same time, or of none, could be in another order on each page.
    found = sessions.order_by(is_here.desc(), *sessions.query.order_by, "pk")
    page: Page[Any] = Paginator(found, PER_PAGE).get_page(number)
    page.object_list = [
        Device(session, session.key_hash == here, device_name(session.user_agent), place_of(session.ip))
        for session in page.object_list
    ]
    return page


def device_name(user_agent: str) -> str:
    """Returns a name such as "Firefox 140 on Linux", from the browser's user agent."""
    browser = _first(BROWSERS, user_agent) or user_agent.partition("/")[0][:40]
    system = _first(SYSTEMS, user_agent)
    if browser and system:
        return _("%(browser)s on %(system)s") % {"browser": browser, "system": system}
    return browser or system or _("Unknown device")


def place_of(ip: str | None) -> str:
    """Returns "City, Country" from Django's GeoIP2, or "" where GEOIP_PATH is not set or the database has no place."""
    database = _geoip()
    if ip is None or database is None:
        return ""
    try:
        found = database.city(ip)
    except Exception:  # noqa: BLE001 - private, unknown, or a country database: the libraries' errors differ
        return ""
    return ", ".join(part for part in (found.get("city"), found.get("country_name")) if part)


def _first(table: tuple[tuple[str, str], ...], text: str) -> str:
    for name, pattern in table:
        if match := re.search(pattern, text):
            return " ".join([name, *match.groups()])
    return ""


@lru_cache(maxsize=1)
def _geoip() -> Any:
    if not getattr(django_settings, "GEOIP_PATH", None):
        return None
    from django.contrib.gis.geoip2 import HAS_GEOIP2, GeoIP2, GeoIP2Exception

    try:
        return GeoIP2() if HAS_GEOIP2 else None
    except GeoIP2Exception as error:
        emit("sessions.no_geoip", f"No places on the devices page: {error}", level=logging.WARNING)
        return None
