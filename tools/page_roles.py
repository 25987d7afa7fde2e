"""A Sphinx extension: what readers with a keyboard or a screen reader miss in the theme's HTML.

And a search that survives the word "constructor".
"""

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

# Sphinx asks its tables of words for any word, and every object of JavaScript has a "constructor"
# and a "__proto__": these shall have no more than their own. As a module it runs when the index is
# there, and before the search.
SEARCH = """
const { hasOwnProperty } = Object.prototype;
for (const words of [Search._index.terms, Search._index.titleterms])
  Object.setPrototypeOf(words, Object.create(null, { hasOwnProperty: { value: hasOwnProperty } }));
"""


def mend(app: Sphinx, page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    if page == "search":
        app.add_js_file(None, body=SEARCH, type="module")
    for written, mended in MENDED.items():
        if "body" in context:
            context["body"] = context["body"].replace(written, mended)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
