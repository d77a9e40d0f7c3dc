"""An app of the project whose model has a trigger of django-pghistory."""
