"""What a cancelled or unanswered call of a limiter or a budget left undone."""

from pgonly_django.database.background import Background

background = Background("limits")
