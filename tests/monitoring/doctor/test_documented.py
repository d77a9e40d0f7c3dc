"""docs/how-to/doctor.md explains every finding, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pgonly_django
from pgonly_django.monitoring import doctor
from pgonly_django.monitoring.doctor.subjects import NAMES

CODE = Path(doctor.__file__).parent
PAGE = (Path(pgonly_django.__file__).parents[1] / "docs/how-to/doctor.md").read_text()
ID = re.compile(r"\"(D\d{3})\"")


def test_every_id_has_its_section_once():
    used = {id_ for file in CODE.glob("*.py") for id_ in ID.findall(file.read_text())}
    sections = re.findall(r"^### (D\d{3})$", PAGE, re.MULTILINE)
    assert len(used) > 40
    assert sorted(sections) == sorted(used)


def test_every_subject_is_named():
    assert all(f"`{name}`" in PAGE for name in NAMES)


def test_ids_that_texts_point_to_exist():
    texts = " ".join(file.read_text() for file in CODE.glob("*.py"))
    pointed = set(re.findall(r"\bD\d{3}\b", texts))
    assert pointed <= set(ID.findall(texts))
