"""The chapters as they are stored: what nbval would not notice, and that nbval notices the rest.

Each check takes a chapter and returns what is wrong with it, so that it can be shown to fail.
"""

import ast
import base64
import io
import json
import os
import re
import shlex
import subprocess
import symtable
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)

import book

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"

WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = {"image/png", "image/jpeg"}
# What nbval never compares.
NOT_COMPARED = {*PICTURES, WIDGET}
IGNORE_OUTPUT = "nbval-ignore-output"
# 3.14, .5, 2. as torch prints it, and 1e-05.
DECIMAL = re.compile(r"\d*\.\d+|\d\.(?=[,\])}])|\d[eE][-+]?\d")
# The number of an exercise or an equation is none that a machine computes.
REFERENCE = re.compile(r"\b(?:exercise|equation|section) \(?\d+\.\d+\b", re.IGNORECASE)
# A line of `expect`: what was measured, and the page's figure and band.
CHECKED_LINE = re.compile(
    r"^(?:.*?\D)??(-?\d+(?:\.\d+)?)(?: [^\d(\n]*)? \(page: (\S+) ± ([^\s,)]+)\)$", re.MULTILINE
)
COLAB = re.compile(
    r"\]\(https://colab\.research\.google\.com/github/[^)\s]*/blob/[^/]+/([^)\s]+)\)"
)
ABSOLUTE_PATH = re.compile(
    r"(?<![\w./:~-])/(?:home|Users|root|tmp|private|var|opt|usr|mnt|work|workspace|content)/\w"
    r"|\b[A-Z]:\\\w"
)
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|TBD|PLACEHOLDER)\b")
EMBEDDED = re.compile(r'data:image/[^"]+')
MEASURED = r"-?\d+(\.\d+)?(?=( [^\d(\n]*)? ?\(page: )"
DRAWING = re.compile(r"!\[[^\]]*\]\([^)]*\)")
FOLDED = re.compile(r"<details.*?</details>", re.DOTALL)
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$", re.DOTALL)
WORD = re.compile(r"[A-Za-z][\w'’-]*")
# What draws begins with one of these.
DRAWING_NAMES = {"plt", "plots", "axis", "axes", "figure", "frame_slider"}
FOLDED_CELLS = {"hide-input", "hide-cell", "solution"}
# What a chapter tells its reader before it starts.
INTRODUCTION = {
    "objectives": r"\bobjectives\b|you can\b",
    "prerequisites": r"\bprerequisites\b|\byou need\b",
    "minutes to read": r"\b\d+ minutes\b",
    "seconds to run": r"\b\d+ seconds\b",
}


@dataclass
class Chapter:
    name: str
    notebook: NotebookNode

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    @property
    def markdown(self) -> str:
        cells = self.notebook.cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")

    def outputs(self) -> Iterable[tuple[str, NotebookNode]]:
        """Every output with a name of its cell, which is the number that nbval gives it."""
        for number, cell in enumerate(self.code):
            yield from ((f"Cell {number}", output) for output in cell.outputs)


def load(path: Path) -> Chapter:
    return Chapter(path.stem, nbformat.read(path, as_version=4))


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def data_of(output: NotebookNode) -> dict[str, Any]:
    return dict(output.get("data", {}))


def compared_text(cell: NotebookNode) -> str:
    """What nbval compares of the cell's stored outputs and a reader sees."""
    parts = [output.text for output in cell.outputs if output.output_type == "stream"]
    for output in cell.outputs:
        for kind, value in data_of(output).items():
            if kind == "text/html":
                parts.append(BeautifulSoup(value, "html.parser").get_text(" "))
            elif kind not in NOT_COMPARED:
                parts.append(value if isinstance(value, str) else json.dumps(value))
    return "\n".join(parts)


def parsed(cell: NotebookNode) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(cell.source))


def calls_of(cell: NotebookNode, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(parsed(cell))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def is_number(node: ast.expr) -> bool:
    """Whether the expression is a number that stands there as such."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def headings(chapter: Chapter) -> list[str]:
    # A line of Python in a fenced block may start with # as well.
    text = re.sub(r"^(```|~~~).*?^\1", "", chapter.markdown, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ .*$", text, re.MULTILINE)


# What nbval needs to compare anything at all.


def execution_problems(chapter: Chapter) -> list[str]:
    counts = [cell.execution_count for cell in chapter.code if cell.source.strip()]
    in_order = list(range(1, len(counts) + 1))
    return [] if counts == in_order else [f"execution counts {counts} are not 1 to {len(counts)}"]


def error_problems(chapter: Chapter) -> list[str]:
    return [
        f"{name} has an error" if output.output_type == "error" else f"{name} has stderr"
        for name, output in chapter.outputs()
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def widget_problems(chapter: Chapter) -> list[str]:
    """Widgets of a kernel that is gone: JupyterLab and GitHub show an error in their place."""
    return [
        f"{name} stores a widget" for name, output in chapter.outputs() if WIDGET in data_of(output)
    ]


def skip_problems(chapter: Chapter) -> list[str]:
    ignored = sum(IGNORE_OUTPUT in tags(cell) for cell in chapter.code)
    problems = [f"{ignored} cells are tagged {IGNORE_OUTPUT}, at most 2 may"] * (ignored > 2)
    for number, cell in enumerate(chapter.code):
        others = [
            t for t in tags(cell) if t.startswith(("nbval-", "raises-")) and t != IGNORE_OUTPUT
        ]
        problems += [f"Cell {number} is tagged {tag}" for tag in others]
        # nbval obeys comments too; a tag is seen by the count above.
        problems += [f"Cell {number} says {c}" for c in re.findall(r"#\s*NBVAL_\w+", cell.source)]
    return problems


# Numbers.


def decimal_problems(chapter: Chapter) -> list[str]:
    """Decimals that another machine may print differently: neither exact nor held by expect."""
    problems = []
    for number, cell in enumerate(chapter.code):
        if {"exact", IGNORE_OUTPUT} & set(tags(cell)):
            continue
        text = REFERENCE.sub("", compared_text(cell))
        if calls_of(cell, "expect"):
            text = CHECKED_LINE.sub("", text)
        problems += [f"Cell {number} prints {found} unchecked" for found in DECIMAL.findall(text)]
    return problems


def expect_problems(chapter: Chapter) -> list[str]:
    problems = []
    for number, cell in enumerate(chapter.code):
        for call in calls_of(cell, "expect"):
            named = [keyword.value for keyword in call.keywords if keyword.arg == "within"]
            within = [*named, *call.args[2:3]]
            if not (within and is_number(within[0])):
                problems.append(f"Cell {number}: {ast.unparse(call)} has no number for within")
        if not calls_of(cell, "expect"):
            continue
        lines = CHECKED_LINE.findall(compared_text(cell))
        if len(lines) != compared_text(cell).count("(page: "):
            problems.append(f"Cell {number} has a measurement outside of its band")
        problems += [
            f"Cell {number}: {measured} is not {figure} ± {band}"
            for measured, figure, band in lines
            # The measurement is rounded.
            if abs(float(measured) - float(figure)) > float(band) * 1.051
        ]
    return problems


# Pictures.


def alt_texts(chapter: Chapter) -> list[tuple[str, str]]:
    """The description, or the lack of one, of every picture that a cell shows."""
    found = []
    for number, cell in enumerate(chapter.code):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        for output in cell.outputs:
            data = data_of(output)
            if PICTURES & set(data):
                found.append((f"Cell {number}", alt.strip()))
            images = BeautifulSoup(data.get("text/html", ""), "html.parser").find_all("img")
            found += [(f"Cell {number}", str(image.get("alt", "")).strip()) for image in images]
    return found


def alt_problems(chapter: Chapter) -> list[str]:
    texts = alt_texts(chapter)
    shared = [alt for alt, times in Counter(alt for _, alt in texts).items() if alt and times > 1]
    return [f"{name} has a picture without alt text" for name, alt in texts if not alt] + [
        f"two pictures share the alt text {alt!r}" for alt in shared
    ]


def sizes(chapter: Chapter) -> Iterable[tuple[str, int, dict[str, object]]]:
    """The pixels of every picture from side to side, and what the page is told of its size."""
    for name, output in chapter.outputs():
        data = data_of(output)
        if "image/png" in data:
            yield name, pixels(data["image/png"]), output.metadata.get("image/png", {})
        for image in BeautifulSoup(data.get("text/html", ""), "html.parser").find_all("img"):
            told = {key: image[key] for key in ("width", "height") if key in image.attrs}
            yield name, pixels(str(image["src"]).partition(",")[2]), told


def pixels(png: str) -> int:
    return int.from_bytes(base64.b64decode(png)[16:20], "big")


def size_problems(chapter: Chapter) -> list[str]:
    """Two pixels a place for screens that show them; a height would not give way on a phone."""
    return [
        f"{name}: a picture of {across} pixels is to be {told}"
        for name, across, told in sizes(chapter)
        if set(told) != {"width"} or abs(across - 2 * int(str(told["width"]))) > 1
    ]


# What a reader sees of the code.


def called_from(call: ast.Call) -> str:
    """The name at the left of a call: `axis` of `axis[0].twinx().plot()`."""
    node: ast.expr = call
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def drawing_lines(cell: NotebookNode) -> int:
    lines: set[int] = set()
    for node in ast.walk(parsed(cell)):
        if isinstance(node, ast.Expr | ast.Assign | ast.Return):
            calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
            if DRAWING_NAMES & set(map(called_from, calls)):
                lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def open_code_problems(chapter: Chapter) -> list[str]:
    """Cells that are not folded, and draw more than they teach or make a table."""
    problems = []
    for number, cell in enumerate(chapter.code):
        if FOLDED_CELLS & set(tags(cell)):
            continue
        if (drawn := drawing_lines(cell)) > 4:
            problems.append(f"Cell {number} draws in {drawn} lines and is not folded")
        if any("text/markdown" in data_of(output) for output in cell.outputs):
            problems.append(f"Cell {number} shows a table and is not folded")
    return problems


# The template of a chapter.


def title_problems(chapter: Chapter) -> list[str]:
    titles = [line for line in headings(chapter) if line.startswith("# ")]
    first = chapter.notebook.cells[0]
    problems = [] if len(titles) == 1 else [f"{len(titles)} headings of the first level"]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        problems.append("the first cell does not start with the title")
    return problems


def colab_problems(chapter: Chapter) -> list[str]:
    links = COLAB.findall(chapter.markdown)
    wanted = f"book/{chapter.name}.ipynb"
    problems = [f"a Colab link opens {link}" for link in links if link != wanted]
    return problems or ([] if links else ["no Colab link"])


def install_problems(chapter: Chapter) -> list[str]:
    cells = [cell for cell in chapter.code if re.search(r"\bpip\b", cell.source)]
    if len(cells) != 1:
        return [f"{len(cells)} cells install something, exactly one should"]
    lines = "\n".join(line for line in cells[0].source.splitlines() if "%pip" in line)
    problems = [
        f"the install cell names {name}, which Colab has"
        for name in sorted(set(re.findall(r"(?<![\w./-])(?:torch\w*|numpy)", lines)))
    ]
    for statement in parsed(cells[0]).body:
        guard = ast.unparse(statement.test) if isinstance(statement, ast.If) else ""
        guarded = guard == "not find_spec('flowvae_tutorial')" and not statement.orelse
        if "pip" in ast.unparse(statement) and not guarded:
            problems.append("the install cell installs a package that is there")
    return problems


def introduction_problems(chapter: Chapter) -> list[str]:
    return [
        f"no {what} stated"
        for what, pattern in INTRODUCTION.items()
        if not re.search(pattern, chapter.markdown, re.IGNORECASE)
    ]


def ending_problems(chapter: Chapter) -> list[str]:
    return [
        f"no heading {name}"
        for name in ("Summary", "References")
        if not any(re.fullmatch(rf"## (?:[\d.]+ )?{name}", line) for line in headings(chapter))
    ]


def exercise_problems(chapter: Chapter) -> list[str]:
    found = [re.match(r"### Exercise (\d+\.\d+)\b", line) for line in headings(chapter)]
    numbers = [match[1] for match in found if match]
    wanted = [f"{int(chapter.name[:2])}.{k + 1}" for k in range(len(numbers))]
    problems = [] if 3 <= len(numbers) <= 6 else [f"{len(numbers)} exercises, 3 to 6 wanted"]
    return problems + ([] if numbers == wanted else [f"exercises {numbers} should be {wanted}"])


def metadata_problems(chapter: Chapter) -> list[str]:
    metadata = chapter.notebook.metadata
    problems = [f"metadata {key}" for key in metadata if key not in ("kernelspec", "language_info")]
    if metadata.get("language_info") != {"name": "python"}:
        problems.append("metadata language_info holds more or less than the name python")
    if metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("the kernel is not python3")
    return problems


def written_parts(chapter: Chapter) -> Iterable[str]:
    """All that somebody wrote or printed, without the bytes of pictures."""
    yield from (cell.source for cell in chapter.notebook.cells)
    for _, output in chapter.outputs():
        yield output.get("text", "")
        yield from (
            EMBEDDED.sub("", value)
            for kind, value in data_of(output).items()
            if kind not in NOT_COMPARED and isinstance(value, str)
        )


def path_problems(chapter: Chapter) -> list[str]:
    found = [m[0] for part in written_parts(chapter) for m in ABSOLUTE_PATH.finditer(part)]
    return [f"a path of one machine: {path}…" for path in found]


def unfinished_problems(chapter: Chapter) -> list[str]:
    found = [word for part in written_parts(chapter) for word in UNFINISHED.findall(part)]
    return [f"the word {word}" for word in found]


def stretches(chapter: Chapter) -> Iterable[str]:
    """The prose between two pictures, up to the exercises; what is folded is an aside."""
    prose = ""
    for cell in chapter.notebook.cells:
        if cell.cell_type == "code":
            shown = [data_of(output) for output in cell.outputs]
            if any("image/png" in data or "<img" in data.get("text/html", "") for data in shown):
                yield prose
                prose = ""
            continue
        text, *exercises = cell.source.split("## Exercises")
        first, *others = DRAWING.split(FOLDED.sub("", text))
        prose += first
        for part in others:
            yield prose
            prose = part
        if exercises:
            break
    yield prose


def stretch_problems(chapter: Chapter) -> list[str]:
    """A head takes in what it sees: a formula counts as one word."""
    counts = [len(WORD.findall(FORMULA.sub(" x ", prose))) for prose in stretches(chapter)]
    return [f"{count} words without a figure" for count in counts if count > 900]


def minutes_to_read(chapter: Chapter) -> float:
    """200 words a minute and 20 lines of code that is not folded, without the exercises."""
    minutes, asks = 0.0, False
    for cell in chapter.notebook.cells:
        if cell.source.startswith(("### Exercise", "## Summary")):
            asks = cell.source.startswith("###")
        if asks:
            continue
        if cell.cell_type == "markdown":
            prose = DRAWING.sub("", FOLDED.sub("", cell.source)).partition("## References")[0]
            minutes += len(WORD.findall(FORMULA.sub(" x ", prose))) / 200
        elif not FOLDED_CELLS & set(tags(cell)):
            minutes += len(list(filter(str.strip, cell.source.splitlines()))) / 20
    return minutes


def minutes_problems(chapter: Chapter) -> list[str]:
    """A chapter states its minutes to the nearest five."""
    measured = minutes_to_read(chapter)
    stated = re.search(r"(\d+) minutes to read", chapter.markdown)
    off = stated is not None and abs(int(stated[1]) - measured) > 4
    return [f"{measured:.0f} minutes to read"] * off


def scopes(table: symtable.SymbolTable) -> Iterable[symtable.SymbolTable]:
    yield table
    for inner in table.get_children():
        yield from scopes(inner)


def name_problems(chapter: Chapter) -> list[str]:
    """Functions whose name is a value's in another cell, and that a third cell uses.

    Run once more behind the other, the third would meet the wrong one.
    """
    functions, values, used = set[str](), set[str](), set[str]()
    for cell in chapter.code:
        source = TransformerManager().transform_cell(cell.source)
        top = symtable.symtable(source, "cell", "exec")
        found = top.get_symbols()
        here = {each.get_name() for each in found if each.is_assigned() or each.is_imported()}
        made = {each.get_name() for each in found if each.is_namespace() or each.is_imported()}
        functions |= made
        values |= here - made
        used |= {
            each.get_name()
            for scope in scopes(top)
            for each in scope.get_symbols()
            if each.is_referenced() and (scope is top or each.is_global())
        } - here
    return sorted(functions & values & used)


Check = Callable[[Chapter], list[str]]
CHECKS: list[Check] = [
    execution_problems,
    error_problems,
    widget_problems,
    skip_problems,
    decimal_problems,
    expect_problems,
    alt_problems,
    size_problems,
    open_code_problems,
    title_problems,
    colab_problems,
    install_problems,
    introduction_problems,
    ending_problems,
    exercise_problems,
    metadata_problems,
    path_problems,
    unfinished_problems,
    stretch_problems,
    minutes_problems,
    name_problems,
]


def sanitize_problems(text: str) -> list[str]:
    """What the rules of nbval's sanitize file hide beyond pictures' bytes and measured digits."""
    rules = ConfigParser()
    rules.read_string(text)
    patterns = [rules.get(name, "regex", raw=True) for name in rules.sections()]
    return [] if patterns == ['data:image/[^"]+', MEASURED] else [f"rules {patterns}"]


# The book.

CHAPTERS = sorted(BOOK.glob("*.ipynb"))


def test_every_chapter_of_the_contents_is_a_notebook_and_there_is_no_other() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    wanted = [page for page in pages if re.match(r"book/\d\d_", page)]
    assert wanted
    assert [f"book/{path.stem}" for path in CHAPTERS] == wanted


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_no(path: Path, check: Check) -> None:
    assert check(load(path)) == []


def test_no_two_figures_of_the_book_share_a_description() -> None:
    texts = Counter(alt for path in CHAPTERS for _, alt in alt_texts(load(path)))
    assert [alt for alt, times in texts.items() if times > 1] == []


def test_outputs_are_compared_but_for_the_bytes_of_pictures() -> None:
    assert sanitize_problems((BOOK / "nbval_sanitize.cfg").read_text(encoding="utf-8")) == []


# Each check refuses what it should.

# The beginning of a picture, two pixels wide.
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\2\0\0\0\1").decode()
INSTALL = (
    "from importlib.util import find_spec\n\n"
    'if not find_spec("flowvae_tutorial"):\n    %pip install -q "flowvae-tutorial"'
)
COLAB_LINK = "[Open in Colab](https://colab.research.google.com/github/a/b/blob/main/book/{}.ipynb)"
OPENING = (
    f"# 7 · A title\n\n{COLAB_LINK.format('07_example')}\n\n**Objectives.** Some. "
    "**Prerequisites.** None. **Time:** 3 minutes to read, 5 seconds to run."
)


def figure(alt: str, html: str = "") -> NotebookNode:
    data = {"text/plain": "<Figure size 800x300 with 2 Axes>", "image/png": PIXEL}
    metadata = {"mystnb": {"image": {"alt": alt}}}
    output = new_output("display_data", data, metadata={"image/png": {"width": 1}})
    return new_code_cell("plot()", outputs=[output], metadata=metadata)


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def sound_chapter() -> Chapter:
    """A chapter that every check accepts, with something in it for each to look at."""
    slider = (
        '<input style="width:24.5rem">'
        f'<img alt="frame 0.1" width="1" src="data:image/png;base64,{PIXEL}">'
    )
    html = {"text/html": slider, "text/plain": "<IPython.core.display.HTML object>"}
    cells = [
        new_markdown_cell(OPENING),
        new_code_cell(INSTALL),
        new_code_cell(
            "print(shape)", outputs=[stream("Exercise 7.1: (3, 64), by equation (7.2).\n")]
        ),
        new_code_cell(
            "expect(nll, -61.1, within=2)", outputs=[stream("NLL: -60.3 nats (page: -61.1 ± 2)\n")]
        ),
        new_code_cell(
            "print(kl)", outputs=[stream("0.6931\n")], metadata={"tags": ["exact", "hide-input"]}
        ),
        figure("Two curves."),
        new_code_cell("frame_slider()", outputs=[new_output("execute_result", html)]),
        new_markdown_cell("### Exercise 7.1\n\n### Exercise 7.2 (code)\n\n### Exercise 7.3"),
        new_markdown_cell("```python\n# a comment in code\n```\n\n## Summary\n\n## References"),
    ]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    chapter = Chapter("07_example", new_notebook(cells=cells, metadata=metadata))
    for number, cell in enumerate(chapter.code, start=1):
        cell.execution_count = number
    return chapter


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_sound_chapter_is_accepted(check: Check) -> None:
    assert check(sound_chapter()) == []


def strip_execution_count(chapter: Chapter) -> None:
    chapter.code[1].execution_count = None


def swap_execution_counts(chapter: Chapter) -> None:
    chapter.code[1].execution_count, chapter.code[2].execution_count = 3, 2


def put_output(output: NotebookNode) -> Callable[[Chapter], None]:
    """Gives the first cell that is neither exact nor checked another output."""
    return lambda chapter: chapter.code[1].update(outputs=[output])


def put_stored(text: str) -> Callable[[Chapter], None]:
    """Gives the checked cell another output."""
    return lambda chapter: chapter.code[2].update(outputs=[stream(text)])


def put_source(source: str, number: int = 1) -> Callable[[Chapter], None]:
    return lambda chapter: chapter.code[number].update(source=source)


def put_tag(tag: str, cells: int = 1) -> Callable[[Chapter], None]:
    def change(chapter: Chapter) -> None:
        for cell in chapter.code[1 : 1 + cells]:
            cell.metadata["tags"] = [tag]

    return change


def put_alt(alt: str) -> Callable[[Chapter], None]:
    return lambda chapter: chapter.code[4].metadata.mystnb.image.update(alt=alt)


def add(cell: NotebookNode) -> Callable[[Chapter], None]:
    return lambda chapter: chapter.notebook.cells.append(cell)


def add_cells(*sources: str) -> Callable[[Chapter], None]:
    return lambda chapter: chapter.notebook.cells.extend(map(new_code_cell, sources))


def rewrite(old: str, new: str) -> Callable[[Chapter], None]:
    def change(chapter: Chapter) -> None:
        cells = [cell for cell in chapter.notebook.cells if old in cell.source]
        assert cells
        for cell in cells:
            cell.source = cell.source.replace(old, new)

    return change


def put_size(**told: int) -> Callable[[Chapter], None]:
    return lambda chapter: chapter.code[4].outputs[0].metadata.update({"image/png": told})


def put_metadata(**metadata: object) -> Callable[[Chapter], None]:
    return lambda chapter: chapter.notebook.metadata.update(metadata)


def result(**data: str) -> NotebookNode:
    return new_output("execute_result", {k.replace("_", "/"): v for k, v in data.items()})


FRAME = f'<img alt="a" src="data:image/png;base64,{PIXEL}">'
REFUSED: list[tuple[Check, Callable[[Chapter], Any]]] = [
    (execution_problems, strip_execution_count),
    (execution_problems, swap_execution_counts),
    (error_problems, put_output(stream("a warning", "stderr"))),
    (error_problems, put_output(new_output("error", ename="E", evalue="", traceback=[]))),
    (widget_problems, put_output(new_output("display_data", {WIDGET: {}, "text/plain": "Tab()"}))),
    (widget_problems, put_output(new_output("display_data", {WIDGET: {}, "image/png": PIXEL}))),
    (skip_problems, put_tag("nbval-skip")),
    (skip_problems, put_tag("nbval-ignore-output", cells=3)),
    (skip_problems, put_source("# NBVAL_IGNORE_OUTPUT\nprint(1)")),
    (decimal_problems, put_output(stream("loss 61.07\n"))),
    (decimal_problems, put_output(stream("p-value 1e-05\n"))),
    (decimal_problems, put_output(stream("checked: 61.07 (page: 61 ± 2)\n"))),
    (decimal_problems, put_output(result(text_plain="tensor([1., 2.])"))),
    (decimal_problems, put_output(result(text_plain="Table()", text_html="<td>61.07</td>"))),
    (decimal_problems, lambda chapter: chapter.code[2].outputs.append(stream("loss 61.07\n"))),
    (decimal_problems, lambda chapter: chapter.code[3].update(metadata={})),
    (expect_problems, put_source("expect(nll, -61.1)", 2)),
    (expect_problems, put_source("expect(nll, -61.1, within=2 * standard_error)", 2)),
    (expect_problems, put_source("expect(nll, -61.1, tolerance, 'NLL')", 2)),
    (expect_problems, put_stored("NLL: -58.3 nats (page: -61.1 ± 2)\n")),
    (expect_problems, put_stored("NLL: 60.3 nats (page: -61.1 ± 2)\n")),
    (expect_problems, put_stored("NLL: nan nats (page: -61.1 ± 2)\n")),
    (expect_problems, put_stored("NLL: -64.0 (page: -61.1 ± 2, this is outside by 0.9)\n")),
    (alt_problems, put_alt(" ")),
    (alt_problems, lambda chapter: chapter.code[4].update(metadata={})),
    (alt_problems, put_alt("frame 0.1")),
    (alt_problems, lambda c: c.code[4].outputs.append(c.code[4].outputs[0])),
    (alt_problems, put_output(result(text_html='<img src="data:image/png;base64,AAAA">'))),
    (size_problems, put_size()),
    (size_problems, put_size(width=2)),
    (size_problems, put_size(width=1, height=1)),
    (size_problems, lambda c: c.code[5].outputs[0].data.update({"text/html": FRAME})),
    (open_code_problems, put_source("axes[0].plot(x)\n" * 5)),
    (open_code_problems, put_source("plots.plot_rows(\n    a,\n    b,\n    c,\n)")),
    (open_code_problems, put_output(result(text_markdown="| a |"))),
    (title_problems, rewrite("# 7 · A title", "## A title")),
    (title_problems, add(new_markdown_cell("# Another title"))),
    (title_problems, lambda chapter: chapter.notebook.cells.insert(0, new_code_cell("1"))),
    (colab_problems, rewrite("book/07_example", "book/06_other")),
    (colab_problems, rewrite("colab.research", "elsewhere")),
    (colab_problems, add(new_markdown_cell(COLAB_LINK.format("06_other")))),
    (install_problems, rewrite("%pip install", "%cd")),
    (install_problems, add(new_code_cell(INSTALL))),
    (install_problems, rewrite('"flowvae-tutorial"', '"flowvae-tutorial" "torch>=2.4"')),
    (install_problems, rewrite('if not find_spec("flowvae_tutorial")', "if True")),
    (install_problems, put_source(f"{INSTALL}\nelse:\n    %pip install another", 0)),
    (introduction_problems, rewrite("**Objectives.**", "")),
    (introduction_problems, rewrite("**Prerequisites.**", "")),
    (introduction_problems, rewrite("3 minutes", "some time")),
    (introduction_problems, rewrite("5 seconds", "soon")),
    (ending_problems, rewrite("## Summary", "Summary")),
    (ending_problems, rewrite("## References", "")),
    (exercise_problems, rewrite("### Exercise 7.3", "")),
    (exercise_problems, rewrite("Exercise 7.3", "Exercise 7.4")),
    (exercise_problems, rewrite("Exercise 7.", "Exercise 6.")),
    (metadata_problems, put_metadata(widgets={})),
    (metadata_problems, put_metadata(language_info={"name": "python", "version": "3.11.2"})),
    (metadata_problems, put_metadata(kernelspec={"name": "my-venv"})),
    (path_problems, put_source('open("/home/me/data.csv")')),
    (path_problems, put_output(stream("saved to /tmp/run/weights\n"))),
    (path_problems, put_source(r'open("C:\data\x.csv")')),
    (unfinished_problems, add(new_markdown_cell("TODO: say why"))),
    (unfinished_problems, put_source("x = 1  # FIXME")),
    (minutes_problems, rewrite("3 minutes", "6 minutes")),
    (minutes_problems, rewrite("**Objectives.**", 1500 * "word ")),
    (minutes_problems, put_source("x = 1\n" * 150)),
    (name_problems, add_cells("def f(u): return u", "f(1)", "f = 2")),
    (name_problems, add_cells("from math import pi", "def area(r): return pi * r", "pi = 3")),
    (stretch_problems, add(new_markdown_cell(901 * "word "))),
    (stretch_problems, add(new_markdown_cell(901 * "word " + "![a drawing](figures/idea.svg)"))),
]


@pytest.mark.parametrize(
    ("check", "spoil"),
    REFUSED,
    ids=[f"{check.__name__}-{number}" for number, (check, _) in enumerate(REFUSED)],
)
def test_a_spoilt_chapter_is_refused(check: Check, spoil: Callable[[Chapter], Any]) -> None:
    chapter = sound_chapter()
    spoil(chapter)
    assert check(chapter) != []


def test_every_check_is_shown_to_refuse_something() -> None:
    assert {check for check, _ in REFUSED} == set(CHECKS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[pictures]\nregex: data:image/.*\nreplace: PICTURE",
        '[pictures]\nregex: data:image/[^"]+\nreplace: P\n[numbers]\nregex: \\d+\nreplace: N',
        '[pictures]\nregex: data:image/[^"]+\nreplace: P',
    ],
)
def test_a_sanitize_file_that_hides_more_is_refused(text: str) -> None:
    assert sanitize_problems(text) != []


# Change what is stored, and the book's own test run turns red.


def nbval_options() -> list[str]:
    """The options that `make test` runs the chapters with."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    command = re.search(r"/pytest book (?:tests/\w+ )*(.*--nbval.*)$", makefile, re.MULTILINE)
    assert command
    return shlex.split(command[1])


def failing_cells(path: Path, report: Path) -> tuple[set[str], int]:
    """The cells of the notebook that fail as `make test` would see it, and how many ran."""
    # A worker of the outer run must not be taken for one of the inner run.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(path),
        *nbval_options(),
        "-p",
        "no:cacheprovider",
    ]
    # One notebook needs no workers.
    command += ["-n", "0", "-c", "pyproject.toml", "--rootdir", ".", f"--junitxml={report}"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    return {c.attrib["name"] for c in cases if c.find("failure") is not None}, len(cases)


def printing_cells(chapter: Chapter) -> list[int]:
    """Numbers of the cells that print both a number and a word which nbval compares."""
    return [
        number
        for number, cell in enumerate(chapter.code)
        if IGNORE_OUTPUT not in tags(cell)
        and cell.outputs
        and cell.outputs[0].get("name") == "stdout"
        and re.search(r"\d", cell.outputs[0].text)
        and re.search(r"[a-z]{3,}", cell.outputs[0].text)
    ]


def test_one_changed_number_and_one_changed_word_turn_exactly_their_cells_red(
    tmp_path: Path,
) -> None:
    chapter = load(BOOK / "00_reading_distributions.ipynb")
    numeric, *_, verbal = printing_cells(chapter)
    number, word = chapter.code[numeric].outputs[0], chapter.code[verbal].outputs[0]
    number.text = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), number.text, count=1)
    word.text = re.sub(r"[a-z]{3,}", "otherwise", word.text, count=1)
    copy = tmp_path / "chapter.ipynb"
    nbformat.write(chapter.notebook, copy)
    red, ran = failing_cells(copy, tmp_path / "report.xml")
    assert red == {f"Cell {numeric}", f"Cell {verbal}"}
    assert ran == len(chapter.code)


IMPORT = "from flowvae_tutorial.notebook import expect"
PYTHON = {"name": "python3", "display_name": "Python", "language": "python"}


def page_of(value: float, stored: str, path: Path) -> None:
    source = f"{IMPORT}\nexpect({value}, 22.1, 0.3, 'K = 3', 'nats')"
    cell = new_code_cell(source, execution_count=1, outputs=[stream(f"{stored}\n")])
    page = new_notebook(cells=[cell])
    page.metadata["kernelspec"] = PYTHON
    nbformat.write(page, path)


@pytest.mark.parametrize(
    ("value", "stored", "green"),
    [
        (22.04, "K = 3: 22.31 nats (page: 22.1 ± 0.3)", True),
        (22.44, "K = 3: 22.31 nats (page: 22.1 ± 0.3)", False),
        (float("1e6"), "K = 3: 22.31 nats (page: 22.1 ± 0.3)", False),
        (22.04, "K = 4: 22.04 nats (page: 22.1 ± 0.3)", False),
        (22.04, "K = 3: 22.04 nats (page: 22.0 ± 0.3)", False),
        (22.04, "K = 3: 22.04 nats (page: 22.1 ± 0.4)", False),
        (22.04, "K = 3: 22.04 bits (page: 22.1 ± 0.3)", False),
    ],
)
def test_of_a_measurement_nbval_ignores_its_digits_within_the_band_and_nothing_else(
    value: float, stored: str, green: bool, tmp_path: Path
) -> None:
    page_of(value, stored, tmp_path / "page.ipynb")
    red, ran = failing_cells(tmp_path / "page.ipynb", tmp_path / "report.xml")
    assert ran == 1 and (red == set()) is green


def test_a_picture_is_stored_in_fewer_bytes_with_the_same_pixels() -> None:
    figure, axis = plt.subplots()
    axis.plot([0, 1], [1, 0])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    plt.close(figure)
    png = base64.b64encode(buffer.getvalue()).decode()
    stored = {"image/png": png, "text/html": f'<img alt="a" src="data:image/png;base64,{png}">'}
    book.repack(stored)
    packed = stored["image/png"]
    assert stored["text/html"] == f'<img alt="a" src="data:image/png;base64,{packed}">'
    assert len(packed) < 0.95 * len(png)
    one, other = (plt.imread(io.BytesIO(base64.b64decode(each))) for each in (png, packed))
    assert (one[..., :3] == other[..., :3]).all()


def test_a_figure_shown_on_other_pages_is_the_one_that_its_chapter_stores() -> None:
    shown = [
        (cell["metadata"]["picture"], output["data"]["image/png"])
        for path in CHAPTERS
        for cell in nbformat.read(path, as_version=4).cells
        if "picture" in cell["metadata"]
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]
    assert [name for name, _ in shown] == ["latent_map.png"]
    for name, stored in shown:
        assert (ROOT / "book" / name).read_bytes() == base64.b64decode(stored)
