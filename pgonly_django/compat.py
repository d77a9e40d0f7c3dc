"""The one module that knows which Django and which Python is running."""

from __future__ import annotations
