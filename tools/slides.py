"""Makes a deck of slides of every chapter, to point at while the class has the text.

Each heading makes a slide with the sentences that open its section, the first equation with a
number, a drawing and the first figure; what does not fit follows on another. So do a table and a
cell of code that are short. A deck is one HTML file, which fetches nothing.
"""

import re
from html import escape
from importlib.metadata import distribution
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import yaml
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from book import MATHJAX, ROOT
from classroom import chapters
from slide_blocks import ROOM, Block, blocks, bullets, inline

# sphinx-revealjs is installed for the reveal.js that it carries.
REVEAL = "sphinx_revealjs/_static/revealjs/dist"
TEMPLATE = Path(__file__).with_suffix(".html")

# The text of a slide; an exercise is not cut short as soon.
WORDS, EXERCISE_WORDS = 60, 100
LETTERS_OF_A_LINE, LETTERS_OF_A_TITLE = 66, 46
# A figure that is not much wider than high stands beside the text.
BESIDE = 1.35
NOTHING = Block("omitted", "")
SENTENCE_END = re.compile(r"[.?!][*”\")]*\s+(?=[“*_`\[($A-Z])")


class Section(NamedTuple):
    heading: Block
    blocks: list[Block]

    def all(self, kind: str) -> list[Block]:
        return [block for block in self.blocks if block.kind == kind]


def sections(notebook: NotebookNode) -> list[Section]:
    found: list[Section] = []
    for block in blocks(notebook):
        if block.kind in ("title", "heading", "subheading"):
            found.append(Section(block, []))
        elif block.kind == "caption":
            picture = found[-1].blocks.pop()
            html = picture.html.replace("</figure>", f"{block.html}</figure>")
            found[-1].blocks.append(picture._replace(html=html))
        else:
            found[-1].blocks.append(block)
    return [section for section in found if section.heading.html != "References"]


def words(text: str) -> int:
    return len(re.sub(r"\$[^$]*\$", "formula", text).split())


def sentences(text: str) -> list[str]:
    """Cuts a text at its full stops, but not inside a formula, code, bold type or brackets."""
    found, start = [], 0
    for end in [match.end() for match in SENTENCE_END.finditer(text)]:
        sentence = text[start:end]
        pairs = all(sentence.count(mark) % 2 == 0 for mark in ("$", "`", "**"))
        if pairs and sentence.count("(") == sentence.count(")"):
            found.append(sentence.strip())
            start = end
    return [*found, text[start:]]


def opening(text: str, limit: int) -> str:
    """As many of the first sentences as the words allow, and one at least."""
    taken, *rest = sentences(text)
    for sentence in rest:
        if words(f"{taken} {sentence}") > limit:
            break
        taken = f"{taken} {sentence}"
    return taken


def paragraph(text: str) -> Block:
    return Block("text", f"<p>{inline(text)}</p>", text, len(text) / LETTERS_OF_A_LINE + 1)


def listed(items: list[str]) -> Block:
    lines = sum(len(item) // LETTERS_OF_A_LINE + 1.3 for item in items)
    return Block("list", bullets(items), items, lines)


def list_pages(items: list[str]) -> list[Block]:
    """The list that opens a section, on as many slides as it takes."""
    found: list[list[str]] = [[]]
    for item in (opening(item, WORDS // 3) for item in items):
        if found[-1] and words(" ".join([*found[-1], item])) > WORDS:
            found.append([])
        found[-1].append(item)
    return [listed(page) for page in found]


def text_of(section: Section) -> list[Block]:
    """The sentences that open a section, with its equation where it stands among them."""
    equations = section.all("equation")
    equation = next((e for e in equations if r"\tag" in e.source), (*equations, None)[0])
    asked = []
    if section.heading.html == "The question":
        said = [sentence for block in section.all("text") for sentence in sentences(block.source)]
        asked = [sentence for sentence in said if sentence.endswith("?")]
    limit = EXERCISE_WORDS if section.heading.html.startswith("Exercise ") else WORDS
    taken, left = [], limit - words(" ".join(asked))
    for block in section.blocks:
        if block.kind == "text":
            text = opening(block.source, left)
            if taken and words(text) > left:
                break
            taken.append(paragraph(text))
            left -= words(text)
            if text != block.source:
                break
        elif block.kind == "list":
            items = [opening(item, WORDS // 4) for item in block.source]
            if words(" ".join(items)) > left:
                break
            taken.append(listed(items))
            left -= words(" ".join(items))
        elif block.kind == "equation":
            taken.append(block if block is equation else NOTHING)
        else:
            break
    if equation and equation not in taken:
        taken += [NOTHING, equation]
    seen = "".join(str(block.source) for block in taken)
    taken += [paragraph(f"**{question}**") for question in asked if question not in seen]
    ended = [without_announcement(*pair) for pair in zip_longest(taken, taken[1:])]
    return [block for block in ended if block is not NOTHING]


def without_announcement(block: Block, after: Block | None) -> Block:
    """A text without the half sentence or the colon behind which the slide shows nothing."""
    finished = block.kind != "text" or block.source.rstrip("*”)")[-1] in ".?!"
    if finished or (after and after.kind in ("equation", "list")):
        return block
    *others, last = sentences(block.source)
    return paragraph(" ".join(others) or last.rstrip(",:") + ".")


def pages(section: Section) -> list[list[Block]]:
    """What stands on each slide of a section, below its title."""
    spoken = [block for block in section.blocks if block.kind in ("text", "list")]
    begins_with_list = spoken and spoken[0].kind == "list"
    shown = list_pages(spoken[0].source) if begins_with_list else text_of(section)
    for kind in ("drawing", "figure", "table", "code"):
        shown += section.all(kind)[:1]
    room = ROOM if len(section.heading.html) <= LETTERS_OF_A_TITLE else ROOM - 1.5
    found: list[list[Block]] = [[]]
    for block in shown:
        used = sum(other.lines for other in found[-1])
        two_lists = block.kind == "list" and begins_with_list
        if found[-1] and not stands_beside(block, found[-1]):
            if used + block.lines > room and block.kind == "text":
                continue  # what is said after an equation can stay unsaid
            if two_lists or used + block.lines > room:
                found.append([])
        found[-1].append(block)
    return found


def stands_beside(block: Block, others: list[Block]) -> bool:
    """Whether a figure has its place to the right of what is on the slide already."""
    narrow = block.kind == "figure" and block.ratio < BESIDE
    lines = sum(other.lines for other in others)
    return narrow and {b.kind for b in others} <= {"text", "list"} and 2 * lines <= ROOM + 1


def slide(heading: Block, shown: list[Block]) -> str:
    level = "h1" if heading.kind == "title" else "h2"
    parts = [block.html for block in shown]
    if len(shown) > 1 and stands_beside(shown[-1], shown[:-1]):
        parts = [f'<div class="beside"><div>{"".join(parts[:-1])}</div>{parts[-1]}</div>']
    title = f"<{level}>{heading.html}</{level}>"
    if heading.kind == "title":
        title += f'<p class="book">{escape(book_and_authors())}</p>'
    return f'<section><div class="page">{title}{"".join(parts)}</div></section>'


def deck(notebook: NotebookNode) -> str:
    """The page of a chapter: a column a section, with its subsections below it."""
    columns: list[list[str]] = []
    for section in sections(notebook):
        if section.heading.kind != "subheading":
            columns.append([])
        columns[-1] += [slide(section.heading, page) for page in pages(section)]
    reveal = installed("sphinx-revealjs", REVEAL)
    styles = [(reveal / name).read_text(encoding="utf-8") for name in ("reset.css", "reveal.css")]
    filled = {
        "title": escape(notebook.cells[0].source.partition("\n")[0].removeprefix("# ")),
        "styles": "\n".join([*styles, HtmlFormatter(style="xcode").get_style_defs(".code")]),
        "slides": "\n".join(f"<section>{''.join(column)}</section>" for column in columns),
        "reveal": script(reveal / "reveal.js"),
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


if __name__ == "__main__":
    folder = ROOT / "_build" / "slides"
    folder.mkdir(parents=True, exist_ok=True)
    for name, notebook in chapters().items():
        path = folder / f"{name[:2]}.html"
        path.write_text(deck(notebook), encoding="utf-8")
        print(path.as_uri())
