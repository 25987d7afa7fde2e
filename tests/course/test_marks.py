"""Assignments for nbgrader: what they hold, and that nbgrader's own commands grade them rightly.

The last test runs where nbgrader is installed: `make test-nbgrader`.
"""

import os
import re
import subprocess
import sys
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

import classroom
import marks

POINTS = marks.POINTS


@cache
def chapters() -> dict[str, NotebookNode]:
    return classroom.chapters()


def assignment(name: str, seed: int = 7) -> NotebookNode:
    return marks.assignment(chapters()[name], seed)


def ids(notebook: NotebookNode) -> list[str]:
    cells = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    return [cell.metadata.nbgrader.grade_id for cell in cells]


def named(notebook: NotebookNode, grade_id: str) -> NotebookNode:
    [cell] = [
        cell
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id
    ]
    return cell


@pytest.mark.parametrize("name", chapters())
def test_an_assignment_has_all_exercises_but_the_open_ones(name: str) -> None:
    text = "\n".join(c.source for c in chapters()[name].cells if c.cell_type == "markdown")
    wanted = []
    for number, kind in re.findall(r"^### Exercise (\d\.\d) \((code|pencil)\)", text, re.M):
        wanted.append(f"exercise-{number.replace('.', '-')}")
        wanted += [f"{wanted[-1]}-test"] if kind == "code" else []
    found = assignment(name)
    assert wanted and ids(found) == wanted
    for cell in found.cells:
        assert "](#" not in cell.source, "a link to what the assignment does not have"
        if "nbgrader" in cell.metadata:
            about = cell.metadata.nbgrader
            assert about.grade is (about.grade_id.endswith("-test") or cell.cell_type != "code")
            assert about.solution is not about.grade_id.endswith("-test")
            assert about.points == (POINTS if about.grade else 0)
            assert about.locked is (not about.solution)


@pytest.mark.parametrize("name", chapters())
def test_every_solution_of_an_assignment_passes_its_tests(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = [cell.source for cell in assignment(name).cells if cell.cell_type == "code"]
    exec("\n\n".join(code), {"__name__": "__main__"})
    said = capsys.readouterr().out.splitlines()
    tests = sum("HIDDEN TESTS" in source for source in code)
    assert len(said) == 4 * tests and all(line.endswith(": correct.") for line in said)


def test_the_lecturers_seed_is_in_the_hidden_part_alone() -> None:
    for name in chapters():
        for one, other in zip(assignment(name, 7).cells, assignment(name, 8).cells, strict=True):
            hidden = r"### BEGIN HIDDEN TESTS.*### END HIDDEN TESTS"
            assert re.sub(hidden, "", one.source, flags=re.S) == re.sub(
                hidden, "", other.source, flags=re.S
            )
            assert ("HIDDEN" in one.source) is (one.source != other.source)


# nbgrader's own commands.


def nbgrader(course: Path, *arguments: str) -> None:
    # It calls a program of its environment's by its bare name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "nbgrader", *arguments]
    run = subprocess.run(
        command, cwd=course, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def scores(course: Path, assignment: str) -> dict[str, dict[str, float]]:
    """What nbgrader's gradebook holds: the score of each student in each graded code cell."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        return {
            submission.student.id: {
                grade.name: grade.auto_score
                for notebook in submission.notebooks
                for grade in notebook.grades
                if grade.name.endswith("-test")
            }
            for submission in book.assignment_submissions(assignment)
        }


@pytest.mark.nbgrader
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not find_spec("nbgrader"), reason="needs nbgrader: make test-nbgrader")
def test_nbgrader_grades_a_right_a_wrong_and_an_empty_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["marks.py", "--seed", "7", "--chapters", "5"])
    marks.main()
    course = tmp_path / "dist" / "nbgrader"
    nbgrader(course, "generate_assignment", "chapter5")

    source = nbformat.read(course / "source" / "chapter5" / "exercises.ipynb", as_version=4)
    released = nbformat.read(course / "release" / "chapter5" / "exercises.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in released.cells)
    assert not re.search(r"HIDDEN|SOLUTION|seed|<details>", text)
    code = [each for each in ids(released) if f"{each}-test" in ids(released)]
    assert len(code) == 2
    for each in code:
        assert named(released, each).source.endswith("    ...")

    for student in ("right", "wrong", "empty"):
        handed_in = deepcopy(released)
        for each in code if student != "empty" else []:
            written = named(source, each).source
            if student == "wrong":
                written = written.replace("return ", "return -1 * ")
            named(handed_in, each).source = written
        path = course / "submitted" / student / "chapter5" / "exercises.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(handed_in, path)
    nbgrader(course, "autograde", "chapter5")
    found = scores(course, "chapter5")
    assert found == {
        student: {f"{each}-test": points for each in code}
        for student, points in (("right", POINTS), ("wrong", 0), ("empty", 0))
    }
