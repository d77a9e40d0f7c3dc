"""Users who are signed in, in the usual browsers, and the two roles beside the demo's superuser."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.models import Permission

from example_project.screening.demo.prepare import USERNAME
from example_project.screening.demo.seeding.rows import ago
from pgonly_django.models import Session
from pgonly_django.models.session import hash_user
from pgonly_django.sessions.store import SessionStore

# How many devices each is signed in on; the demo's own user beside the present one.
VISITORS = ((USERNAME, 2), ("demo-anna", 3), ("demo-ben", 2), ("demo-chen", 1), ("demo-dora", 1))
WEBKIT, CHROME = (
    "AppleWebKit/605.1.15 (KHTML, like Gecko)",
    "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0",
)
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) {WEBKIT} Version/18.5 Mobile/15E148 Safari/604.1",
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {CHROME} Safari/537.36",
    f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT} Version/18.5 Safari/605.1.15",
    f"Mozilla/5.0 (Linux; Android 10; K) {CHROME} Mobile Safari/537.36",
)
VISITORS_WITHOUT_A_NAME = 12
OPERATOR, READER = "operator", "reader"


def write() -> None:
    make_roles()
    if settings.SESSION_ENGINE != "pgonly_django.sessions":
        return
    numbers = count(1)
    for name, devices in VISITORS:
        joined = {"date_joined": ago(days=40)}
        user, _ = get_user_model().objects.get_or_create(username=name, defaults=joined)
        since = [_open(next(numbers), user) for _ in range(devices)]
        get_user_model().objects.filter(pk=user.pk).update(last_login=max(since))
    for _ in range(VISITORS_WITHOUT_A_NAME):
        _open(next(numbers), None)


def make_roles() -> None:
    """An operator, who may see and operate all, but no data inside jobs and sessions; and a reader, who may only see.
    Neither has a password here."""
    of_ours = Permission.objects.filter(content_type__app_label="pgonly_django")
    view = [
        each for each in of_ours if each.codename.startswith("view_") and not each.codename.endswith("_data")
    ]
    operate = of_ours.filter(codename__startswith="operate_")
    for name, permissions in ((OPERATOR, [*view, *operate]), (READER, view)):
        user, is_new = get_user_model().objects.get_or_create(username=name, defaults={"is_staff": True})
        if is_new:
            user.set_unusable_password()
            user.save()
            user.user_permissions.set(permissions)


def let_roles_in(password: str) -> None:
    """The operator and the reader may sign in with it."""
    for user in get_user_model().objects.filter(username__in=[OPERATOR, READER]):
        user.set_password(password)
        user.save(update_fields=["password"])


def _open(number: int, user: Any) -> datetime:
    """Returns since when. No cookie has a key of this hash, so nobody can use the session."""
    since, store = ago(days=number % 6, hours=10), SessionStore()
    if user is not None:
        signed_in = {SESSION_KEY: str(user.pk), BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0]}
        store.update({**signed_in, HASH_SESSION_KEY: user.get_session_auth_hash()})
    store["basket"] = [number, number + 1]
    defaults = {
        "data": json.loads(store.codec.column(store.codec.encode(dict(store.items())))),
        "user_id": None if user is None else str(user.pk),
        "created_at": since, "last_seen_at": ago(minutes=number * number),
        "expires_at": since + timedelta(seconds=settings.SESSION_COOKIE_AGE),
        "user_agent": AGENTS[number % len(AGENTS)], "ip": f"203.0.113.{number}",
    }  # fmt: skip
    Session.objects.update_or_create(key_hash=hash_user(f"demo {number}").hex(), defaults=defaults)
    return since
