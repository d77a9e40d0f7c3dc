"""The shape of README, and its figures, which are those of docs/explanation/benchmarks.md."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib

import pytest

from tests.docs.pages import DOCS, ROOT, Page

README, BENCHMARKS = Page(ROOT / "README.md"), Page(DOCS / "explanation" / "benchmarks.md")
CLASSIFIERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
FIGURE = re.compile(r"(?<![\w.])\d[\d,.]*\d|(?<![\w.])\d")


def section(heading: str) -> str:
    return re.split(r"^## ", README.text.split(f"\n## {heading}", 1)[1], flags=re.MULTILINE)[0]


def rows(text: str) -> list[str]:
    """The rows of its tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line for number, line in enumerate(lines) if number > 1]


def blocks(language: str) -> list[str]:
    return [block.code for block in README.blocks if block.language == language]


def test_each_measured_figure_stands_in_benchmarks():
    figures = FIGURE.findall("\n".join(row.rpartition(" | ")[0] for row in rows(section("Measured"))))
    assert len(figures) > 12
    assert set(figures) - set(FIGURE.findall(BENCHMARKS.text)) == set()


@pytest.mark.parametrize("row", rows(section("Measured")), ids=lambda row: row.split(" | ")[0])
def test_its_factor_is_that_of_the_two_measured_figures(row):
    _, here, there, factor = row.strip("|").split(" | ")
    ours, theirs = (float(FIGURE.findall(cell.split(": ")[-1])[0].replace(",", "")) for cell in (here, there))
    assert float(factor) == pytest.approx(ours / theirs if "jobs/s" in here else theirs / ours, rel=0.005)


def test_it_ends_with_at_most_twelve_links_in_five_groups_and_has_five_more():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README.text)
    groups = rows(section("Read on"))
    assert len(groups) == 5
    in_groups = sum(row.count("](") for row in groups)
    assert in_groups <= 12
    assert len(README.links) - len(pictures) - in_groups <= 5


def test_the_heads_of_its_tables_have_words():
    lines = README.text.splitlines()
    heads = [above for above, line in itertools.pairwise(lines) if line.startswith("|---")]
    assert heads
    assert [head for head in heads if not all(cell.strip() for cell in head.strip("|").split("|"))] == []


def test_it_shows_two_short_jobs_three_commands_each_in_a_block_and_four_settings():
    *jobs, settings = blocks("python")
    assert [len([line for line in job.splitlines() if line.strip()]) <= 16 for job in jobs] == [True, True]
    assert (
        len([each for each in ast.parse(settings).body if isinstance(each, ast.Assign | ast.AugAssign)]) == 4
    )
    assert [len(block.splitlines()) for block in blocks("sh")] == [1, 1, 1]


def test_its_code_is_that_of_the_first_page_of_docs():
    (code,) = [block.code for block in Page(DOCS / "index.md").blocks if block.language == "python"]
    assert code in blocks("python")


def test_it_has_at_most_1100_words():
    assert len(README.text.split()) <= 1_100


def test_ci_runs_its_first_command_and_the_tests():
    patterns = re.findall(r"grep -m1 -E '([^']+)' README\.md", (ROOT / ".ci" / "run").read_text())
    commands = blocks("sh")
    assert [[bool(re.search(each, command)) for command in commands] for each in patterns] == [
        [True, False, False],
        [False, False, True],
    ]


def test_its_badges_name_the_supported_versions():
    (badges,) = re.findall(r"^`Python .*$", README.text, re.MULTILINE)
    pythons, djangos = (
        re.findall(rf"^{kind} :: (\d+\.\d+)$", "\n".join(CLASSIFIERS), re.MULTILINE)
        for kind in ("Programming Language :: Python", "Framework :: Django")
    )
    assert f"`Python {pythons[0]} to {pythons[-1]}`" in badges
    assert f"`Django {', '.join(djangos)}`" in badges
