"""Makes a deck of slides of every session of the syllabus, from cells that its chapter tags for it.

With the tag `slide` a cell begins a slide, with `fragment` it adds a step to it, with `notes` it is
read by the speaker. With `slide` and `fragment` its lines, rows, items or what it prints come in
steps. `output` leaves out the code. Behind a cell with `ask-Q1.3` or `ask-1.1` that question or
exercise is put, and one with `session-4` is in that session's deck too. What the speaker says and
asks can stand in the metadata of a slide's cell: `speaker`, a text for each slide that it makes.
Captions and `notes` are left out there. An exercise has in its notes how long it takes and which
mistakes its check names first. A deck is one HTML file, which fetches nothing.
"""

import argparse
import ast
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from playwright.sync_api import Browser, sync_playwright
from pygments.formatters import HtmlFormatter

from book import MATHJAX, ROOT
from classroom import chapters, for_student, tags
from flowvae_tutorial.notebook.figures import SHARED, own_scripts
from slide_parts import (
    CAPTION,
    Part,
    code_block,
    code_pages,
    headings,
    in_halves,
    in_steps,
    inline,
    markdown,
    render,
    shown,
)
from syllabus import Session, minutes, questions, sessions

# sphinx-revealjs is installed for the reveal.js that it carries.
REVEAL = "sphinx_revealjs/_static/revealjs/dist"
TEMPLATE = Path(__file__).with_suffix(".html")
# As many lines of print may stand beside a picture.
FEW_LINES = 6
# As many of the mistakes that a check names can be read at a glance.
FEW_MISTAKES = 4
LIVE = ROOT / "book" / "live"
CHECKS = ROOT / "flowvae_tutorial" / "exercises"
DECKS = ROOT / "dist" / "decks"
# Within which a browser has laid a deck out, on a busy machine.
MINUTES = 5


class Slide(NamedTuple):
    title: str
    section: str
    """The number of its section, by which the syllabus calls it; empty if it has none."""
    parts: list[Part]
    notes: list[str]
    told: str = ""
    """What the speaker says and asks; where it is empty, captions and notes of the chapter."""

    def html(self) -> str:
        # Print does not break its lines, so it needs the whole width.
        text = [part for part in self.parts if not part.beside]
        beside = len(self.parts) == len(text) + 1 > 1 and not any("<pre" in t.html for t in text)
        parts = [
            f'<div class="part{" picture" if part.beside else ""}">{part.html}</div>'
            for part in self.parts
        ]
        notes = self.told or "".join([*self.notes, *(part.notes for part in self.parts)])
        return (
            f'<section data-section="{self.section}"><div class="page"><h2>{self.title}</h2>'
            f'<div class="body{" beside" if beside else ""}">{"".join(parts)}</div></div>'
            f'<aside class="notes">{notes}</aside></section>'
        )


def stepped(part: Part) -> Part:
    return part._replace(html=f'<div class="fragment">{part.html}</div>')


def parts_of(cell: NotebookNode, number: str) -> list[Part]:
    """What a cell shows, in order; more than one of code or of pictures begins another slide."""
    by_step = {"slide", "fragment"} <= set(tags(cell))
    if cell.cell_type == "markdown":
        found = in_halves(markdown(cell.source))
        return [each._replace(html=in_steps(each.html)) if by_step else each for each in found]
    results = list(shown(cell, number))
    lines = by_step and not results
    code = code_pages(cell)
    found = [Part(code_block(page, lines), turn=page is not code[0]) for page in code]
    return found + [stepped(part) if by_step and found else part for part in results]


def asked(what: str, notebook: NotebookNode) -> Slide:
    """The slide of a question of the bank, or of an exercise of the chapter."""
    if what.startswith("Q"):
        question = questions()[what]
        title = inline(f"{what} ({question.kind}): {question.title}")
        return Slide(title, "", [markdown(question.text)], [render(question.answer)])
    cells = exercise(notebook, what)
    [(_, title)] = headings(cells[0].source)
    parts = [
        markdown(cell.source)
        if cell.cell_type == "markdown"
        else Part(code_block(cell.source, False))
        for cell in cells
        if cell.cell_type == "markdown" or "exercise" in tags(cell)
    ]
    told = [f"About {minutes(what)} minutes for one who has read the chapter."]
    if known := mistakes(what, "\n".join(cell.source for cell in cells)):
        told += ["Its check names, among others:", "\n".join(f"- {hint}" for hint in known)]
    return Slide(inline(title), "", parts, [render("\n\n".join(told))])


def mistakes(number: str, source: str) -> list[str]:
    """What the check of a code exercise answers to the first mistakes that it knows."""
    path = CHECKS / f"chapter{int(number.split('.')[0]):02}.py"
    found: list[str] = []
    for check in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(check, ast.FunctionDef) and f"{check.name}(" in source:
            for node in ast.walk(check):
                match node:
                    case ast.Tuple(elts=[_, ast.Constant(value=str(hint))]):
                        found.append(hint)
    return found[:FEW_MISTAKES]


def exercise(notebook: NotebookNode, number: str) -> list[NotebookNode]:
    """The cells of an exercise, from its heading on."""
    found: list[NotebookNode] = []
    for cell in notebook.cells:
        named = headings(cell.source) if cell.cell_type == "markdown" else []
        if any(words.startswith(f"Exercise {number} ") for _, words in named):
            start = cell.source.index(f"### Exercise {number} ")
            found = [new_markdown_cell(cell.source[start:])]
        elif found and named:
            break
        elif found:
            found.append(cell)
    return found


def pages(parts: list[Part]) -> list[list[Part]]:
    """What a cell shows, on slides: one part of code on each, and a picture beside few lines."""
    found = [parts[:1]]
    for part in parts[1:]:
        picture = "<figure" in part.html and lines(found[-1]) > FEW_LINES
        if picture or part.turn:
            found.append([])
        found[-1].append(part)
    return found


def lines(parts: list[Part]) -> int:
    return sum(part.html.count("\n") for part in parts)


def captioned(cells: list[NotebookNode], position: int) -> tuple[str, str]:
    """Number and caption of the picture that a cell draws, which the next cell begins with."""
    following = cells[position + 1].source if position + 1 < len(cells) else ""
    if number := CAPTION.match(following):
        return number[1], render(following.partition("\n\n")[0])
    return "", ""


def slides_of(notebook: NotebookNode, session: int, own: bool = True) -> list[Slide]:
    """The slides of a chapter; of another session's chapter, those that are wanted here too."""
    found: list[Slide] = []
    title, section = "", ""
    for position, cell in enumerate(notebook.cells):
        marks = set(tags(cell))
        if cell.cell_type == "markdown":
            for level, words in headings(cell.source):
                numbered = re.match(r"(\d+\.\d+) ", words)
                title = inline(words)
                section = section if level > 2 else (numbered[1] if numbered else "")
        if not own:
            marks = marks & {"slide", "fragment"} if f"session-{session}" in marks else set()
        if "notes" in marks:
            found[-1].notes.append(render(cell.source))
        elif marks & {"slide", "fragment"}:
            number, caption = captioned(notebook.cells, position)
            parts = parts_of(cell, number)
            if "slide" in marks:
                made = pages(parts)
                texts = cell.metadata.get("speaker") or [""] * len(made)
                found += [
                    Slide(title, section, page, [], render(text))
                    for page, text in zip(made, texts, strict=True)
                ]
            else:
                found[-1].parts.extend(map(stepped, parts))
            found[-1].notes.append(caption)
        for tag in tags(cell) if own else []:
            if tag.startswith("ask-"):
                found.append(asked(tag.removeprefix("ask-"), notebook))
    return found


def opening(session: Session) -> list[Slide]:
    """What a session begins with: its question and objectives, and its plan."""
    question = Part(f'<p class="question">{inline(session.part("The question"))}</p>')
    found = [Slide("The question", "", [question, markdown(session.objectives())], [])]
    if session.plan():
        found.append(Slide("The plan", "", [markdown(session.plan())], []))
    return found


def closing(session: Session) -> Slide:
    """What is to be done until the next session."""
    text = "\n\n".join([session.part("Set"), *session.ahead()])
    return Slide("Until the next time", "", [markdown(text)], [])


def slides(session: Session) -> list[Slide]:
    notebooks = dict(enumerate(map(for_student, chapters().values())))
    own = notebooks[session.number]
    found = opening(session)
    for what in session.brought_along():
        found.append(asked(what, notebooks[int(what.lstrip("Q").split(".")[0])]))
    for number, notebook in notebooks.items():
        if number != session.number:
            found += slides_of(notebook, session.number, own=False)
    return [*found, *slides_of(own, session.number), closing(session)]


def deck(session: Session) -> str:
    """The page of a session."""
    name = f"Session {session.number}" if session.number else "Preparation"
    title = f"{name}: {session.title}"
    cover = (
        f'<section><div class="page cover"><h1>{inline(title)}</h1>'
        f'<p class="book">{escape(book_and_authors())}</p></div></section>'
    )
    body = "\n".join([cover, *(slide.html() for slide in slides(session))])
    reveal = installed("sphinx-revealjs", REVEAL)
    styles = [reveal / "reset.css", reveal / "reveal.css", LIVE / "live.css"]
    live = re.findall(r'id="live-(\w+)"', body)
    names = [*SHARED, *(name for each in live for name in own_scripts(each))]
    filled = {
        "title": escape(title),
        "styles": "\n".join(
            [
                *(path.read_text(encoding="utf-8") for path in styles),
                HtmlFormatter(style="xcode").get_style_defs(".code"),
            ]
        ),
        "slides": body,
        "reveal": script(reveal / "reveal.js"),
        "live": "\n".join(
            f"<script>{script(LIVE / f'{name}.js')}</script>" for name in names if live
        ),
        "mathjax": script(installed("sphinx-mathjax-offline", MATHJAX)),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda name: filled.get(name[1], name[0]), template)


def book_and_authors() -> str:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return f"{config['title']}. {config['author']}, CC BY 4.0"


def installed(package: str, path: str) -> Path:
    return Path(str(distribution(package).locate_file(path)))


def script(path: Path) -> str:
    """A script as it can stand in a page."""
    return path.read_text(encoding="utf-8").replace("</script", r"<\/script")


def find_browser() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def opened_browser() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        sys.exit("A PDF is printed by a browser, and there is none: install chromium first")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]) as browser,
    ):
        yield browser


def print_pdf(page: Path, browser: Browser) -> Path:
    """A deck as a PDF, a slide a page with all its steps."""
    target = page.with_suffix(".pdf")
    sheet = browser.new_page()
    sheet.goto(f"{page.as_uri()}?print-pdf", timeout=MINUTES * 60_000)
    # The formulas are drawn first, and then the slides are laid out as pages.
    sheet.wait_for_selector(".pdf-page", timeout=MINUTES * 60_000)
    target.write_bytes(sheet.pdf(prefer_css_page_size=True, print_background=True))
    sheet.close()
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pdf", action="store_true", help="print each deck as well")
    options = parser.parse_args()
    DECKS.mkdir(parents=True, exist_ok=True)
    with opened_browser() if options.pdf else nullcontext() as browser:
        for session in sessions():
            page = DECKS / f"session-{session.number}.html"
            page.write_text(deck(session), encoding="utf-8")
            print(print_pdf(page, browser) if browser else page.as_uri())


if __name__ == "__main__":
    main()
