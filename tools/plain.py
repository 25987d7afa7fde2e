r"""Text of a chapter as Jupyter, Colab and nbgrader draw it, which know Markdown and TeX alone.

Of what is MyST's the book's chapters have one thing: links to a place on their own page. Such a
link's words have the number of what it leads to, so nothing is lost with the rest.
"""

import re

WORDS = r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]"
INSIDE = re.compile(WORDS + r"\(#[^)]*\)")


def plain(source: str) -> str:
    """The text, and of a link to a place on the page its words."""
    return INSIDE.sub(r"\1", source)
