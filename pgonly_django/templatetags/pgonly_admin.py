"""What the templates of our pages in the admin need. As in pgonly_overview.py, nothing imports the admin at once."""

from __future__ import annotations

import re
from typing import Any

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst

register = template.Library()

# As Django and the themes begin a cell of a list. What a cell holds is escaped, so none of it looks like this.
_CELL = re.compile(r'<t[dh] (?=class="(?:[^"]* )?field-([\w-]+))')


@register.filter
def labelled(html: str, changelist: Any) -> SafeString:
    """The cells of a list with the names of their columns, which begin the lines of a card on a phone."""
    labels = _labels(changelist)

    def with_label(cell: re.Match[str]) -> str:
        label = labels.get(cell[1])
        return f'{cell[0]}data-label="{escape(label)}" ' if label else cell[0]

    return mark_safe(_CELL.sub(with_label, html))  # noqa: S308 - what was safe before, and an escaped label


def _labels(changelist: Any) -> dict[str, str]:
    """The names of the columns, by the class of their cells."""
    from django.contrib.admin.utils import label_for_field

    labels = {}
    for column in changelist.list_display:
        label = label_for_field(column, changelist.model, model_admin=changelist.model_admin)
        labels[column if isinstance(column, str) else column.__name__] = capfirst(str(label))
    return labels
