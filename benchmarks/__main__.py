"""python -m benchmarks NAME [options]: every figure in the docs comes from one of these commands."""

from __future__ import annotations

import importlib
import sys

NAMES = ("queue", "flows", "celery", "idle", "cache", "sessions", "limits", "pages", "scale", "throttle")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(f"usage: python -m benchmarks {{{','.join(NAMES)}}} [--help]", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:]) or 0)


if __name__ == "__main__":
    raise SystemExit(main())
