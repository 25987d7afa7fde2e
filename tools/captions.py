"""A Sphinx extension: a picture above a paragraph that begins "**Figure 1.2.**" is a figure.

Jupyter and Colab know no directives and show the picture, the number and the caption as they are
written. So the author numbers the figure, as equations are numbered. The label of what a cell of
code has drawn is made of its number, and `[Figure 1.2](#fig-1-2)` leads there. That of a drawing
is made of its file's name: `figures/idea-1.svg` is `fig-idea-1`.
"""

import re
from pathlib import PurePosixPath
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

NUMBER = re.compile(r"Figure (\d+)\.(\d+)\. ")


class Captions(SphinxTransform):
    default_priority = 500  # before links look for their labels

    def apply(self, **_: Any) -> None:
        for below in list(self.document.findall(nodes.paragraph)):
            number = NUMBER.match(below.astext())
            picture = picture_above(below) if number else None
            if picture is None:
                continue
            name = "fig-{}-{}".format(*number.groups())
            shown = picture
            if isinstance(picture, nodes.paragraph):
                [shown] = picture
                name = f"fig-{PurePosixPath(shown['uri']).stem}"
            caption = nodes.caption(below.rawsource, "", *below.children)
            below.parent.remove(below)
            figure = nodes.figure("", names=[name])
            picture.replace_self(figure)
            figure += [shown, caption]
            self.document.note_explicit_target(figure)


def picture_above(below: nodes.paragraph) -> nodes.Element | None:
    """A picture alone in its paragraph, or the last thing that the cell above displays."""
    *_, above = [None, *below.parent[: below.parent.index(below)]]
    if isinstance(above, nodes.paragraph) and len(above) == 1:
        return above if isinstance(above[0], nodes.image) else None
    shown = above.findall(nodes.container) if isinstance(above, nodes.container) else ()
    *_, last = [None, *(each for each in shown if each.get("nb_element") == "mime_bundle")]
    return last


def no_other_numbers(_app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Removes those that Sphinx has counted, which the extension for exercises switches on."""
    for numbers in env.toc_fignumbers.values():
        numbers.pop("figure", None)
    return []  # pages to be read again


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(Captions)
    app.connect("env-get-updated", no_other_numbers, priority=900)  # after the counting
    return {"parallel_read_safe": True, "parallel_write_safe": True}
