"""Workers in the admin: the list with what each serves and holds, and the page of one with its jobs."""

from pgonly_django.admin.workers.worker_admin import WorkerAdmin

__all__ = ["WorkerAdmin"]
