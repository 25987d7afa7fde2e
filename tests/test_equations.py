"""Every numbered equation of the book, checked with numbers: label `eq-x` by `test_eq_x`."""

import json
import re
from pathlib import Path

BOOK = Path(__file__).parents[1] / "book"
LABEL = re.compile(r"\$\$\s*\((eq-[a-z0-9-]+)\)")


def labels() -> list[str]:
    """The labels of all numbered equations, in the order of the pages."""
    found = []
    for path in sorted(BOOK.glob("*.md")) + sorted(BOOK.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        found += LABEL.findall(text)
    return found


def test_every_equation_has_a_test_and_every_test_an_equation() -> None:
    in_book = {label.replace("-", "_") for label in labels()}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_eq_")}
    assert in_book - tested == set(), "equations without a test"
    assert tested - in_book == set(), "tests of equations that no page has"


def test_no_label_is_used_twice() -> None:
    assert len(labels()) == len(set(labels()))


# --- chapter 0 --------------------------------------------------------------------------------

# --- chapter 1 --------------------------------------------------------------------------------
