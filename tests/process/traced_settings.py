"""A project that is traced: spans leave a process in batches, of which none is due by itself while a test runs."""

import os
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from pgonly_django.monitoring.opentelemetry import instrument
from tests.process.worker_settings import *  # noqa: F403 - settings of settings

# TRACE_STARTS=1: the starts of runs are spans, which leave the process at once.
STARTS = os.environ.get("TRACE_STARTS") == "1"
MILLISECONDS = 50 if STARTS else 60_000


def line(span):
    return f"SPAN {os.getpid()} {span.name} {span.attributes.get('pgonly.outcome')} {span.context.trace_id:032x}\n"


provider = TracerProvider()
exporter = ConsoleSpanExporter(out=sys.stdout, formatter=line)
provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=MILLISECONDS))
trace.set_tracer_provider(provider)
instrument(starts=STARTS)
