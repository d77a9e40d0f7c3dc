"""python -m benchmarks pages: how long each page of the admin takes over big tables, and by which plans."""

from benchmarks.pages.command import main

__all__ = ["main"]
