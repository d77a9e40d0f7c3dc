from __future__ import annotations

from django.db import models

from example_project.screening.models.paper import Paper


class ReviewerCall(models.Model):
    """One call to a reviewer, the thing that costs money with a real model.

    The row is written in a statement of its own before the call and closed after it, so calls that a killed
    worker had in flight are counted as well: they stay with an empty outcome.
    """

    paper = models.ForeignKey(Paper, models.CASCADE, related_name="calls")
    reviewer = models.CharField(max_length=100)
    outcome = models.CharField(
        max_length=40, blank=True, help_text="answered, or the error's name; empty: in flight"
    )
    started_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.reviewer} on {self.paper_id}: {self.outcome or 'in flight'}"
