"""Django's own test suite of the running version, fetched when a contract test asks for it.

The wheel does not carry it, the source distribution does. It is kept in the ignored folder `.ci-cache`.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

CACHE = Path(__file__).resolve().parents[2] / ".ci-cache"


def tests_folder() -> Path:
    """The folder `tests` of Django's sources, to put on sys.path. Fetched once a version, by one process."""
    version = django.get_version()
    folder = CACHE / f"django-{version}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(version, folder)
    return folder / "tests"


def _fetch(version: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "--dest", scratch, f"Django=={version}"], check=True, timeout=300)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as source:
            wanted = [member for member in source if "/tests/" in member.name]
            source.extractall(Path(scratch) / "sources", wanted, filter="data")
        (extracted,) = (Path(scratch) / "sources").iterdir()
        extracted.rename(folder)
