from __future__ import annotations

from django.db import models

from example_project.screening.models.paper import Paper


class ReviewerCall(models.Model):
    """One call to a reviewer. With a real model each call costs money.

    The row is committed before the call and gets its outcome after it. So a call that was in flight when its worker
    was killed is counted too: its outcome stays empty.
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
