"""Writes the exercises of a chapter as an assignment, for nbgrader or Otter, into dist/.

An assignment holds the exercises and what they import, not the chapter: so grading takes seconds.
Its graded cells run the book's checks, with the numbers of a seed that students do not see.
"""

import argparse
import ast
import re
from pathlib import Path
from textwrap import indent

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from classroom import chosen, tags
from plain import WORDS, plain

HEADING = re.compile(r"### Exercise (\d+\.\d+) \((code|pencil)\):")
# Of a link that leads out of the assignment its words are left.
LINK = re.compile(r"(?<!!)" + WORDS + r"\((?!\w+:)[^)]*\)")
POINTS = 5
# What stands where a solution stood: dots, as in the book.
CONFIG = 'c = get_config()\nc.ClearSolutions.code_stub = {"python": "..."}\n'

# What `otter assign` is told: tests that raise, and nothing for Gradescope alone.
OTTER = """# ASSIGNMENT CONFIG
name: {name}
tests:
  ok_format: false
check_all_cell: false
export_cell: false
"""


def graded(cell: NotebookNode, grade_id: str, *, grade: bool, solution: bool) -> NotebookNode:
    """The cell with what nbgrader wants to know of it."""
    cell.metadata["nbgrader"] = {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": grade,
        "solution": solution,
        "locked": grade and not solution,
        "task": False,
        "points": POINTS if grade else 0,
        "cell_type": cell.cell_type,
    }
    return cell


def imports(cells: list[NotebookNode]) -> str:
    """What a chapter imports at the top level of its cells, which its exercises build on."""
    lines: list[str] = []
    for cell in cells:
        if cell.cell_type == "code" and "%pip" not in cell.source:
            for statement in ast.parse(cell.source).body:
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    lines.append(ast.unparse(statement))
    return "\n".join(dict.fromkeys(lines))


def answer(stub: str, solution: str) -> str:
    """The function of the stub with the solution's lines, between nbgrader's markers."""
    [wanted] = [n for n in ast.parse(stub).body if isinstance(n, ast.FunctionDef)]
    [given] = [n for n in ast.parse(solution).body if isinstance(n, ast.FunctionDef)]
    lines = solution.splitlines()[given.lineno - 1 : given.end_lineno]
    body = next(k for k, line in enumerate(lines) if line.rstrip().endswith(":")) + 1
    lines[0] = lines[0].replace(f"def {given.name}(", f"def {wanted.name}(")
    marked = ["    ### BEGIN SOLUTION", *lines[body:], "    ### END SOLUTION"]
    return "\n".join([*lines[:body], *marked])


def test(stub: str, seed: int) -> str:
    """The book's check, once with numbers of its own and then, hidden, with others."""
    call = stub.rstrip().splitlines()[-1].removesuffix(")")
    hidden = f"for seed in range({seed}, {seed + 3}):\n    {call}, seed=seed, raises=True)"
    return (
        f"{call}, raises=True)\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS"  # one cell
    )


def exercises(cells: list[NotebookNode]) -> list[tuple[str, str, list[NotebookNode]]]:
    """Number, kind and cells of each exercise of code or with a pencil."""
    found: list[tuple[str, str, list[NotebookNode]]] = []
    inside = False
    for cell in cells:
        headings = re.findall(r"^#+ .*", cell.source, re.M) if cell.cell_type == "markdown" else []
        if headings:
            match = HEADING.match(headings[-1])
            inside = match is not None
            if match:
                found.append((match[1], match[2], []))
                cell = new_markdown_cell(cell.source[cell.source.index(headings[-1]) :])
        if inside:
            found[-1][2].append(cell)
    return found


def assignment(chapter: NotebookNode, seed: int) -> NotebookNode:
    """The exercises of a chapter, with their solutions, as nbgrader's `source` has them."""
    title = chapter.cells[0].source.partition("\n")[0]
    cells = [new_markdown_cell(f"{title}: exercises"), new_code_cell(imports(chapter.cells))]
    for number, kind, given in exercises(chapter.cells):
        name = f"exercise-{number.replace('.', '-')}"
        [solution] = [cell for cell in given if "solution" in tags(cell)]
        for cell in given[: given.index(solution)]:
            if cell.cell_type == "markdown":
                cells.append(new_markdown_cell(LINK.sub(r"\1", plain(cell.source))))
        if kind == "code":
            [stub] = [cell.source for cell in given if "exercise" in tags(cell)]
            written = new_code_cell(answer(stub, solution.source))
            cells.append(graded(written, name, grade=False, solution=True))
            check = new_code_cell(test(stub, seed))
            cells.append(graded(check, f"{name}-test", grade=True, solution=False))
        else:
            text = new_markdown_cell(LINK.sub(r"\1", plain(solution.source)))
            cells.append(graded(text, name, grade=True, solution=True))
    for position, cell in enumerate(cells):
        cell["id"] = f"cell-{position}"  # the same in each run
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.validate(notebook)
    return notebook


def blocks(cell: NotebookNode, name: str) -> list[NotebookNode | str]:
    """A cell with nbgrader's metadata as Otter's cells, with lines that say what they are for."""
    about = cell.metadata.pop("nbgrader")
    question = f"BEGIN QUESTION\nname: {name}\npoints: {POINTS}"
    if cell.cell_type == "markdown":
        written = ["BEGIN SOLUTION", cell, "END SOLUTION", "END QUESTION"]
        return [f"{question}\nmanual: true", *written]
    if about["solution"]:
        cell.source = cell.source.replace("### ", "# ")
        return [question, "BEGIN SOLUTION", cell, "END SOLUTION"]
    shown, _, hidden = cell.source.removesuffix("\n### END HIDDEN TESTS").partition("\n### ")
    [wanted] = re.findall(r"\((\w+), ", shown)
    tests = [
        new_code_cell(f"{first}def test_{kind}(exercises, {wanted}):\n{indent(body, '    ')}")
        for first, kind, body in (
            ("", "answer", shown),
            ("# HIDDEN\n", "other_numbers", hidden.removeprefix("BEGIN HIDDEN TESTS\n")),
        )
    ]
    return ["BEGIN TESTS", *tests, "END TESTS", "END QUESTION"]


def for_otter(notebook: NotebookNode, name: str) -> NotebookNode:
    """An assignment of nbgrader's as `otter assign` takes it."""
    found: list[NotebookNode | str] = []
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            grade_id = cell.metadata.nbgrader.grade_id.removesuffix("-test")
            found += blocks(cell, grade_id.replace("-", "_"))
        else:
            found.append(cell)
    notebook.cells = [new_raw_cell(OTTER.format(name=name))]
    notebook.cells += [new_raw_cell(f"# {c}") if isinstance(c, str) else c for c in found]
    for position, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{position}"
    nbformat.validate(notebook)
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grader", choices=["nbgrader", "otter"])
    parser.add_argument("--chapters", nargs="*", default=[], help="numbers; all without it")
    parser.add_argument("--seed", type=int, default=1, help="of the hidden tests: keep it to you")
    options = parser.parse_args()
    course = Path("dist") / options.grader
    for file, chapter in chosen(options.chapters).items():
        name = f"chapter{int(file[:2])}"
        notebook = assignment(chapter, options.seed)
        if options.grader == "otter":
            notebook, path = for_otter(notebook, name), course / f"{name}.ipynb"
        else:
            path = course / "source" / name / "exercises.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        print(path)
    if options.grader == "nbgrader":
        (course / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")


if __name__ == "__main__":
    main()
