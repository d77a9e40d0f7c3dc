"""An app of the project: a model that other packages watch, and a job that writes it."""
