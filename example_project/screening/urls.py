from __future__ import annotations

from django.urls import path

from example_project.screening import views

app_name = "screening"
urlpatterns = [
    path("", views.project_list, name="projects"),
    path("projects/new/", views.new, name="new"),
    path("projects/<int:pk>/", views.project_page, name="project"),
    path("projects/<int:pk>/progress.json", views.progress, name="progress"),
    path("projects/<int:pk>/raise/", views.raise_budget, name="raise"),
    path("projects/<int:pk>/undo/", views.undo, name="undo"),
    path("projects/<int:pk>/<str:verb>/", views.operate, name="operate"),
    path("projects/<int:pk>/papers/<int:position>/", views.paper_page, name="paper"),
]
