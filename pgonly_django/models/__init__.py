"""The tables, and the verbs on their rows. SQL that a model cannot say is in queue/, cache/ and sessions/."""

from pgonly_django.models.batch import JobBatch
from pgonly_django.models.budget import Budget, CostEntry, Reservation
from pgonly_django.models.cache_entry import CacheEntry, CacheLock, CacheUsage, DurableCacheEntry
from pgonly_django.models.checkpoint import Checkpoint, JobOutput, Step
from pgonly_django.models.job import Job, State
from pgonly_django.models.job_stats import JobStats
from pgonly_django.models.limiter import Limiter, LimiterSlot, LimiterWaiter
from pgonly_django.models.pages import Doctor, Overview
from pgonly_django.models.queue import Queue, QueueTokens
from pgonly_django.models.schedule import Schedule, Tick
from pgonly_django.models.session import Session
from pgonly_django.models.waits import Event, Wait
from pgonly_django.models.worker import Worker

__all__ = [
    "Budget",
    "CacheEntry",
    "CacheLock",
    "CacheUsage",
    "Checkpoint",
    "CostEntry",
    "Doctor",
    "DurableCacheEntry",
    "Event",
    "Job",
    "JobBatch",
    "JobOutput",
    "JobStats",
    "Limiter",
    "LimiterSlot",
    "LimiterWaiter",
    "Overview",
    "Queue",
    "QueueTokens",
    "Reservation",
    "Schedule",
    "Session",
    "State",
    "Step",
    "Tick",
    "Wait",
    "Worker",
]
