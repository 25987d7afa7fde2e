"""Every figure of a chapter has a number and a caption below it, and the text refers to it.

A check takes the cells of a chapter and returns what is wrong with them, so that it can be shown
to fail.
"""

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

import classroom

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
PAGES = [*sorted(BOOK.glob("*.md")), *sorted((BOOK / "course").glob("*.md"))]
CAPTION = re.compile(r"^\*\*Figure (\d+\.\d+)\.\*\* [A-Z$].*\.$", re.MULTILINE)
DRAWING = re.compile(r"^!\[[^\]]*\]\(figures/[\w-]+\.svg\)", re.MULTILINE)
LINK = re.compile(r"\[[Ff]igure (\d+\.\d+)\]\(#([\w-]+)\)")
# One in prose, linked or not; a caption is none.
MENTION = re.compile(r"(?<!\*\*)\b[Ff]igure (\d+\.\d+)")


def shows_a_picture(cell: NotebookNode) -> bool:
    outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
    return any("image/png" in data or "<img" in data.get("text/html", "") for data in outputs)


def figures(cells: list[NotebookNode]) -> list[str]:
    """What stands below each picture, drawn by hand or by a cell, in the order of the page."""
    found = []
    for cell, below in zip(cells, [*cells[1:], new_markdown_cell()], strict=True):
        if cell.cell_type == "markdown":
            found += [part.removeprefix("\n\n") for part in DRAWING.split(cell.source)[1:]]
        elif shows_a_picture(cell):
            found.append(below.source if below.cell_type == "markdown" else "")
    return found


def prose(cells: list[NotebookNode]) -> str:
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def number_problems(cells: list[NotebookNode], chapter: int) -> list[str]:
    captions = [CAPTION.match(below) for below in figures(cells)]
    numbers = [caption[1] if caption else "none" for caption in captions]
    wanted = [f"{chapter}.{k + 1}" for k in range(len(numbers))]
    problems = [f"{a} in place of {b}" for a, b in zip(numbers, wanted, strict=True) if a != b]
    stray = CAPTION.findall(prose(cells))[len(numbers) :]
    return problems + [f"a caption below no picture, {number}" for number in stray]


def reference_problems(cells: list[NotebookNode], chapter: int) -> list[str]:
    """Figures that the text does not refer to, and links that lead to another or to none."""
    numbers = [caption[1] for below in figures(cells) if (caption := CAPTION.match(below))]
    places = {number: f"fig-{number.replace('.', '-')}" for number in numbers}
    places[f"{chapter}.1"] = f"fig-idea-{chapter}"
    links = LINK.findall(prose(cells))
    problems = [f"no reference to {number}" for number in numbers if number not in dict(links)]
    return problems + [f"{number} leads to {p}" for number, p in links if places.get(number) != p]


def mention_problems(text: str, numbers: set[str]) -> list[str]:
    return [number for number in MENTION.findall(text) if number not in numbers]


def asked(path: Path) -> list[NotebookNode]:
    """The cells of a chapter; what an answer draws needs no number."""
    return classroom.without_solutions(nbformat.read(path, as_version=4).cells)


def all_numbers() -> set[str]:
    return {number for path in CHAPTERS for number in CAPTION.findall(prose(asked(path)))}


@pytest.mark.parametrize("check", [number_problems, reference_problems], ids=["numbers", "links"])
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_figures_of_a_chapter_have(
    path: Path, check: Callable[[list[NotebookNode], int], list[str]]
) -> None:
    assert check(asked(path), int(path.stem[:2])) == []


def test_a_figure_that_any_page_names_is_there() -> None:
    texts = {path.name: prose(nbformat.read(path, as_version=4).cells) for path in CHAPTERS}
    texts |= {path.name: path.read_text(encoding="utf-8") for path in PAGES}
    missing = {name: mention_problems(text, all_numbers()) for name, text in texts.items()}
    assert {name: numbers for name, numbers in missing.items() if numbers} == {}


# Each check refuses what it should.


def drawn() -> NotebookNode:
    return new_code_cell("plot()", outputs=[new_output("display_data", {"image/png": "AAAA"})])


def sound() -> list[NotebookNode]:
    slider = new_output("execute_result", {"text/html": '<img src="data:image/png;base64,A">'})
    return [
        new_markdown_cell("[Figure 3.1](#fig-idea-3), [Figure 3.2](#fig-3-2)."),
        new_markdown_cell("![A drawing.](figures/idea-3.svg)\n\n**Figure 3.1.** What to see."),
        drawn(),
        new_markdown_cell("**Figure 3.2.** What to see.\n\nIn [Figure 3.3](#fig-3-3) more."),
        new_code_cell("slider()", outputs=[slider]),
        new_markdown_cell("**Figure 3.3.** $x$ is seen."),
    ]


@pytest.mark.parametrize(
    ("check", "cell", "old", "new"),
    [
        (number_problems, 3, "**Figure 3.2.** What to see.", "What to see."),
        (number_problems, 3, "What to see.", ""),
        (number_problems, 3, "**Figure 3.2.**", "**Figure 3.4.**"),
        (number_problems, 3, "**Figure 3.2.**", "More text.\n\n**Figure 3.2.**"),
        (number_problems, 1, "**Figure 3.1.**", "**Figure 2.1.**"),
        (number_problems, 5, "is seen.", "is seen.\n\n**Figure 3.4.** What to see."),
        (reference_problems, 0, "[Figure 3.2](#fig-3-2)", "Figure 3.2"),
        (reference_problems, 0, "#fig-3-2", "#fig-3-3"),
        (reference_problems, 0, "#fig-idea-3", "#fig-3-1"),
        (reference_problems, 3, "more", "and [Figure 3.4](#fig-3-4)"),
    ],
)
def test_a_spoilt_chapter_is_refused(
    check: Callable[[list[NotebookNode], int], list[str]], cell: int, old: str, new: str
) -> None:
    assert check(sound(), 3) == []
    cells = sound()
    assert old in cells[cell].source
    cells[cell].source = cells[cell].source.replace(old, new, 1)
    assert check(cells, 3) != []


def test_a_picture_with_no_text_below_it_is_refused() -> None:
    assert number_problems([*sound(), drawn()], 3) == ["none in place of 3.4"]


def test_a_number_that_no_figure_has_is_seen() -> None:
    assert mention_problems("as figure 1.9 shows", {"1.2"}) == ["1.9"]
    assert mention_problems("**Figure 1.9.** What to see.", {"1.2"}) == []
