"""The panels of caches and sessions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.urls import reverse

from pgonly_django.admin import formats
from pgonly_django.admin.links import Links
from pgonly_django.admin.overview.overview import Overview, alias_of
from pgonly_django.admin.sessions.users import user_names
from pgonly_django.cache.backend import our_caches
from pgonly_django.models import CacheEntry, DurableCacheEntry, Session
from pgonly_django.monitoring.storage import CacheFigures, OfUser, caches, sessions


def caches_panel(overview: Overview) -> dict[str, Any]:
    rows = [
        {"cache": cache, **_cache(cache), "clear_url": _clear_url(overview, cache)}
        for cache in caches()
        if overview.may_view(_model_of(cache))
    ]
    return {"rows": rows} if rows else {}


def _model_of(cache: CacheFigures) -> type[CacheEntry | DurableCacheEntry]:
    return DurableCacheEntry if cache.table.endswith("_durable") else CacheEntry


def _cache(cache: CacheFigures) -> dict[str, Any]:
    about = "~" if cache.is_estimate else ""
    bound = None
    if cache.max_bytes:
        bound = formats.progress_bar(cache.bytes, cache.max_bytes)
    elif cache.max_entries:
        bound = formats.progress_bar(cache.entries, cache.max_entries)
    return {
        "entries": f"{about}{cache.entries:,}",
        "bound": bound,
        "hit_rate": "-" if cache.hit_rate is None else f"{cache.hit_rate:.1%}",
    }


def _clear_url(overview: Overview, cache: CacheFigures) -> str:
    model = _model_of(cache)
    if not overview.site.get_model_admin(model).has_delete_permission(overview.request):
        return ""
    return reverse(Links.name(model, "clear"), args=[cache.alias], current_app=overview.site.name)


def cache_aliases() -> Iterable[str]:
    return {cache.store.pool.alias for cache in our_caches().values()}


def sessions_panel(overview: Overview) -> dict[str, Any]:
    found = sessions(alias_of(Session))
    names = user_names(each.user_id for each in found.by_user)
    return {
        "active": found.active.label,
        "logged_in": found.logged_in.label,
        "users": [
            {
                "name": formats.brief(names.get(each.user_id, each.user_id)),
                "active": each.active,
                "url": overview.list_url(Session, q=each.user_id, state="active"),
                "buttons": overview.buttons(_newest_of(each), "revoke_user"),
            }
            for each in found.by_user
        ],
        "url": overview.list_url(Session, state="active"),
    }


def _newest_of(user: OfUser) -> Session:
    """Enough of the row for its buttons."""
    session: Any = Session(key_hash=user.key_hash, user_id=user.user_id)
    session.is_ended = False
    return session  # type: ignore[no-any-return] # a Session
