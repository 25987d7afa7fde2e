"""A Sphinx extension: the picture `figures/live-NAME.png` becomes the live figure NAME on the page.

Jupyter and Colab show the picture with the paragraph below it, and so does a page without
JavaScript. On the page both are one figure, whose scripts put the live one in the picture's place.
Links find it as `[…](#fig-live-NAME)`.
"""

import re
from pathlib import PurePosixPath

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from flowvae_tutorial.notebook.figures import SHARED, own_scripts

PICTURE = re.compile(r"figures/live-(\w+)\.png$")


def place_of(figure: str, *, first: bool) -> str:
    """The HTML in which a figure comes to life; the first of a page brings what all share."""
    scripts = [*(SHARED if first else ()), *own_scripts(figure)]
    return "\n".join(
        [
            '<link rel="stylesheet" href="../_static/live.css">',
            f'<div id="live-{figure}" class="live-figure"></div>',
            *(f'<script src="../_static/{script}.js"></script>' for script in scripts),
        ]
    )


class LiveFigures(SphinxTransform):
    default_priority = 500  # before links look for their labels

    def apply(self, **_: object) -> None:
        first = True
        for image in list(self.document.findall(nodes.image)):
            found = PICTURE.search(image["uri"])
            if not found:
                continue
            place, name = image.parent, PurePosixPath(image["uri"]).stem
            below = place.next_node(descend=False, siblings=True)
            raw = nodes.raw("", place_of(found[1], first=first), format="html")
            first = False
            caption = nodes.caption(below.rawsource, "", *below.children)
            figure = nodes.figure(
                "", image, raw, caption, names=[f"fig-{name}"], classes=["live-still"]
            )
            below.parent.remove(below)
            place.replace_self(figure)
            self.document.note_explicit_target(figure)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(LiveFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
