"""Packs the chapters for a course: student, without solutions; instructor, with them."""

import argparse
import re
import sys
import tomllib
from datetime import datetime
from pathlib import Path
from posixpath import dirname, join, normpath
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import nbformat
from nbformat import NotebookNode

import repository
from plain import WORDS, plain

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
# The page of references is filled by the build of the book; what it is filled from can be read.
PAGES = ["notation.md", "references.bib"]
PAGES += sorted(f"figures/{path.name}" for path in (BOOK / "figures").glob("*.svg"))
CHAPTER_LINK = re.compile(WORDS + r"\((\d\d_\w+\.ipynb)(?:#[^)]*)?\)")
# What stands for a live figure where its scripts do not run.
PICTURES = sorted(f"figures/{path.name}" for path in (BOOK / "figures").glob("live-*.png"))
LINK = re.compile(r"\]\((?!\w+:)([\w./-]+\.\w+)(#[^)]*)?\)")
Files = dict[str, str | bytes]

# An address that a fresh copy of the book has, and that leads nowhere.
PLACEHOLDER = "/your-name/"

STUDENT = """\
# The chapters, with their exercises to solve

One notebook a chapter, and [the notation](notation.md). A code exercise has a cell to write in and
a check, which answers at once and gives hints. The solutions are not here. They are in the book,
and the checks know them, so try first.

**On your own machine**, with Python 3.11 or later, in this folder:

    python -m venv .venv
    # Linux alone: PyTorch for the CPU. Without it pip downloads about 3 GB for NVIDIA's GPUs.
    .venv/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu
    .venv/bin/pip install jupyterlab ./{wheel}
    .venv/bin/jupyter lab

On Windows `.venv\\Scripts\\pip` and `.venv\\Scripts\\jupyter`. No chapter needs a GPU.

**In [Colab](https://colab.research.google.com/)**: File, Upload notebook; then put `{wheel}`
beside it (the folder at the left). The first cell installs it and leaves the rest as it is.

**In Kaggle**: File, Import Notebook; then Add Input, Upload, the same file.
"""

INSTALL = """\
from importlib.util import find_spec
from pathlib import Path

WHEEL = "{wheel}"
REPOSITORY = "git+{address}@v{version}"
# Beside this notebook, or among the inputs of one in Kaggle.
WHEELS = [*Path().glob(WHEEL), *Path("/kaggle/input").rglob(WHEEL)]
if all(map(find_spec, ["torch", "sklearn", "safetensors", "ipywidgets"])):
    for source in [*WHEELS, "flowvae_tutorial=={version}", REPOSITORY]:
        if not find_spec("flowvae_tutorial"):
            %pip install -qqq --no-deps "{{source}}"
if not find_spec("flowvae_tutorial"):
    if not WHEELS:
        print(f"First put {{WHEEL}} here, beside this notebook.")
    print(f"Run this, then restart the kernel: %pip install {{[*WHEELS, WHEEL][0]}}")"""

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


def to_predict(notebook: NotebookNode) -> NotebookNode:
    """A chapter whose results are still to come.

    No output is there before its cell has run, and a cell of text with the tag `result` is folded.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        elif "result" in tags(cell):
            fold = "<details><summary>What came out: predict first</summary>"
            cell.source = f"{fold}\n\n{cell.source}\n\n</details>"
    return notebook


def with_install_cell(notebook: NotebookNode) -> NotebookNode:
    """A chapter whose first cell tries the wheel of the pack before any address."""
    [cell] = [c for c in notebook.cells if c.cell_type == "code" and "%pip" in c.source]
    cell.source = INSTALL.format(**package())
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
    """The addresses of the repository and of its files, the version, the name of the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version, address = project["version"], project["urls"]["Repository"]
    if PLACEHOLDER in address:
        sys.exit(
            f"{address} is no repository yet, and the pack would lead there: run "
            "make repository URL=https://github.com/you/your-repository first"
        )
    wheel = f"{project['name']}-{version}-py3-none-any.whl"
    found = repository.parse(address)
    assert found is not None, "make repository has written it"
    files = f"{address}/{repository.PATHS[found.kind][0]}"
    return {"address": address, "files": files, "version": version, "wheel": wheel}


def relinked(text: str, name: str, packed: set[str]) -> str:
    """The text of a page with each link to a page that is not packed leading to the repository."""

    def lead(link: re.Match[str]) -> str:
        target = link[1].replace("references.md", "references.bib")
        path = normpath(join(dirname(name), target))
        if path not in packed:
            target = f"{package()['files']}/{normpath(join('book', path))}"
        return f"]({target}{link[2] or ''})"

    return LINK.sub(lead, text)


def written(notebook: NotebookNode, name: str, packed: set[str]) -> str:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(plain(cell.source), name, packed)
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def chosen(numbers: list[str]) -> dict[str, NotebookNode]:
    """The chapters of these numbers, or all."""
    found = chapters()
    known = {name[:2].removeprefix("0"): name for name in found}
    if unknown := [number for number in numbers if number not in known]:
        sys.exit(f"There is no chapter {', '.join(unknown)}. There are {', '.join(known)}.")
    return {known[number]: found[known[number]] for number in numbers or known}


def student(numbers: list[str], keep_outputs: bool = False) -> Files:
    """Name and content of each file in a student's pack."""
    notebooks = {
        name: with_install_cell(for_student(each)) for name, each in chosen(numbers).items()
    }
    for each in [] if keep_outputs else notebooks.values():
        to_predict(each)
    for cell in (cell for each in notebooks.values() for cell in each.cells):
        cell.metadata.pop("speaker", None)  # who speaks of a slide says what is to be predicted
        # Of a chapter that is not packed the name is left: in the repository it has its solutions.
        cell.source = CHAPTER_LINK.sub(
            lambda link: link[0] if link[2] in notebooks else link[1], cell.source
        )
    pages = {name: (BOOK / name).read_text(encoding="utf-8") for name in PAGES}
    return pack(notebooks, pages | {"README.md": STUDENT.format(**package())})


def instructor(seed: int | None = None) -> Files:
    """Name and content of each file in an instructor's pack; a seed adds questions of its own."""
    notebooks = chapters()
    course = [f"course/{path.name}" for path in sorted((BOOK / "course").glob("*.md"))]
    pages = {name: (BOOK / name).read_text(encoding="utf-8") for name in [*PAGES, *course]}
    about = " How to teach with them is told in `course/`." if course else ""
    if seed is not None:
        import variants  # it computes its answers with torch, which no other pack waits for

        pages |= {f"questions/{name}": text for name, text in variants.pages(seed).items()}
        about += f" In `questions/` are questions that are on no page, for the seed {seed}."
    readme = INSTRUCTOR.format(course=about, times=table(notebooks))
    return pack(notebooks, pages | {"README.md": readme})


def pack(notebooks: dict[str, NotebookNode], pages: dict[str, str]) -> Files:
    packed = {*notebooks, *pages, *PICTURES}
    files: Files = {name: (BOOK / name).read_bytes() for name in PICTURES}
    files |= {name: relinked(text, name, packed) for name, text in pages.items()}
    return files | {name: written(notebook, name, packed) for name, notebook in notebooks.items()}


def write(path: Path, files: Files) -> None:
    """One folder in an archive, of files that their owner may write and all may read."""
    path.parent.mkdir(exist_ok=True)
    now = datetime.now().timetuple()[:6]
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = ZipInfo(f"{path.stem}/{name}", now)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = ZIP_DEFLATED
            archive.writestr(entry, content)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", choices=["student", "instructor"])
    parser.add_argument("--chapters", nargs="*", default=[], help="numbers; all without it")
    parser.add_argument("--seed", type=int, help="of questions that are on no page: keep it to you")
    parser.add_argument("--keep-outputs", action="store_true", help="results stay to be seen")
    options = parser.parse_args()
    dist = Path("dist")
    if options.who == "instructor":
        write(dist / "instructor.zip", instructor(options.seed))
        return
    files = student(options.chapters, options.keep_outputs)
    wheel = dist / package()["wheel"]
    if not wheel.is_file():
        sys.exit(f"The pack needs {wheel}, which is not there: run make wheel first")
    write(dist / "student.zip", files | {wheel.name: wheel.read_bytes()})


if __name__ == "__main__":
    main()
