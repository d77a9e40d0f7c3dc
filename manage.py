#!/usr/bin/env python
import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
    if sys.argv[1:2] == ["demo"]:
        from example_project.screening.demo.start import run
    else:
        from django.core.management import execute_from_command_line as run

    run(sys.argv)


if __name__ == "__main__":
    main()
