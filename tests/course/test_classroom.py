"""What students get holds no solution and works all the same; what teachers get holds them all."""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath
from zipfile import ZipFile

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import classroom
from test_exercises import ALL, CHAPTERS, Exercise, cells_of, name, source

ROOT = Path(__file__).parents[2]
DRAWN = ROOT / "book" / "figures"
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s]+\.\w+)(?:#[^)]*)?\)")


@cache
def pack(who: str) -> classroom.Files:
    return {"student": classroom.student, "instructor": classroom.instructor}[who]()


def cells(who: str, chapter: Path) -> list[NotebookNode]:
    return list(nbformat.reads(pack(who)[chapter.name], as_version=4).cells)


def tagged(found: list[NotebookNode], tag: str) -> list[NotebookNode]:
    return [cell for cell in found if tag in cell.metadata.get("tags", [])]


def answer(each: Exercise) -> list[str]:
    """The solution of an exercise and what follows it: its numbers, a picture of the result."""
    [solution] = each.tagged("solution")
    return [source(cell) for cell in each.cells[each.cells.index(solution) :]]


def lines(text: str) -> set[str]:
    """Lines long enough to give something away; the call of a check belongs to both sides."""
    found = {line.strip() for line in text.splitlines()}
    return {line for line in found if len(line) > 15 and "check_" not in line}


def prose(file: str, text: str) -> str:
    if not file.endswith(".ipynb"):
        return text
    notebook = nbformat.reads(text, as_version=4)
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def dead_links(files: classroom.Files) -> list[tuple[str, str]]:
    """Links from one file of a pack to another that is not in it."""
    return [
        (file, target)
        for file, text in files.items()
        if isinstance(text, str)
        for target in LINK.findall(prose(file, text))
        if normpath(join(dirname(file), target)) not in files
    ]


# Students.


@pytest.mark.parametrize(("chapter", "each"), ALL, ids=name)
def test_a_student_gets_the_exercise_and_nothing_of_its_solution(
    chapter: Path, each: Exercise
) -> None:
    [solution] = each.tagged("solution")
    given = [source(cell) for cell in each.cells[: each.cells.index(solution)]]
    if each.kind == "code":
        assert "check_" in given[-1]
    given[0] = given[0][given[0].index("### Exercise") :]
    text = "\n".join(cell.source for cell in cells("student", chapter))
    assert [part for part in given if part not in text] == []
    exercises = text[text.index("### Exercise") :]
    assert lines("\n".join(answer(each))) & lines(exercises) == set()


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_a_student_reads_of_no_solution(chapter: Path) -> None:
    found = cells("student", chapter)
    assert tagged(found, "solution") == []
    assert [cell.source for cell in found if re.search(r"\bsolutions?\b", cell.source, re.I)] == []
    assert len(tagged(cells("instructor", chapter), "solution")) >= 3


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_a_student_finds_no_check_run_already_and_the_rest_of_the_outputs_kept(
    chapter: Path,
) -> None:
    found = cells("student", chapter)
    assert tagged(found, "exercise")
    for cell in tagged(found, "exercise"):
        assert (cell.outputs, cell.execution_count) == ([], None)
    stored = {cell["id"]: cell for cell in cells_of(chapter)}
    read = [cell for cell in nbformat.read(chapter, as_version=4).cells if "outputs" in cell]
    outputs = {cell.id: cell.outputs for cell in read}
    for cell in found:
        if cell.cell_type == "code" and cell not in tagged(found, "exercise"):
            assert (cell.source, cell.outputs) == (source(stored[cell.id]), outputs[cell.id])


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_no_link_takes_a_student_to_the_chapter_with_its_solutions(chapter: Path) -> None:
    text = prose(chapter.name, pack("student")[chapter.name])
    assert "Open this chapter in Colab" not in text
    assert re.findall(r"https://\S*\.ipynb", text) == []
    assert "Upload notebook" in text


def run_to_first_exercise(chapter: Path, folder: Path) -> str:
    """What the check says to a student who has written nothing yet."""
    notebook = nbformat.reads(pack("student")[chapter.name], as_version=4)
    first = notebook.cells.index(tagged(notebook.cells, "exercise")[0])
    notebook.cells = notebook.cells[: first + 1]
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3", resources=resources).execute()
    # A busy machine may send one text in several pieces.
    return "".join(output.text for output in notebook.cells[-1].outputs)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "chapter",
    [CHAPTERS[0], *(pytest.param(chapter, marks=pytest.mark.slow) for chapter in CHAPTERS[1:])],
    ids=name,
)
def test_a_chapter_without_solutions_runs_up_to_its_first_exercise(
    chapter: Path, tmp_path: Path
) -> None:
    said = run_to_first_exercise(chapter, tmp_path)
    assert re.match(rf"Exercise {int(chapter.name[:2])}\.1: not yet\. ", said)


# Teachers.


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_a_teacher_gets_the_chapter_as_it_is(chapter: Path) -> None:
    def without_links(cell: NotebookNode) -> str:
        return re.sub(r"\]\([^)]*\)", "]()", cell.source)

    found, stored = cells("instructor", chapter), nbformat.read(chapter, as_version=4).cells
    assert list(map(without_links, found)) == list(map(without_links, stored))
    assert [c.get("outputs") for c in found] == [c.get("outputs") for c in stored]


def test_a_teacher_is_told_how_long_each_chapter_takes() -> None:
    rows = re.findall(
        r"^\| \[(.*)\]\((.*)\) \| (\d+) \| (\d+) \|$", pack("instructor")["README.md"], re.M
    )
    assert [file for _, file, _, _ in rows] == [chapter.name for chapter in CHAPTERS]
    for title, file, minutes, seconds in rows:
        text = prose(file, pack("instructor")[file])
        assert text.startswith(f"# {title}\n")
        assert f"{minutes} minutes to read" in text
        assert f"{seconds} seconds to run" in text


def test_a_teacher_gets_the_pages_on_the_course_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = tmp_path / "book"
    (book / "course").mkdir(parents=True)
    (book / "figures").mkdir()
    for file in (CHAPTERS[0].name, *classroom.PAGES, *classroom.PICTURES):
        shutil.copy(ROOT / "book" / file, book / file)
    guide = f"[0](../{CHAPTERS[0].name}#a), [packages](../api.md#vae) and `nets[i](x)`."
    (book / "course" / "guide.md").write_text(guide)
    monkeypatch.setattr(classroom, "BOOK", book)
    files = classroom.instructor()
    assert "course/" in files["README.md"]
    api = f"{classroom.package()['address']}/blob/main/book/api.md#vae"
    assert files["course/guide.md"] == guide.replace("../api.md#vae", api)
    assert dead_links(files) == []
    assert not any(file.startswith("course") for file in classroom.student())


# Both.


@pytest.mark.parametrize("who", ["student", "instructor"])
def test_a_pack_is_complete(who: str) -> None:
    files = pack(who)
    assert {chapter.name for chapter in CHAPTERS} < set(files)
    assert dead_links(files) == []
    for live in ("layers", "levels", "posteriors", "pseudo", "walk"):
        assert files[f"figures/live-{live}.png"] == (DRAWN / f"live-{live}.png").read_bytes()
    for number, chapter in enumerate(CHAPTERS):
        nbformat.validate(nbformat.reads(files[chapter.name], as_version=4))
        # A picture that were led to the repository, as links are, would be a page there.
        assert f"](figures/idea-{number}.svg)" in files[chapter.name]
        # On the page of references stands what only a build of the book fills in.
        assert "references.md" not in files[chapter.name]


def test_a_dead_link_of_a_pack_is_seen() -> None:
    files = {"a.md": "[x](b.md#c) [y](https://host.example/c.md) `f[0](z)`", "b.md": "[z](../a.md)"}
    assert dead_links(files) == [("b.md", "../a.md")]


def test_an_archive_holds_the_files_in_one_folder_and_not_the_date_of_its_making(
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(ROOT / "tools" / "classroom.py"), "student"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    archive = ZipFile(tmp_path / "dist" / "student.zip")
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry: archive.read(entry) for entry in archive.namelist()} == {
        f"student/{file}": content.encode() if isinstance(content, str) else content
        for file, content in pack("student").items()
    }
