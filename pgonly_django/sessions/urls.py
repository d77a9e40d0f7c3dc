"""path("account/devices/", include("pgonly_django.sessions.urls"))"""

from __future__ import annotations

from django.urls import path, register_converter

from pgonly_django.sessions import views


class KeyHash:
    regex = "[0-9a-f]{64}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(KeyHash, "pgonly_key_hash")

app_name = "pgonly_sessions"
urlpatterns = [
    path("", views.devices, name="devices"),
    path("sign-out-others/", views.sign_out_others, name="sign_out_others"),
    path("<pgonly_key_hash:key_hash>/sign-out/", views.sign_out, name="sign_out"),
]
