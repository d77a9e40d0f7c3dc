"""The shape of README, and its figures, which are those of docs/explanation/benchmarks.md."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib

from tests.docs.pages import DOCS, FENCE, ROOT, Page

README, BENCHMARKS = Page(ROOT / "README.md"), Page(DOCS / "explanation" / "benchmarks.md")
CACHE = Page(DOCS / "how-to" / "cache.md")
CLASSIFIERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
FIGURE = re.compile(r"(?<![\w.])\d[\d,.]*\d|(?<![\w.])\d")


def section(heading: str, page: Page = README) -> str:
    return re.split(r"^## ", page.text.split(f"\n## {heading}", 1)[1], flags=re.MULTILINE)[0]


def rows(text: str) -> list[str]:
    """The rows of its tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line for number, line in enumerate(lines) if number > 1]


def blocks(language: str) -> list[str]:
    return [block.code for block in README.blocks if block.language == language]


def test_its_three_measured_lines_stand_word_for_word_in_benchmarks():
    measured = rows(section("Measured"))
    assert len(measured) == 3
    assert [row for row in measured if row not in BENCHMARKS.text.splitlines()] == []


def test_each_figure_of_its_text_about_measurements_stands_in_benchmarks():
    figures = FIGURE.findall(section("Measured"))
    assert len(figures) > 6
    assert set(figures) - set(FIGURE.findall(BENCHMARKS.text)) == set()


def test_its_figures_of_the_cache_are_those_of_the_page_of_the_cache():
    (ours,) = [row for row in rows(section("Measured")) if "cache.get" in row]
    times = {row.split(" | ")[0].strip("| "): FIGURE.findall(row) for row in rows(section("How fast", CACHE))}
    (get, get_there), (set_, set_there) = ((times[name][1], times[name][4]) for name in ("get", "set"))
    ratios = [f"{int(here) / int(there):.2f}" for here, there in ((get, get_there), (set_, set_there))]
    assert FIGURE.findall(ours.split(" | ", 1)[1]) == [get, set_, get_there, set_there, *ratios]


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


def test_it_shows_ten_lines_of_code_three_commands_each_in_a_block_and_four_settings():
    code, settings = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    assert (
        len([each for each in ast.parse(settings).body if isinstance(each, ast.Assign | ast.AugAssign)]) == 4
    )
    assert [len(block.splitlines()) for block in blocks("sh")] == [1, 1, 1]


def test_its_code_is_that_of_the_first_page_of_docs():
    (code,) = [block.code for block in Page(DOCS / "index.md").blocks if block.language == "python"]
    assert code == blocks("python")[0]


def test_its_text_has_less_than_700_words():
    text = "\n".join(line for line in FENCE.sub("", README.text).splitlines() if not line.startswith("|"))
    assert len(text.split()) < 700


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
