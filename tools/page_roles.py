"""A Sphinx extension: what readers with a keyboard or a screen reader miss in the theme's HTML."""

from typing import Any

from sphinx.application import Sphinx

MENDED = {
    # A table too wide for a phone scrolls, and the arrow keys scroll only what takes the focus.
    '<div class="pst-scrollable-table-container">': (
        '<div class="pst-scrollable-table-container" tabindex="0">'
    ),
    # docutils announces a list of references and gives its entries a role that no list may hold.
    'role="doc-biblioentry"': 'role="listitem"',
}


def mend(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    for written, mended in MENDED.items():
        if "body" in context:
            context["body"] = context["body"].replace(written, mended)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
