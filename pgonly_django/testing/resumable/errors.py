"""What assert_resumable() raises. Both are AssertionErrors, so that a test that meets them has failed."""

from __future__ import annotations


class NotResumableError(AssertionError):
    """After a kill and a resume the job did not end as without a kill, or paid for a call twice."""


class NotTestableError(AssertionError):
    """assert_resumable() cannot judge the job here; the message says what to change."""
