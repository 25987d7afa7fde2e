r"""A Sphinx extension: an equation has the number that its own `\tag{1.3}` says.

Jupyter and Colab draw the tag; Sphinx would count through the whole book instead. They would also
draw MyST's label behind the formula, so a notebook has it in a comment of the formula's TeX. On the
page of the package an equation's label in a docstring becomes that number, and a link.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

TAG = re.compile(r"\s*\\tag\{([^}]*)\}")
# The number that takes its place brings parentheses of its own.
LABEL = re.compile(r"\(`(eq-[\w-]+)`\)|`(eq-[\w-]+)`")
# In the JSON of a notebook, whose lines are strings.
COMMENT = re.compile(r' % (eq-[\w-]+)(\\n",\s*"\$\$)')
logger = logging.getLogger(__name__)


class EquationTags(SphinxTransform):
    default_priority = 500

    def apply(self, **_: Any) -> None:
        equations = self.env.get_domain("math").data["objects"]
        for node in self.document.findall(nodes.math_block):
            if not (label := node.get("label")):
                continue
            if not (tag := TAG.search(node.astext())):
                logger.warning(r"equation %s has no \tag{number}", label, location=node)
                continue
            node["number"] = tag[1]
            node[0] = nodes.Text(TAG.sub("", node.astext()))
            equations[label] = (self.env.docname, tag[1])


def link(_app: Sphinx, _kind: str, _name: str, _of: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = [LABEL.sub(r":eq:`\1\2`", line) for line in lines]


def label(_app: Sphinx, _name: str, source: list[str]) -> None:
    source[:] = [COMMENT.sub(r"\2 (\1)", text) for text in source]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(EquationTags)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("source-read", label)
    app.connect("autodoc-process-docstring", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
