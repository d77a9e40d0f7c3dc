"""How long a platform waits between its stop signal and the kill, where its variables tell which one it is."""

import os
from collections.abc import Mapping

# Below the 30 s of Kubernetes, Amazon ECS, Heroku and Render.
DEFAULT_GRACE_SECONDS = 20.0

# A variable that the platform itself sets, and the grace: below its own limit, with time left to write the ends.
GRACE_SECONDS = {
    "K_SERVICE": 8.0,  # Cloud Run, a service: 10 s
    "CLOUD_RUN_JOB": 8.0,  # Cloud Run, a job: 10 s
    "CLOUD_RUN_WORKER_POOL": 8.0,  # Cloud Run, a worker pool: 10 s
    "FLY_MACHINE_ID": 4.0,  # Fly.io: kill_timeout is 5 s
}


def default_grace_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """What --grace-seconds is where it is not given."""
    return min(
        (seconds for name, seconds in GRACE_SECONDS.items() if environ.get(name)),
        default=DEFAULT_GRACE_SECONDS,
    )
