"""Who has done something in the admin, as its log has it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.db.models import Model

# What a person's click writes and its entry in the admin's log are made in one request.
SAME_REQUEST = timedelta(seconds=5)


def person_at(model: type[Model], key: Any, moment: datetime, text: str = "") -> Any:
    """Returns the person by whose click the row was changed at that moment; None where the log has no entry of it, or
    the site has no admin."""
    if not apps.is_installed("django.contrib.admin"):
        return None
    from django.contrib.admin.models import LogEntry
    from django.contrib.contenttypes.models import ContentType

    kind = ContentType.objects.get_for_model(model)
    times = moment - SAME_REQUEST, moment + SAME_REQUEST
    entries = LogEntry.objects.filter(content_type=kind, object_id=str(key), action_time__range=times)
    entry = entries.filter(change_message__contains=text).select_related("user").order_by("-pk").first()
    return entry and entry.user
