from __future__ import annotations

from django.db import models
from simple_history.models import HistoricalRecords


class Paper(models.Model):
    title = models.TextField()
    history = HistoricalRecords()

    class Meta:
        app_label = "library"

    def __str__(self):
        return self.title
