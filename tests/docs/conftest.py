from __future__ import annotations

from tests.monitoring.doctor.conftest import (  # noqa: F401 - fixtures
    own_server,
    pretend,
    running_server,
    server_to_ruin,
    sql,
)
