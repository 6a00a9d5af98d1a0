"""Configure the documentation site: pages of this folder, and reference pages that reference.py writes.

Why Sphinx: BSD-licensed, released every few months, and strict about broken links. The last stable MkDocs is of 2024,
and Zensical, the successor of its best theme, is at 0.1.
"""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import reference

import agfsync

project = "agfsync"
author = "The agfsync authors"
version = release = agfsync.__version__

myst_enable_extensions = ["deflist"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# A name between backticks is a link where it is one of ours, and code everywhere.
highlight_language = "none"
default_role = "py:obj"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "agfsync"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "start": [], "concepts": [], "contributing": [], "changelog": []}
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "show_nav_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
copyright = "The agfsync authors, Apache-2.0"


def setup(app: Sphinx) -> None:
    """Write the reference pages before Sphinx looks for pages, and mend docstrings for its markup."""
    app.connect("builder-inited", lambda app: reference.write_pages(Path(app.srcdir) / "reference"))
    app.connect("source-read", link_recipe_keys)
    app.connect("autodoc-process-docstring", end_backticks)


def link_recipe_keys(app: Sphinx, page: str, source: list[str]) -> None:
    """Link the generated page of the recipe's keys, where the pages as they lie in the repository link the source."""
    source[:] = [text.replace("(../src/agfsync/recipe/recipe.py)", "(reference/recipe.md)") for text in source]


def end_backticks(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Separate a name in backticks from what touches it, such as `sigma`^2, which reStructuredText wants escaped."""
    lines[:] = [re.sub(r"((?<!`)`[^`]+`(?!`))(?=[\w^({\[])", r"\1\\ ", line) for line in lines]
