"""What the database knows, as metrics: one file per subject. They are made of a Stats, and of no library."""

from pgonly_django.monitoring.metrics import jobs, limits, queues, reading, storage, workers
from pgonly_django.monitoring.metrics.metric import Metric

METRICS: tuple[Metric, ...] = (
    *reading.METRICS,
    *queues.METRICS,
    *jobs.METRICS,
    *workers.METRICS,
    *limits.METRICS,
    *storage.METRICS,
)
