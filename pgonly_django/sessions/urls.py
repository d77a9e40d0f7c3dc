"""path("account/devices/", include("pgonly_django.sessions.urls"))"""

from __future__ import annotations

from django.urls import path, re_path

from pgonly_django.sessions import views

app_name = "pgonly_sessions"
urlpatterns = [
    path("", views.devices, name="devices"),
    path("sign-out-others/", views.sign_out_others, name="sign_out_others"),
    re_path("^(?P<key_hash>[0-9a-f]{64})/sign-out/$", views.sign_out, name="sign_out"),
]
