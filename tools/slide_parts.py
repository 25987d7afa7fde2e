"""Draws a cell of a chapter as it stands on a slide: text, equations, tables, code, pictures."""

import base64
import re
import struct
from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from classroom import BOOK, tags

# Longer code goes on on the next slide, from an empty line, if it can with a new class or function.
CODE_LINES = 21
TABLE_LETTERS = 1500
# A picture that is not much wider than high stands beside the text.
BESIDE = 1.75

FORMULA = r'<span class="math inline">[^<]*</span>'
FORMULA_AND_STOP = re.compile(rf"(<em>[^<]{{,30}}{FORMULA}</em>[.,;:?!)]+|{FORMULA}[.,;:?!)]+)")
# What is read as one word: no line is to end within it.
ONE_WORD = re.compile(
    r"\b(?:exercises?|sections?|Figure) \d|\[[-−]?[\d.,]+, [-−]?[\d.,]+\]|N\(0, I\)"
)
# A link leads away from the slide; its words stay. `f[0](x)` is none, and a picture is none.
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?:#|\w+:|[\w./-]+\.\w)[^)\s]*\)")
# A box that a reader unfolds, "For the curious", is shown if it is a cell by itself.
BOX = re.compile(r"^<details><summary>[^\n]*\n(.*?)^</details>$", re.DOTALL | re.MULTILINE)
# The name of a place that links lead to, and the mark by which a formula is linked to.
PLACE, MARK = re.compile(r"^\([\w-]+\)=$", re.MULTILINE), re.compile(r'<a [^>]*"mathlabel".*?</a>')
# The number of a picture is below it, by which the text calls it; the rest is for the speaker.
CAPTION = re.compile(r"\*\*(Figure \d+\.\d+|Live figure \d+[ab]?)\.\*\* ")
LIVE = re.compile(r"figures/live-(\w+)\.png$")


class Part(NamedTuple):
    """What a cell adds to a slide, or to the slides that begin with it."""

    html: str
    notes: str = ""
    beside: bool = False
    """Whether it is a picture that has room beside it."""
    turn: bool = False
    """Whether it goes on on another slide."""


def tex(source: str, options: dict[str, bool]) -> str:
    """A formula as MathJax finds it."""
    left, right = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
    return f"{left}{escape(source)}{right}"


def code(source: str, language: str = "python", _: str = "") -> str:
    """Coloured code; what is written in no language stays as it is."""
    if not language.startswith("python"):
        return escape(source)
    return str(highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)))


def plain_text(_: Any, tokens: list[Token], position: int, *__: Any) -> str:
    text = ONE_WORD.sub(lambda found: found[0].replace(" ", "\xa0"), tokens[position].content)
    return escape(text, quote=False)


MARKDOWN = MarkdownIt("commonmark", {"html": False, "highlight": code}).enable("table")
MARKDOWN.use(dollarmath_plugin, renderer=tex)
MARKDOWN.add_render_rule("text", plain_text)


def inline(source: str) -> str:
    # No line is to start with the full stop behind a formula.
    return FORMULA_AND_STOP.sub(r'<span class="whole">\1</span>', MARKDOWN.renderInline(source))


def headings(source: str) -> list[tuple[int, str]]:
    """Level and words of each heading of a text."""
    return [(len(marks), words) for marks, words in re.findall(r"^(#+) (.*)$", source, re.M)]


def bare(source: str) -> str:
    """Markdown without what a slide has no use for: links, their places, folded boxes."""
    source = LINK.sub(r"\1", PLACE.sub("", source)).strip()
    if box := BOX.fullmatch(source):
        return box[1]
    return BOX.sub("", source)


def render(source: str) -> str:
    html = MARK.sub("", str(MARKDOWN.render(bare(source))))
    return FORMULA_AND_STOP.sub(r'<span class="whole">\1</span>', html)


def markdown(source: str) -> Part:
    """A text without its headings; a picture in it has its number below, its caption as notes."""
    source = bare(source)
    html, notes, beside, lines = "", "", False, source.splitlines()
    for node in SyntaxTreeNode(MARKDOWN.parse(source)).children:
        block = "\n".join(lines[slice(*node.map)])
        image = node.type == "paragraph" and node.children[0].children[0]
        if image and image.type == "image":
            number = CAPTION.search(source)
            part = picture(str(image.attrs["src"]), image.content, number[1] if number else "")
            html, beside = html + part.html, part.beside
        elif CAPTION.match(block):
            notes += render(block)
        elif node.type != "heading":
            html += render(block)
    return Part(html, notes, beside)


def in_halves(part: Part) -> list[Part]:
    """A table that is too large for a slide, in two: the second has the head again."""
    start, row, rest = part.html.partition("<tbody>\n")
    rows = re.findall(r"<tr>.*?</tr>\n", rest.partition("</tbody>")[0], re.S)
    sizes = [len(re.sub(r"<[^>]*>", "", each)) for each in rows]
    if sum(sizes) < TABLE_LETTERS:
        return [part]
    first = next(k for k in range(len(rows)) if 2 * sum(sizes[: k + 1]) >= sum(sizes)) + 1
    head = start[start.index("<table>") :]
    halves = [(start, rows[:first]), (head, rows[first:])]
    tables = [f"{above}{row}{''.join(below)}</tbody>\n</table>\n" for above, below in halves]
    return [part._replace(html=tables[0]), Part(tables[1], turn=True)]


def figure(data: str, alt: str, number: str, ratio: float) -> Part:
    caption = f"<figcaption>{number}</figcaption>"
    html = f'<figure><img src="data:image/{data}" alt="{escape(alt)}">{caption}</figure>'
    return Part(html, beside=ratio < BESIDE)


def ratio_of(png: bytes) -> float:
    width, height = struct.unpack(">II", png[16:24])
    return float(width / height)


def picture(path: str, alt: str, number: str) -> Part:
    """A drawing, or a live figure with its still for where scripts do not run."""
    content = (BOOK / path).read_bytes()
    data = base64.b64encode(content).decode()
    if path.endswith(".svg"):
        return figure(f"svg+xml;base64,{data}", alt, number, BESIDE)
    part = figure(f"png;base64,{data}", alt, number, ratio_of(content))
    if live := LIVE.search(path):
        place = f'<figure class="live-still"><div id="live-{live[1]}" class="live-figure"></div>'
        return part._replace(html=part.html.replace("<figure>", place), beside=False)
    return part


def printed(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def shown(cell: NotebookNode, number: str = "") -> Iterator[Part]:
    """What a cell of code shows: what it prints, its tables, its pictures."""
    if text := printed(cell):
        yield Part(f'<pre class="output">{escape(text)}</pre>')
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/markdown" in data:
            yield markdown(data["text/markdown"])
        elif "image/png" in data:
            png, alt = data["image/png"].strip(), cell.metadata["mystnb"]["image"]["alt"]
            ratio = ratio_of(base64.b64decode(png))
            yield figure(f"png;base64,{png}", alt, number, ratio)
        elif "frame-slider" in data.get("text/html", ""):
            slider, caption = data["text/html"], f"<figcaption>{number}</figcaption>"
            ratio = ratio_of(base64.b64decode(slider.partition("base64,")[2].partition('"')[0]))
            yield Part(f"<figure>{slider}{caption}</figure>", beside=ratio < BESIDE)


def code_pages(cell: NotebookNode) -> list[str]:
    """The code of a cell on as many slides as it takes, cut at its empty lines.

    A class or a function that fits on a slide is not cut.
    There is none if the cell draws, or is folded in the book, or shows its output alone.
    """
    draws = any("image" in str(output.get("data", {})) for output in cell.outputs)
    if draws or {"hide-input", "hide-cell", "output"} & set(tags(cell)):
        return []
    found: list[str] = []
    for block in re.split(r"\n\n+(?=\S)", cell.source.strip()):
        whole = len(block.splitlines()) <= CODE_LINES
        for paragraph in [block] if whole else re.split(r"\n\n+", block):
            longer = f"{found[-1]}\n\n{paragraph}" if found else paragraph
            if found and len(longer.splitlines()) <= CODE_LINES:
                found[-1] = longer
            else:
                found.append(paragraph)
    return found


def code_block(source: str, by_line: bool) -> str:
    lines = code(source).splitlines()
    step = ' class="fragment"' if by_line else ""
    shown = "".join(f"<span{step}>{line}\n</span>" for line in lines)
    return f'<pre class="code">{shown}</pre>'


def in_steps(html: str) -> str:
    """Items of a list and rows of a table that come one after the other."""
    head, row, body = html.partition("<tbody>")
    stepped = re.sub("<(li|tr)>", r'<\1 class="fragment">', body if row else head)
    return head + row + stepped if row else stepped
