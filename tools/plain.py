r"""Text of a chapter as Jupyter, Colab and nbgrader draw it, which know Markdown and TeX alone.

The book's chapters keep what is MyST's to three things. An equation's number is its own `\tag`, a
figure's stands in its caption and a link's in its words, so nothing is lost with the names of
places, which only the web book's links need.
"""

import re

WORDS = r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]"
INSIDE = re.compile(WORDS + r"\(#[^)]*\)")
LABEL = re.compile(r"^(.*\$\$) *\(eq-[\w-]+\)", re.MULTILINE)
TARGET = re.compile(r"^\([\w-]+\)=\n", re.MULTILINE)


def plain(source: str) -> str:
    """The text without names of equations and sections, and of a link to one its words."""
    return INSIDE.sub(r"\1", LABEL.sub(r"\1", TARGET.sub("", source)))
