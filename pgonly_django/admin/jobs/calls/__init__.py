"""The call of a job in a form: edit a job that waits, or run one again as a new job."""

from pgonly_django.admin.jobs.calls.again import again_view
from pgonly_django.admin.jobs.calls.edit import edit_view

__all__ = ["again_view", "edit_view"]
