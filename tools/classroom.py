"""Packs the chapters for a course: student, without solutions; instructor, with them."""

import re
import sys
import tomllib
from pathlib import Path
from posixpath import dirname, join, normpath
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
# The page of references is filled by the build of the book; what it is filled from can be read.
PAGES = ["notation.md", "references.bib"]
PAGES += sorted(f"figures/{path.name}" for path in (BOOK / "figures").glob("*.svg"))
# What stands for a live figure where its scripts do not run.
PICTURES = sorted(f"figures/{path.name}" for path in (BOOK / "figures").glob("live-*.png"))
LINK = re.compile(r"\]\((?!\w+:)([\w./-]+\.\w+)(#[^)]*)?\)")
Files = dict[str, str | bytes]

STUDENT = """\
# The chapters, with their exercises to solve

One notebook a chapter, and [the notation](notation.md). A code exercise has a cell to write in and
a check, which answers at once and gives hints. The solutions are not here. They are in the book,
and the checks know them, so try first.

In [Colab](https://colab.research.google.com/): File, Upload notebook. The first cell installs what
is missing there. On your own machine, with Python 3.11 or later:

    pip install jupyterlab git+{address}@v{version}
    jupyter lab
"""

INSTRUCTOR = """\
# The chapters, for teaching

One notebook a chapter, with its solutions, and [the notation](notation.md).{course}

| chapter | minutes to read | seconds to run |
| --- | --- | --- |
{times}

The times are those that the chapters state; a machine without a GPU is enough. `make student` packs
the same notebooks without the solutions.
"""


def chapters() -> dict[str, NotebookNode]:
    paths = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
    return {path.name: nbformat.read(path, as_version=4) for path in paths}


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def without_solutions(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The cells up to each solution, and on from the heading after it.

    What stands between the two belongs to the answer: its numbers, or a picture of the result.
    """
    kept, hidden = [], False
    for cell in cells:
        if cell.cell_type == "markdown" and re.match(r"#+ ", cell.source):
            hidden = False
        hidden = hidden or "solution" in tags(cell)
        if not hidden:
            kept.append(cell)
    return kept


def for_student(notebook: NotebookNode) -> NotebookNode:
    """A chapter to work in: no solutions, no link to where they stand, no check run already."""
    notebook.cells = without_solutions(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            upload = "To open this chapter in Colab: File, Upload notebook."
            source = re.sub(r"\[Open this chapter in Colab\]\([^)]*\)", upload, cell.source)
            cell.source = re.sub(r" The solutions? (?:is|are) folded[^.]*\.", "", source)
        if "exercise" in tags(cell):
            cell.outputs, cell.execution_count = [], None
    return notebook


def minutes_and_seconds(notebook: NotebookNode) -> tuple[int, int]:
    """The time to read and the time to run that a chapter states."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    [minutes] = re.findall(r"(\d+) minutes to read", text)
    [seconds] = re.findall(r"(\d+) seconds to run", text)
    return int(minutes), int(seconds)


def table(notebooks: dict[str, NotebookNode]) -> str:
    """One row a chapter: its title, the minutes to read it and the seconds to run it."""
    rows = []
    for name, notebook in notebooks.items():
        title = notebook.cells[0].source.partition("\n")[0].removeprefix("# ")
        minutes, seconds = minutes_and_seconds(notebook)
        rows.append(f"| [{title}]({name}) | {minutes} | {seconds} |")
    return "\n".join(rows)


def package() -> dict[str, str]:
    """The address of the repository, and the version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"address": project["urls"]["Repository"], "version": project["version"]}


def relinked(text: str, name: str, packed: set[str]) -> str:
    """The text of a page with each link to a page that is not packed leading to the repository."""

    def lead(link: re.Match[str]) -> str:
        target = link[1].replace("references.md", "references.bib")
        path = normpath(join(dirname(name), target))
        if path not in packed:
            target = f"{package()['address']}/blob/main/{normpath(join('book', path))}"
        return f"]({target}{link[2] or ''})"

    return LINK.sub(lead, text)


def written(notebook: NotebookNode, name: str, packed: set[str]) -> str:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, name, packed)
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def student() -> Files:
    """Name and content of each file in a student's pack."""
    notebooks = {name: for_student(notebook) for name, notebook in chapters().items()}
    pages = {name: (BOOK / name).read_text(encoding="utf-8") for name in PAGES}
    return pack(notebooks, pages | {"README.md": STUDENT.format(**package())})


def instructor() -> Files:
    """Name and content of each file in an instructor's pack."""
    notebooks = chapters()
    course = [f"course/{path.name}" for path in sorted((BOOK / "course").glob("*.md"))]
    pages = {name: (BOOK / name).read_text(encoding="utf-8") for name in [*PAGES, *course]}
    about = " How to teach with them is told in `course/`." if course else ""
    readme = INSTRUCTOR.format(course=about, times=table(notebooks))
    return pack(notebooks, pages | {"README.md": readme})


def pack(notebooks: dict[str, NotebookNode], pages: dict[str, str]) -> Files:
    packed = {*notebooks, *pages, *PICTURES}
    files: Files = {name: (BOOK / name).read_bytes() for name in PICTURES}
    files |= {name: relinked(text, name, packed) for name, text in pages.items()}
    return files | {name: written(notebook, name, packed) for name, notebook in notebooks.items()}


def write(path: Path, files: Files) -> None:
    """One folder in an archive, the same to the byte for the same files."""
    path.parent.mkdir(exist_ok=True)
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = ZipInfo(f"{path.stem}/{name}")  # dated 1980, where archives begin
            entry.compress_type = ZIP_DEFLATED
            archive.writestr(entry, content)
    print(path)


if __name__ == "__main__":
    [who] = sys.argv[1:]
    write(Path("dist") / f"{who}.zip", {"student": student, "instructor": instructor}[who]())
