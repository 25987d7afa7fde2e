"""A Sphinx extension: a picture above a paragraph that begins "**Figure 1.2.**" is a figure.

Jupyter and Colab know no directives and show the picture, the number and the caption as they are
written. So the author numbers the figure, as equations are numbered. Its label is that of its file:
`figures/idea-1.svg` is `fig-idea-1`, and `[Figure 1.2](#fig-idea-1)` leads there.
"""

import re
from pathlib import PurePosixPath
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

NUMBER = re.compile(r"Figure \d+\.\d+\. ")


class Captions(SphinxTransform):
    default_priority = 500  # before links look for their labels

    def apply(self, **_: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            place = image.parent
            below = place.next_node(descend=False, siblings=True)
            alone = isinstance(place, nodes.paragraph) and len(place) == 1
            if not (alone and isinstance(below, nodes.paragraph) and NUMBER.match(below.astext())):
                continue
            name = f"fig-{PurePosixPath(image['uri']).stem}"
            caption = nodes.caption(below.rawsource, "", *below.children)
            figure = nodes.figure("", image, caption, names=[name])
            below.parent.remove(below)
            place.replace_self(figure)
            self.document.note_explicit_target(figure)


def no_other_numbers(_app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Removes those that Sphinx has counted, which the extension for exercises switches on."""
    for numbers in env.toc_fignumbers.values():
        numbers.pop("figure", None)
    return []  # pages to be read again


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(Captions)
    app.connect("env-get-updated", no_other_numbers, priority=900)  # after the counting
    return {"parallel_read_safe": True, "parallel_write_safe": True}
