from __future__ import annotations

import pghistory
from django.db import models


@pghistory.track()
class Book(models.Model):
    title = models.TextField()

    class Meta:
        app_label = "tracked"

    def __str__(self):
        return self.title
