"""Released versions of the package, whose workers run beside today's on today's tables.

`schema_0006.whl.xz` is the wheel of the version whose newest migration is 0006_limits, which is the first released
schema: its entries are stored, and all of it is compressed with LZMA. The processes of both versions take `settings.py`
and `jobs.py`, so these two use what that version has.
"""

from __future__ import annotations

import io
import lzma
import os
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def unpack(wheel: str, directory: Path) -> Path:
    """The package in `directory`, which belongs on the path of a process. Returns `directory`."""
    with lzma.open(HERE / wheel) as packed, zipfile.ZipFile(io.BytesIO(packed.read())) as archive:
        archive.extractall(directory)
    return directory


def environment_of(package: Path, **variables: str) -> dict[str, str]:
    """Of a process that imports pgonly_django from `package`, the tests from here, and all else as this one."""
    paths = [str(package), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "DJANGO_SETTINGS_MODULE": "tests.released.settings"}
    return {**os.environ, **own, "PYTHONUNBUFFERED": "1", **variables}


def manage(package: Path, environment: dict[str, str], *arguments: str) -> str:
    """Runs a command of Django with that package; what it printed."""
    command = [sys.executable, "-m", "django", *arguments]  # the folder it runs in comes first on its path
    done = subprocess.run(
        command, cwd=package, env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
