"""Who has done something in the admin, as its log has it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.db import router
from django.db.models import Model

from pgonly_django.database.on_django import in_time

# What a person's click writes and its entry in the admin's log are made in one request.
SAME_REQUEST = timedelta(seconds=5)
# The log has an index of the kind of its rows alone, and may have a million entries of one.
TIME_LIMIT = timedelta(milliseconds=100)


def person_at(model: type[Model], key: Any, moment: datetime, text: str = "") -> Any:
    """Returns the person by whose click the row was changed at that moment; None where the log has no entry of it, to
    find it takes too long, or the site has no admin."""
    return people_at(model, {str(key): moment}, text).get(str(key))


def people_at(model: type[Model], moments: Mapping[str, datetime], text: str = "") -> dict[str, Any]:
    """Returns the same of many rows, by their keys, in one query."""
    if not (moments and apps.is_installed("django.contrib.admin")):
        return {}
    from django.contrib.admin.models import LogEntry
    from django.contrib.contenttypes.models import ContentType

    alias, kind = router.db_for_read(LogEntry), ContentType.objects.get_for_model(model)
    first, last = min(moments.values()) - SAME_REQUEST, max(moments.values()) + SAME_REQUEST
    entries = LogEntry.objects.using(alias).filter(content_type=kind, action_time__range=(first, last))
    rows = entries.filter(object_id__in=moments, change_message__contains=text).select_related("user")
    found = in_time(alias, TIME_LIMIT, lambda: list(rows.order_by("pk"))) or []
    return {
        str(each.object_id): each.user
        for each in found
        if abs(each.action_time - moments[str(each.object_id)]) <= SAME_REQUEST
    }
