"""docs/how-to/doctor.md explains every finding, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from pgonly_django.monitoring import conditions, doctor
from pgonly_django.monitoring.doctor.examination import NAMES
from tests.guards import ROOT, refuse

CODE = [Path(conditions.__file__), *Path(doctor.__file__).parent.glob("*.py")]
PAGE = (ROOT / "docs/how-to/doctor.md").read_text()
ID = re.compile(r"\"(D\d{3})\"")


def test_every_id_has_its_section_once():
    used = {id_ for file in CODE for id_ in ID.findall(file.read_text())}
    sections = re.findall(r"^### (D\d{3})$", PAGE, re.MULTILINE)
    assert len(used) > 20
    refuse(
        [
            *(
                f"{id_} is in pgonly_django/monitoring/doctor/, and has no section"
                for id_ in sorted(used - {*sections})
            ),
            *(f"{id_} has a section, and the doctor does not find it" for id_ in sorted({*sections} - used)),
        ],
        "docs/how-to/doctor.md has a section `### D011` for each finding: what it means, and what to do.",
    )
    assert len(sections) == len(used)


def test_ids_that_are_gone_are_not_used_again():
    used = {id_ for file in CODE for id_ in ID.findall(file.read_text())}
    gone = re.findall(r"\bD\d{3}\b", (ROOT / "CHANGELOG.md").read_text())
    assert "D081" in gone
    refuse(
        sorted(used & {*gone}), "CHANGELOG.md says that this id is gone: give the new finding another one."
    )


def test_every_subject_is_named():
    refuse([name for name in NAMES if f"`{name}`" not in PAGE], "Name this subject in docs/how-to/doctor.md.")


def test_ids_that_texts_point_to_exist():
    texts = " ".join(file.read_text() for file in CODE)
    pointed = set(re.findall(r"\bD\d{3}\b", texts))
    refuse(
        sorted(pointed - set(ID.findall(texts))),
        "A text of pgonly_django/monitoring/doctor/ points to this id, which nothing there has: correct the text.",
    )
