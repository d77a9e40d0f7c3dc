"""How the admin shows times, money, JSON and states. Whatever comes from a row is escaped here."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import slugify
from django.utils.translation import gettext as _

from pgonly_django import wording
from pgonly_django.amounts import shown
from pgonly_django.database.statement import printable
from pgonly_django.models.readable import OddValue
from pgonly_django.queue.enqueue import aware

TEXT_SHOWN, LINE_SHOWN = 50_000, 300
ONE_SECOND = timedelta(seconds=1)
CENT = Decimal("0.01")
NO_BREAK = "\N{NO-BREAK SPACE}"


def short_name(path: str) -> str:
    return path.rpartition(".")[2]


def duration(time: timedelta | float) -> str:
    """Formats a duration as logs and commands do, without a line break between a number and its unit."""
    return re.sub(r"(?<=\d) ", NO_BREAK, wording.duration(time).replace(" us", " µs"))


def whole(time: timedelta) -> str:
    """Formats a duration in whole seconds: on a page that refreshes itself, fractions would only flicker."""
    return duration(time // ONE_SECOND)


def age(since: datetime, now: datetime | None = None) -> str:
    return whole((now or timezone.now()) - since)


def about(time: timedelta) -> str:
    """Formats a duration in its largest unit alone, for a narrow column: "2 h" for 2 h 5 min."""
    return whole(time).partition(" ")[0]


def ago(moment: datetime, now: datetime | None = None) -> SafeString:
    return time_tag(moment, _("%s ago") % age(moment, now))


def until(moment: datetime, past: str, now: datetime | None = None) -> SafeString:
    """Formats a time as "in 5 min"; when it has passed as `past`, such as "%s ago"."""
    left = moment - (now or timezone.now())
    text = past if left < timedelta(0) else _("in %s")
    return time_tag(moment, text.replace("%s", whole(abs(left))))


def exact_time(moment: datetime) -> str:
    """Formats date and time to the second, in the current time zone; without USE_TZ in TIME_ZONE."""
    return date_format(timezone.localtime(moment) if settings.USE_TZ else moment, "Y-m-d H:i:s")


def exact(moment: datetime | None) -> SafeString:
    """Returns the same as an element; "-" for None."""
    if moment is None:
        return SafeString("-")
    return format_html('<time datetime="{}">{}</time>', aware(moment).isoformat(), exact_time(moment))


def time_tag(moment: datetime, text: str) -> SafeString:
    """Shows `text`, with the exact time on hover and for machines."""
    html = '<time datetime="{}" title="{}">{}</time>'
    return format_html(html, aware(moment).isoformat(), exact_time(moment), text)


def money(usd: Decimal | None, tokens_in: int | None = None, tokens_out: int | None = None) -> SafeString:
    """Formats a cost: "$0.01 (900 tokens in, 7 out)", with the exact amount on hover; "" where it is not known."""
    if usd is None:
        return SafeString("")
    exact, text = shown(usd), dollars(usd)
    amount = text if text == exact else format_html('<span title="{}">{}</span>', exact, text)
    beside = tokens(tokens_in, tokens_out)
    return format_html("{} ({})", amount, beside) if beside else format_html("{}", amount)


def tokens(tokens_in: int | None, tokens_out: int | None) -> str:
    if not (tokens_in or tokens_out):
        return ""
    return _("%(in)s tokens in, %(out)s out") % {"in": f"{tokens_in or 0:,}", "out": f"{tokens_out or 0:,}"}


def money_above_tokens(usd: Decimal, tokens_in: int | None, tokens_out: int | None) -> SafeString:
    """Formats a cost for a cell."""
    return format_html("{}{}", money(usd), second(tokens(tokens_in, tokens_out)))


def dollars(usd: Decimal) -> str:
    """Rounds to cents; less than a cent to its first digit, so that no cost looks like none."""
    return shown(round(usd, 2 if usd >= CENT or not usd else -usd.adjusted()))


def badge(kind: str, label: str, title: str = "") -> SafeString:
    """Shows a coloured word. `kind` (a state, an outcome) picks the colour in the stylesheet."""
    html = '<span class="pgonly-badge pgonly-{}" title="{}">{}</span>'
    return format_html(html, slugify(kind), title, label)


def named(name: str, beside: str = "", below: str = "") -> SafeString:
    """Shows the name of a row, with a badge beside it, and a second line below it."""
    return format_html('<span class="pgonly-name">{}</span> {}{}', name, beside, second(below, below))


def second(text: str, title: str = "") -> SafeString:
    """Shows a line below the first one of a cell; "" without a text. `title` is shown on hover."""
    if not text:
        return SafeString("")
    if title:
        return format_html('<span class="pgonly-second" title="{}">{}</span>', title, text)
    return format_html('<span class="pgonly-second">{}</span>', text)


def progress_bar(done: float, total: float) -> SafeString:
    """Returns a <progress>: no inline style, so that it works under a strict CSP."""
    html = '<progress class="pgonly-progress" value="{}" max="{}">{}</progress>'
    return format_html(html, done, total, f"{int(100 * min(max(done, 0), total) / total)}%")


def used(used: int, of: int, text: str) -> SafeString:
    """Shows a bar, and beside it how much of a limit is in use."""
    return format_html('<span class="pgonly-of">{} {}</span>', progress_bar(used, of), text)


def one_line(text: str, kind: str = "pgonly-line") -> SafeString:
    """Shows `text` in one line, which the stylesheet cuts where there is no room. All of it is shown on hover."""
    line = " ".join(text.split())
    html = '<span class="{}" title="{}">{}</span>'
    return format_html(html, kind, line, brief(line, LINE_SHOWN)) if line else SafeString("")


def pretty_json(value: Any, **options: Any) -> str:
    """Returns indented JSON in the order of its keys, with half surrogate pairs as escapes. `options` are for
    json.dumps(). Cut after TEXT_SHOWN characters, with a note that says so.
    """
    if isinstance(value, OddValue):
        return shortened(printable(str(value)))
    try:
        return shortened(printable(json.dumps(value, indent=2, ensure_ascii=False, **options)))
    except (ValueError, RecursionError):  # also for objects of a session that contain each other
        return _("It cannot be shown: it is nested too deeply, or has a number of thousands of digits.")


def json_block(value: Any, **options: Any) -> SafeString:
    return format_html('<pre class="pgonly-code">{}</pre>', pretty_json(value, **options))


def shortened(text: str, limit: int = TEXT_SHOWN) -> str:
    if len(text) <= limit:
        return text
    return text[:limit] + "\n" + _("… cut here; %(total)s characters in all") % {"total": f"{len(text):,}"}


def brief(text: str, limit: int = 80) -> str:
    """Shortens a name that stands in a line or a cell."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
