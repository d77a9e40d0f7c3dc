"""What a request to the admin may carry and no statement takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import ValidationError

if TYPE_CHECKING:
    from django.db.models import Field
    from django.http import HttpRequest


def refuse_nul(request: HttpRequest) -> None:
    """An address with a NUL character leads back to the plain list."""
    if any("\x00" in value for _name, values in request.GET.lists() for value in values):
        raise IncorrectLookupParameters


def drop_impossible_keys(request: HttpRequest, primary_key: Field[Any, Any]) -> None:
    """A selection of rows keeps only what can be the key of one."""
    selected = request.POST.getlist(ACTION_CHECKBOX_NAME)
    possible = [key for key in selected if _is_possible(key, primary_key)]
    if possible != selected:
        post = request.POST.copy()
        post.setlist(ACTION_CHECKBOX_NAME, possible)
        request.POST = post  # type: ignore[assignment] # a QueryDict as before


def _is_possible(key: str, primary_key: Field[Any, Any]) -> bool:
    try:
        primary_key.to_python(key)
    except ValidationError:
        return False
    return True
