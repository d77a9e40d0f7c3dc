"""Jobs in the admin: the list, a job's page, and what a person may do to jobs."""

from pgonly_django.admin.jobs.change_list import JobChangeList
from pgonly_django.admin.jobs.job_admin import JobAdmin

__all__ = ["JobAdmin", "JobChangeList"]
