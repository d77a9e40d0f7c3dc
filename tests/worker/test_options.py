from __future__ import annotations

import pytest

from pgonly_django.exceptions import OptionError
from pgonly_django.worker.options import WorkerOptions


@pytest.mark.parametrize("name", ["a\udcff", "a\0b"])
def test_names_that_postgres_cannot_store_are_refused(name):
    with pytest.raises(OptionError, match="--name must be text in UTF-8, got 'a"):
        WorkerOptions(name=name)
    with pytest.raises(OptionError, match="--queues must be names in UTF-8, got"):
        WorkerOptions(queues=("good", name))
    assert WorkerOptions(name="schön", queues=("läuft",)).name == "schön"
