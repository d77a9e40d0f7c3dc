from __future__ import annotations

from typing import TYPE_CHECKING, cast

from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.http import Http404
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_GET, require_POST

from pgonly_django.models import Session
from pgonly_django.sessions.devices import page_of_devices
from pgonly_django.sessions.revoke import own_key_hash, revoke_other_sessions

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.http import HttpRequest, HttpResponse

NAMESPACE = "pgonly_sessions"  # of urls.py


@require_GET
@never_cache
@login_required
@csrf_protect  # also of a site without Django's middleware
def devices(request: HttpRequest) -> HttpResponse:
    """Where the user is logged in, with buttons to end each."""
    page = page_of_devices(_user(request), request.session.session_key, request.GET.get("page"))
    shown = {"devices": page.object_list, "page": page, "namespace": _namespace(request)}
    return render(request, "pgonly_django/sessions/devices.html", shown)


@require_POST
@login_required
@csrf_protect
def sign_out(request: HttpRequest, key_hash: str) -> HttpResponse:
    """End one session of the user's own; this very one is an ordinary logout."""
    if own_key_hash(request) == key_hash:
        logout(request)
        return _to_page(request)
    if not Session.objects.for_user(_user(request)).filter(key_hash=key_hash).revoke():
        raise Http404
    _say(request, _("That device is signed out."))
    return _to_page(request)


@require_POST
@login_required
@csrf_protect
def sign_out_others(request: HttpRequest) -> HttpResponse:
    count = revoke_other_sessions(request)
    _say(
        request, ngettext("%d other device is signed out.", "%d other devices are signed out.", count) % count
    )
    return _to_page(request)


def _to_page(request: HttpRequest) -> HttpResponse:
    return redirect(reverse(f"{_namespace(request)}:devices"))


def _namespace(request: HttpRequest) -> str:
    """With those of the urls that include ours."""
    return (request.resolver_match and request.resolver_match.namespace) or NAMESPACE


def _user(request: HttpRequest) -> AbstractBaseUser:
    return cast("AbstractBaseUser", request.user)  # login_required sends visitors away


def _say(request: HttpRequest, text: str) -> None:
    messages.success(request, text, fail_silently=True)
