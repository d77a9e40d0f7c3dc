from django.contrib import admin
from django.contrib.auth.models import User
from django.test import RequestFactory

from pgonly_django.models import Job


def after(page):
    jobs = admin.site._registry[Job]
    assert type(jobs) is page.PatientJobAdmin
    request = RequestFactory().get("/")
    request.user = User.objects.create_superuser("root")
    assert type(jobs.changelist_view(request).context_data["cl"]) is page.PatientChangeList
