"""Assignments for nbgrader and Otter: what they hold, and that they are graded rightly.

Two tests run where a grader is installed: `make test-nbgrader`, `make test-otter`.
"""

import ast
import json
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


@pytest.mark.parametrize("name", chapters())
def test_otter_gets_the_same_questions_with_tests_that_stand_alone(name: str) -> None:
    given = assignment(name)
    wanted = [each.replace("-", "_") for each in ids(given) if not each.endswith("-test")]
    cells = marks.for_otter(given, "chapter").cells
    raw = [cell.source for cell in cells if cell.cell_type == "raw"]
    assert raw[0].startswith("# ASSIGNMENT CONFIG\nname: chapter\n")
    assert re.findall(r"^name: (exercise\w+)", "\n".join(raw), re.M) == wanted
    for kind in ("QUESTION", "SOLUTION"):
        marked = [re.sub(r"\n.*", "", each, flags=re.S) for each in raw if kind in each]
        assert marked == [f"# BEGIN {kind}", f"# END {kind}"] * len(wanted)
    assert raw.count("# BEGIN TESTS") == raw.count("# END TESTS")
    tests = [cell.source for cell in cells if "exercises, " in cell.source]
    assert len(tests) == 2 * raw.count("# BEGIN TESTS")
    for shown, hidden in zip(tests[::2], tests[1::2], strict=True):
        assert hidden.startswith("# HIDDEN\n") and "seed=seed" in hidden and "seed" not in shown
        for source in (shown, hidden):
            [function] = ast.parse(source).body
            assert isinstance(function, ast.FunctionDef)
    assert not any("###" in cell.source for cell in cells if cell.cell_type == "code")


# The graders' own commands.


def packed(grader: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where chapter 5 lies, as it is handed to a grader."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["marks.py", grader, "--seed", "7", "--chapters", "5"])
    marks.main()
    return folder / "dist" / grader


def run_grader(grader: str, folder: Path, *arguments: str) -> None:
    # nbgrader calls a program of its environment's by its bare name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", grader, *arguments]
    run = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def released(path: Path) -> NotebookNode:
    """What a student gets: neither solutions nor what is hidden."""
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"HIDDEN|SOLUTION|seed|<details>", text)
    return notebook


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
    course = packed("nbgrader", tmp_path, monkeypatch)
    run_grader("nbgrader", course, "generate_assignment", "chapter5")

    source = nbformat.read(course / "source" / "chapter5" / "exercises.ipynb", as_version=4)
    given = released(course / "release" / "chapter5" / "exercises.ipynb")
    code = [each for each in ids(given) if f"{each}-test" in ids(given)]
    assert len(code) == 3
    for each in code:
        assert named(given, each).source.endswith("    ...")

    for student in ("right", "wrong", "empty"):
        handed_in = deepcopy(given)
        for each in code if student != "empty" else []:
            written = named(source, each).source
            if student == "wrong":
                written = written.replace("return ", "return -1 * ")
            named(handed_in, each).source = written
        path = course / "submitted" / student / "chapter5" / "exercises.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(handed_in, path)
    run_grader("nbgrader", course, "autograde", "chapter5")
    found = scores(course, "chapter5")
    assert found == {
        student: {f"{each}-test": points for each in code}
        for student, points in (("right", POINTS), ("wrong", 0), ("empty", 0))
    }


@pytest.mark.otter
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not find_spec("otter"), reason="needs otter-grader: make test-otter")
def test_otter_grades_a_right_a_wrong_and_an_empty_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = packed("otter", tmp_path, monkeypatch)
    # The solutions have run in a test above.
    run_grader("otter", course, "assign", "--no-run-tests", "chapter5.ipynb", "out")

    source = nbformat.read(course / "chapter5.ipynb", as_version=4)
    given = released(course / "out" / "student" / "chapter5.ipynb")
    written = {
        name[1]: cell.source
        for cell in source.cells
        if "# BEGIN SOLUTION\n" in cell.source
        if (name := re.match(r"def (\w+)\(", cell.source))
    }
    assert len(written) == 3
    [grader] = (course / "out" / "autograder").glob("*.zip")
    for student, points in (("right", marks.POINTS), ("wrong", 0), ("empty", 0)):
        handed_in = deepcopy(given)
        stubs = [cell for cell in handed_in.cells if cell.source.endswith("\n    ...")]
        assert len(stubs) == len(written)
        for cell in stubs if student != "empty" else []:
            cell.source = written[re.findall(r"def (\w+)\(", cell.source)[0]]
            if student == "wrong":
                cell.source = cell.source.replace("return ", "return -1 * ")
        nbformat.write(handed_in, course / f"{student}.ipynb")
        (course / student).mkdir()
        run_grader("otter", course, "run", "-a", str(grader), "-o", student, f"{student}.ipynb")
        results = json.loads((course / student / "results.json").read_text(encoding="utf-8"))
        scores = {each["name"]: each.get("score") for each in results["tests"]}
        found = {name: score for name, score in scores.items() if name.startswith("exercise")}
        assert list(found.values()) == [points] * len(written)
