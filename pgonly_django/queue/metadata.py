"""The metadata of a job as its row has it: what goes with a call beside the arguments, such as a tenant or a trace."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Bytes of JSON in one row, the headers of traces included.
METADATA_LIMIT = 8192
# What carries a trace: of no interest to a person who looks at a list.
TRACE_HEADERS = ("traceparent", "tracestate", "baggage", "sentry-trace")


def read_only(metadata: Any) -> Mapping[str, Any]:
    """A view, which raises TypeError for a change: nothing would keep it. Empty where another program has written
    something else than a JSON object."""
    return MappingProxyType(metadata if isinstance(metadata, dict) else {})
