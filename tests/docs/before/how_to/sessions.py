"""A user who is signed in, and the request in which this runs. The page of devices stands in the example's layout."""

from django.contrib import admin
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.test import Client, RequestFactory
from django.urls import include, path

from pgonly_django.sessions import SessionStore

user = User.objects.create_user("ada", password="secret")
request = RequestFactory().get("/")
request.user, request.session = user, SessionStore()
login(request, user)
urlpatterns = [path("admin/", admin.site.urls), path("", include("example_project.screening.urls"))]


def after(page):
    browser = Client()
    browser.force_login(user)
    assert page.Session.objects.for_user(user).active().count() == 1
    assert b"This device" in browser.get("/account/devices/").content
