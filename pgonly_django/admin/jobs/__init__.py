"""Jobs in the admin: the list, a job's page, and the actions on jobs."""

from pgonly_django.admin.jobs.change_list import JobChangeList
from pgonly_django.admin.jobs.job_admin import JobAdmin

__all__ = ["JobAdmin", "JobChangeList"]
