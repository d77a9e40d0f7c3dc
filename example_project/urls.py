from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("pgonly/", include("pgonly_django.urls")),
    path("account/devices/", include("pgonly_django.sessions.urls")),
    path("", include("example_project.screening.urls")),
]
