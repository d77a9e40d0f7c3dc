"""Django's SessionMiddleware, which also records from where and when each session was used."""

from __future__ import annotations

import ipaddress
import logging

from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.db import Error
from django.http import HttpRequest, HttpResponse

from pgonly_django.conf import settings
from pgonly_django.events import emit
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions.statements import Client

USER_AGENT_LENGTH = 512


class SessionMiddleware(DjangoSessionMiddleware):
    """Django's SessionMiddleware, whose place it takes in MIDDLEWARE, with the IP address, the user agent and the time
    of the last use in the row of the session. For a session that the request used but did not change, it writes them at
    most once in SESSION_TOUCH_SECONDS."""

    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)
        if isinstance(request.session, SessionStore):
            agent: str = request.headers.get("user-agent", "")
            agent = agent.replace("\x00", "")[:USER_AGENT_LENGTH].encode("utf-8", "replace").decode()
            request.session.client = Client(client_ip(request), agent)

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        response = super().process_response(request, response)
        session = getattr(request, "session", None)
        if isinstance(session, SessionStore) and response.status_code < 500:  # noqa: PLR2004 - a server's error
            try:
                session.touch_if_due()
            except Error as error:  # the database is read-only, say; the response is complete by now
                message = f"The time at which a session was used could not be written: {str(error).strip()}"
                emit("sessions.touch_failed", message, level=logging.WARNING)
        return response


def client_ip(request: HttpRequest) -> str | None:
    """Returns the address of the client that connected to the outermost of your proxies; None where it is not an
    address. Each proxy appends the address of its client to X-Forwarded-For, so your proxies wrote the last
    PGONLY["SESSION_TRUSTED_PROXIES"] entries; those before may be made up. With fewer entries, or without the header,
    the request did not come through the proxies."""
    proxies = int(settings().session_trusted_proxies)
    header = request.headers.get("x-forwarded-for", "")
    entries = header.split(",") if header and proxies else []
    address = entries[-proxies] if len(entries) >= proxies > 0 else request.META.get("REMOTE_ADDR", "")
    # May be `1.2.3.4:80`, `[::1]:80`, `fe80::1%eth0` or `::ffff:1.2.3.4`.
    text = address.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(ip, "ipv4_mapped", None) or ip)
