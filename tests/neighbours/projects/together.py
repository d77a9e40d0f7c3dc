from tests.neighbours.projects.base import *  # noqa: F403
