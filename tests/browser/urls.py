"""The example's URLs, and a page of a site that shows its user a job."""

from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import path

from example_project.urls import urlpatterns as of_the_example

PAGE = """{% load pgonly %}<!DOCTYPE html><html lang="en"><head><title>Your job</title></head><body>
<h1>Your job</h1>{% job_progress job cancel=True output=True %}</body></html>"""


def job_page(request: HttpRequest, pk: str) -> HttpResponse:
    return HttpResponse(engines["django"].from_string(PAGE).render({"job": pk}, request))


urlpatterns = [path("your-job/<uuid:pk>/", job_page), *of_the_example]
