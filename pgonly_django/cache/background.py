"""What a cancelled or unanswered call of a cache left undone."""

from pgonly_django.database.background import Background

background = Background("cache")
