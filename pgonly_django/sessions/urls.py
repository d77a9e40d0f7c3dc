"""The page "Your devices": path("account/devices/", include("pgonly_django.sessions.urls"))."""

from __future__ import annotations

from typing import cast

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, re_path
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_GET, require_POST

from pgonly_django.models import Session
from pgonly_django.sessions.devices import page_of_devices
from pgonly_django.sessions.revoke import own_key_hash, revoke_other_sessions
from pgonly_django.sessions.statements import Client


@require_GET
@never_cache
@login_required
@csrf_protect  # also on a site without Django's middleware
def devices(request: HttpRequest) -> HttpResponse:
    page = page_of_devices(_user(request), request.session.session_key, request.GET.get("page"))
    context = {
        "devices": page.object_list,
        "page": page,
        "namespace": _namespace(request),
        "lacks_middleware": settings.DEBUG and getattr(request.session, "client", Client()) == Client(),
    }
    return render(request, "pgonly_django/sessions/devices.html", context)


@require_POST
@login_required
@csrf_protect
def sign_out(request: HttpRequest, key_hash: str) -> HttpResponse:
    """Ends one of the user's own sessions. If it is the request's own, this is an ordinary logout."""
    if own_key_hash(request) == key_hash:
        logout(request)
    elif Session.objects.for_user(_user(request)).filter(key_hash=key_hash).revoke():
        messages.success(request, _("That device is signed out."), fail_silently=True)
    else:
        raise Http404
    return _to_page(request)


@require_POST
@login_required
@csrf_protect
def sign_out_others(request: HttpRequest) -> HttpResponse:
    count = revoke_other_sessions(request)
    text = ngettext("%d other device is signed out.", "%d other devices are signed out.", count)
    messages.success(request, text % count, fail_silently=True)
    return _to_page(request)


def _to_page(request: HttpRequest) -> HttpResponse:
    return redirect(f"{_namespace(request)}:devices")


def _namespace(request: HttpRequest) -> str:
    """Returns the namespace of urls.py, below those of the urls that include it."""
    return (request.resolver_match and request.resolver_match.namespace) or "pgonly_sessions"


def _user(request: HttpRequest) -> AbstractBaseUser:
    return cast("AbstractBaseUser", request.user)  # login_required refuses visitors


app_name = "pgonly_sessions"
urlpatterns = [
    path("", devices, name="devices"),
    path("sign-out-others/", sign_out_others, name="sign_out_others"),
    re_path("^(?P<key_hash>[0-9a-f]{64})/sign-out/$", sign_out, name="sign_out"),
]
