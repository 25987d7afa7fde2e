"""Reads a chapter as what a slide can show: headings, text, lists, equations, figures, code."""

import base64
import re
import struct
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from classroom import BOOK, for_student, tags

# The room below a title, in lines of text.
ROOM = 11.5
CODE_LINES = 15
# A longer formula has below each other what stands side by side in the book.
FORMULA_LETTERS = 190
# A line of a table whose rows fit on one each, and of one whose rows are broken.
ROW_LETTERS, BROKEN_ROW_LETTERS = 90, 42

TALL = re.compile(r"\\(?:frac|sum|prod|int|underbrace)\b")
FORMULA_AND_STOP = re.compile(r'(<span class="math inline">[^<]*</span>[.,;:?!)]+)')
# A link leads away from the slide; its words stay. `f[0](x)` is none, and a picture is none.
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?:#|\w+:|[\w./-]+\.\w)[^)\s]*\)")
# A box that a reader unfolds, "For the curious".
FOLDED = re.compile(r"^<details>.*?^</details>$", re.DOTALL | re.MULTILINE)

# A slide has room for the number, by which the text calls the picture, and not for the rest.
CAPTION = re.compile(r"\*\*(Figure \d+\.\d+|Live figure \d+[ab]?)\.\*\* ")


class Block(NamedTuple):
    kind: str
    """title, heading, subheading, text, list, equation, drawing, figure, caption, table, code or
    omitted."""
    html: str
    source: str | list[str] = ""
    """Markdown of a text, or of each item of a list; of an equation, its TeX."""
    lines: float = 0
    """Height in lines of text, of a kind that cannot be cut."""
    ratio: float = 0
    """Width of a figure over its height."""


def tex(source: str, options: dict[str, bool]) -> str:
    """A formula as MathJax finds it."""
    left, right = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
    return f"{left}{escape(source)}{right}"


MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
MARKDOWN.use(dollarmath_plugin, renderer=tex)


def inline(source: str) -> str:
    # No line is to start with the full stop behind a formula.
    return FORMULA_AND_STOP.sub(r'<span class="whole">\1</span>', MARKDOWN.renderInline(source))


def bullets(items: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{inline(item)}</li>' for item in items)}</ul>"


def markdown_blocks(source: str) -> Iterator[Block]:
    source = LINK.sub(r"\1", FOLDED.sub("", source))
    for node in SyntaxTreeNode(MARKDOWN.parse(source)).children:
        match node.type:
            case "heading":
                kind = {"h1": "title", "h2": "heading"}.get(node.tag, "subheading")
                yield Block(kind, inline(node.children[0].content))
            case "paragraph" if node.children[0].children[0].type == "image":
                [image] = node.children[0].children
                yield drawing(str(image.attrs["src"]), image.content)
            case "paragraph":
                text = node.children[0].content
                # A line in bold stands above the list of what the reader will be able to do.
                if bold := re.fullmatch(r"\*\*([^*]+)\*\*", text):
                    yield Block("heading", inline(bold[1]))
                elif number := CAPTION.match(text):
                    yield Block("caption", f"<figcaption>{number[1]}</figcaption>")
                else:
                    yield Block("text", f"<p>{inline(text)}</p>", text)
            case "bullet_list" | "ordered_list":
                items = [item.children[0].children[0].content for item in node]
                yield Block("list", bullets(items), items)
            case "math_block" | "math_block_label":
                yield equation(node.content)
            case "table":
                first, last = node.map
                yield table(source.splitlines()[first:last])


def equation(source: str) -> Block:
    formula, tag = re.fullmatch(r"(.*?)(\\tag\{[^}]*\})?\s*", source, re.DOTALL).groups("")
    if len(formula) > FORMULA_LETTERS and r"\qquad" in formula:
        rows = r" \\ & ".join(formula.split(r"\qquad"))
        formula = rf"\begin{{aligned}} & {rows} \end{{aligned}}"
    lines = 1.5 + sum(2.5 if TALL.search(row) else 1.2 for row in formula.split(r"\\"))
    shown = tex(formula + tag, {"display_mode": True})
    return Block("equation", f'<div class="equation">{shown}</div>', source, lines)


def table(rows: list[str]) -> Block:
    """The rows of a table for which there is room."""
    cells = [[len(cell.strip()) for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    wide = sum(map(max, zip(*cells, strict=True))) > ROW_LETTERS
    heights = [0.4 + 0.75 * (1 + wide * (sum(row) // BROKEN_ROW_LETTERS)) for row in cells]
    heights[1] = 0  # the line under the head
    shown = [row for k, row in enumerate(rows) if sum(heights[: k + 1]) < ROOM - 1]
    if shown != rows:
        shown.append("| … |")
    return Block("table", MARKDOWN.render("\n".join(shown)), lines=sum(heights[: len(shown)]))


def picture(data: str, alt: str) -> str:
    return f'<figure><img src="data:image/{data}" alt="{escape(alt)}"></figure>'


def figure(png: str, alt: str) -> Block:
    width, height = struct.unpack(">II", base64.b64decode(png)[16:24])
    html, ratio = picture(f"png;base64,{png.strip()}", alt), width / height
    return Block("figure", html, lines=min(7, 24 / ratio), ratio=ratio)


def drawing(path: str, alt: str) -> Block:
    """A drawing, which has a slide to itself, or the still of a live figure."""
    if path.endswith(".png"):
        return figure(base64.b64encode((BOOK / path).read_bytes()).decode(), alt)
    svg = base64.b64encode((BOOK / path).read_bytes()).decode()
    return Block("drawing", picture(f"svg+xml;base64,{svg}", alt), lines=ROOM)


def shown(cell: NotebookNode) -> Iterator[Block]:
    """The figures and tables that a cell shows."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            yield figure(data["image/png"], cell.metadata["mystnb"]["image"]["alt"])
        elif "data:image/png" in data.get("text/html", ""):
            # Of the frames of a slider, the one that it starts with.
            [frame] = BeautifulSoup(data["text/html"], "html.parser").select('img[style*="block"]')
            yield figure(str(frame["src"]).partition(",")[2], str(frame["alt"]))
        elif "text/markdown" in data:
            yield from markdown_blocks(data["text/markdown"])


def code(cell: NotebookNode) -> Block:
    """The code of a cell, if it is short and neither draws nor compares, with what it prints."""
    lines = len(cell.source.splitlines())
    hidden = {"hide-input", "hide-cell"} & set(tags(cell))
    drawn = any("data" in output for output in cell.outputs)
    if hidden or drawn or lines > CODE_LINES or "expect(" in cell.source:
        return Block("omitted", "")
    marked = highlight(cell.source, PythonLexer(), HtmlFormatter(nowrap=True))
    html = f'<pre class="code">{marked}</pre>'
    printed = "".join(output.get("text", "") for output in cell.outputs)
    more = len(printed.splitlines()) + 2
    if printed and lines + more <= CODE_LINES:
        html += f'<pre class="output">{escape(printed)}</pre>'
        lines += more
    return Block("code", html, lines=1 + 0.7 * lines)


def blocks(notebook: NotebookNode) -> Iterator[Block]:
    """All blocks of a chapter, without the solutions of its exercises."""
    first, *cells = for_student(notebook).cells
    # Below the title stands how to open the notebook.
    yield next(markdown_blocks(first.source))
    for cell in cells:
        if cell.cell_type == "markdown":
            yield from markdown_blocks(cell.source)
        else:
            yield code(cell)
            yield from shown(cell)
