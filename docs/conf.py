"""How `python -m sphinx -W docs html` makes pages of this folder. Links out of it: outside.py."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "pgonly-django"
release = version = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]
copyright = "the pgonly-django developers"  # noqa: A001 - the name that Sphinx reads

extensions = ["myst_parser", "sphinx_copybutton", "outside", "llms"]
exclude_patterns = ["**/README.md"]
nitpicky = True
smartquotes = False  # `""` in a sentence is code
suppress_warnings = ["misc.highlighting_failure"]  # psql's own commands, such as gexec, among SQL

myst_heading_anchors = 4  # the ids that code hosts give to headings
myst_enable_extensions = ["html_image"]
# `$ command` and `>>> code` are copied without their prompts and without what they print.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
