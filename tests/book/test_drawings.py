"""Each chapter opens with a drawing, and all drawings speak one language.

Each check takes a text and returns what is wrong with it, so that it can be shown to fail.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from flowvae_tutorial.plots import COLOURS

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
DRAWINGS = sorted((BOOK / "figures").glob("*.svg"))
PICTURE = re.compile(r"^!\[([^\]]*)\]\(figures/([\w-]+\.svg)\)$", re.MULTILINE)
# In pixels at a width of 720; a phone shows them half as large.
SMALLEST_LETTERS = 20
ROLES = {
    "prior": COLOURS[0],
    "posterior": COLOURS[3],
    "likelihood": COLOURS[2],
    "data": COLOURS[6],
}


def opening(path: Path) -> str:
    """What a chapter says before it says what its reader will be able to do."""
    cells = nbformat.read(path, as_version=4).cells
    said = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    before, objectives, _ = said.partition("you can**")
    assert objectives
    return before


def opening_problems(text: str, number: int) -> list[str]:
    found = PICTURE.findall(text)
    if [file for _, file in found] != [f"idea-{number}.svg"]:
        return [f"drawings {[file for _, file in found]}"]
    [(alt, file)] = found
    said, _, below = text.partition(f"](figures/{file})\n\n")
    problems = [] if len(alt.split()) >= 20 else [f"the description is {alt!r}"]
    if f"[Figure {number}.1](#fig-idea-{number})" not in said:
        problems.append("the text before it does not refer to it")
    if not re.match(rf"\*\*Figure {number}\.1\.\*\* [A-Z].+\.$", below, re.MULTILINE):
        problems.append("no number and caption below it")
    return problems


def style(svg: str) -> str:
    return "".join(re.findall(r"<style>.*</style>", svg, re.DOTALL))


def drawing_problems(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    box = root.get("viewBox", "").split()
    problems = [] if box[:3] == ["0", "0", "720"] and box[3:] == [root.get("height")] else [box]
    problems += [f"{len(svg)} characters"] * (len(svg) > 30_000)
    problems += re.findall(r"href|<script|<image|@import|url\((?!#)", svg)
    sizes = re.findall(r"(\d+)px|font-size=\"(\d+)", svg)
    problems += [size for size in sizes if int("".join(size)) < SMALLEST_LETTERS]
    problems += ["no words for it"] * (not root.findtext("{http://www.w3.org/2000/svg}title"))
    return list(map(str, problems))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_opens_with_a_drawing_that_has_words_a_number_and_a_caption(path: Path) -> None:
    assert opening_problems(opening(path), int(path.stem[:2])) == []


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_is_small_needs_no_other_file_and_has_large_letters(path: Path) -> None:
    assert drawing_problems(path.read_text(encoding="utf-8")) == []


def test_all_drawings_have_one_style_with_the_colours_of_the_figures() -> None:
    [shared] = {style(path.read_text(encoding="utf-8")) for path in DRAWINGS}
    colours = dict(re.findall(r"^\.(\w+) \{ fill: (#\w+); stroke: \2 \}$", shared, re.MULTILINE))
    short = {role: "#000" if colour == "#000000" else colour for role, colour in ROLES.items()}
    assert colours == {role: colour.lower() for role, colour in short.items()}


def test_every_drawing_is_shown_and_every_drawing_shown_is_there() -> None:
    pages = [path.read_text(encoding="utf-8") for path in BOOK.glob("*.md")]
    pages += [opening(path) for path in CHAPTERS]
    shown = [file for page in pages for _, file in PICTURE.findall(page)]
    assert sorted(shown) == [path.name for path in DRAWINGS]


# Each check refuses what it should.

ALT = "A drawing of " + "boxes and arrows " * 6
SOUND = (
    f"See [Figure 3.1](#fig-idea-3).\n\n![{ALT}](figures/idea-3.svg)\n\n"
    "**Figure 3.1.** What to see."
)
DRAWN = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="720" height="9" viewBox="0 0 720 9">'
    '<title>A line</title><style>text { font: 24px sans-serif }</style><path d="M0 0h9"/></svg>'
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("idea-3.svg", "idea-4.svg"),
        ("![", "["),
        (ALT, "A drawing."),
        ("See [Figure 3.1](#fig-idea-3).", "See below."),
        ("See [Figure 3.1](#fig-idea-3)", "See [Figure 2.1](#fig-idea-3)"),
        ("**Figure 3.1.**", "**Figure 3.2.**"),
        ("**Figure 3.1.** What to see.", "What to see."),
        ("What to see.", ""),
        ("\n\n**Figure", "\n\nSomething else.\n\n**Figure"),
    ],
)
def test_a_chapter_that_opens_otherwise_is_refused(old: str, new: str) -> None:
    assert opening_problems(SOUND, 3) == []
    assert opening_problems(SOUND.replace(old, new, 1), 3) != []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda svg: svg.replace("0 0 720 9", "0 0 800 9"),
        lambda svg: svg.replace("0 0 720 9", "0 0 720 90"),
        lambda svg: svg.replace("M0 0", "M0 0" + "h1" * 15_000),
        lambda svg: svg.replace("<path", '<image href="a.png"/><path'),
        lambda svg: svg.replace("24px", "13px"),
        lambda svg: svg.replace("<path", '<text font-size="12">a</text><path'),
        lambda svg: svg.replace("A line", ""),
    ],
)
def test_a_drawing_that_breaks_the_rules_is_refused(spoil: Callable[[str], str]) -> None:
    assert drawing_problems(DRAWN) == []
    assert drawing_problems(spoil(DRAWN)) != []
