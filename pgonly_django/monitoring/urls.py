"""`path("", include("pgonly_django.monitoring.urls"))`: the view for Prometheus, at metrics/."""

from django.urls import path

from pgonly_django.monitoring.views import metrics

app_name = "pgonly_monitoring"
urlpatterns = [path("metrics", metrics, name="metrics"), path("metrics/", metrics)]
