from django.urls import include, path

from tests.sessions import views

urlpatterns = [
    path("whoami/", views.whoami),
    path("log-in/<name>/", views.log_in),
    path("log-out/", views.log_out),
    path("fail/", views.fail),
    path("keys/", views.keys),
    path("set/<key>/", views.set_slowly),
    path("aset/<key>/", views.set_async),
    path("devices/", include("pgonly_django.sessions.urls")),
]
