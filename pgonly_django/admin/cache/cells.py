"""The cells of the list of cache entries, of an entry's page, and of the numbers of the caches."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import now
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.cache.entry import JSON, OWN, PICKLE, ZLIB, ZSTD, unpack
from pgonly_django.monitoring.storage import CacheFigures
from pgonly_django.wording import duration

_SERIALIZERS = {PICKLE: "pickle", JSON: "JSON", OWN: gettext_lazy("own serializer")}
_COMPRESSORS = {ZLIB: ", zlib", ZSTD: ", zstd"}


@admin.display(description=gettext_lazy("key"), ordering="key")
def name(entry: Any) -> str:
    return str(entry.name)


@admin.display(description=gettext_lazy("cache"))
def cache(entry: Any) -> str:
    return str(entry.namespace)


@admin.display(description=gettext_lazy("type"))
def kind(entry: Any) -> str:
    if entry.number is not None:
        return _("integer")
    if entry.size is None:
        return _("being computed")
    serializer = _SERIALIZERS.get(entry.codec % 10, gettext_lazy("unknown"))
    return f"{serializer}{_COMPRESSORS.get(entry.codec // 10 * 10, '')}"


@admin.display(description=gettext_lazy("bytes"), ordering="size")
def size(entry: Any) -> str:
    return "" if entry.size is None else f"{entry.size:,}"


@admin.display(description=gettext_lazy("expires"), ordering="expires_at")
def expires(entry: Any) -> str:
    if entry.expires_at is None:
        return _("never")
    left = entry.expires_at - now()
    text = _("in %s") % duration(left) if left.total_seconds() > 0 else _("expired")
    return formats.time_tag(entry.expires_at, text)


@admin.display(description=gettext_lazy("tags"))
def tag_names(entry: Any) -> str:
    return ", ".join(tag.partition(":")[2] for tag in entry.tags or ())


@admin.display(description=gettext_lazy("value"))
def content(entry: Any) -> str:
    """Numbers and JSON. Nothing is unpickled: a pickle can run any code."""
    if entry.number is not None:
        return str(entry.number)
    if entry.value is None or entry.codec % 10 != JSON:
        return _("Not shown: only numbers and JSON are. To unpickle a value can run any code.")
    try:
        value = json.loads(unpack(entry.codec, bytes(entry.value)))
    except Exception as error:  # noqa: BLE001 - damaged, or of a compressor that is not installed here
        return _("Not shown: %s") % f"{error!r:.200}"
    return format_html('<pre class="pgonly-code">{}</pre>', formats.pretty_json(value))


def numbers(figures: CacheFigures) -> dict[str, Any]:
    """The cells of one cache."""
    about = "~" if figures.is_estimate else ""
    return {
        "entries": _of(
            f"{about}{figures.entries:,}", f"{figures.max_entries:,}" if figures.max_entries else ""
        ),
        "bytes": _of(
            f"{about}{filesizeformat(figures.bytes)}",
            filesizeformat(figures.max_bytes) if figures.max_bytes else "",
        ),
        "bar": _bar(figures),
        "disk": filesizeformat(figures.table_bytes),
        "hit_rate": _("none yet") if figures.hit_rate is None else f"{figures.hit_rate:.1%}",
    }


def _of(amount: str, bound: str) -> str:
    return _("%(amount)s of %(bound)s") % {"amount": amount, "bound": bound} if bound else amount


def _bar(figures: CacheFigures) -> SafeString:
    if figures.max_bytes:
        return formats.progress_bar(figures.bytes, figures.max_bytes)
    if figures.max_entries:
        return formats.progress_bar(figures.entries, figures.max_entries)
    return SafeString("")
