"""The cells of the list of sessions, and of a session's page."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import now
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.sessions.users import user_names
from pgonly_django.conf import settings
from pgonly_django.masking import masked
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions.devices import device_name
from pgonly_django.wording import duration


@admin.display(description=gettext_lazy("state"))
def state_badge(session: Any) -> SafeString:
    if session.is_ended:
        return formats.badge("stopped", _("Ended"), _("The row keeps it from coming back."))
    if session.expires_at > now():
        return formats.badge("live", _("Active"))
    return formats.badge("expired", _("Expired"))


@admin.display(description=gettext_lazy("user"))
def user(session: Any) -> str:
    if not session.user_id:
        return _("visitor")
    known = getattr(session, "user_name", None)
    return str(known or user_names({session.user_id}).get(session.user_id, session.user_id))


@admin.display(description=gettext_lazy("device and address"))
def device(session: Any) -> SafeString:
    html = '<span title="{}">{}</span><span class="pgonly-second pgonly-whole">{}</span>'
    return format_html(html, session.user_agent, device_name(session.user_agent), session.ip or "")


@admin.display(description=gettext_lazy("last seen"))
def last_seen(session: Any) -> str:
    if session.last_seen_at is None:
        return "-"
    return formats.time_tag(session.last_seen_at, _("%s ago") % formats.age(session.last_seen_at))


@admin.display(description=gettext_lazy("expires"))
def expires(session: Any) -> SafeString:
    left = session.expires_at - now()
    text = (_("%s ago") if left < timedelta(0) else _("in %s")) % duration(abs(left))
    return formats.time_tag(session.expires_at, text)


@admin.display(description=gettext_lazy("data"))
def decoded_data(session: Any) -> SafeString:
    data, _entries = SessionStore().codec.decode(session.data or {})
    hidden = masked(data, settings().session_masked_keys)
    text = formats.pretty_json(hidden, default=_as_text, skipkeys=True)
    return format_html('<pre class="pgonly-code">{}</pre>', text)


def _as_text(value: Any) -> str:
    """For values that JSON does not have. Of an object only the type: its repr() may name secrets."""
    return str(value) if isinstance(value, (date, Decimal, UUID)) else f"<{type(value).__name__}>"
