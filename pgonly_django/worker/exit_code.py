"""What a worker's process ends with."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Errors before the start end with Django's 1, wrong flags with 2."""

    STOPPED = 0  # asked to, or --burst, --max-jobs, --max-idle-seconds came true
    BROKEN = 1  # its loop raised something: what ran is rescued once its leases are over
    REPLACE_ME = (
        3  # start a fresh process: it has retired, or jobs that ignore their interruption hold all slots
    )
