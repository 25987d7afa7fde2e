"""What students get holds no solution and works all the same; what teachers get holds them all."""

import datetime
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath
from types import SimpleNamespace
from zipfile import ZipFile

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

import classroom
from plain import plain
from test_exercises import ALL, CHAPTERS, Exercise, name, source

ROOT = Path(__file__).parents[2]
DRAWN = ROOT / "book" / "figures"
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s]+\.\w+)(?:#[^)]*)?\)")


# In two parts: `make repository` writes no other address here.
ADDRESS = "https://github.com/some-body/" + "a-book"
PACKAGE = {
    "address": ADDRESS,
    "files": f"{ADDRESS}/blob/main",
    "version": "9.8",
    "wheel": "flowvae_tutorial-9.8-py3-none-any.whl",
}


@pytest.fixture(autouse=True)
def address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository has an address, as it has wherever a pack is made."""
    monkeypatch.setattr(classroom, "package", lambda: PACKAGE)


@cache
def pack(who: str) -> classroom.Files:
    return {
        "student": lambda: classroom.student([]),
        "with results": lambda: classroom.student([], keep_outputs=True),
        "instructor": classroom.instructor,
    }[who]()


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
    given = list(map(plain, given))
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
def test_what_a_speaker_says_of_a_slide_is_not_in_a_student_s_pack(chapter: Path) -> None:
    assert any("speaker" in cell.metadata for cell in cells("instructor", chapter))
    assert [cell for cell in cells("student", chapter) if "speaker" in cell.metadata] == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_a_student_sees_no_result_before_running_its_cell(chapter: Path) -> None:
    found = [cell for cell in cells("student", chapter) if cell.cell_type == "code"]
    assert tagged(found, "exercise")
    assert {(len(cell.outputs), cell.execution_count) for cell in found} == {(0, None)}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_on_request_a_student_sees_the_results_and_still_no_check_run_already(
    chapter: Path,
) -> None:
    found = cells("with results", chapter)
    for cell in tagged(found, "exercise"):
        assert (cell.outputs, cell.execution_count) == ([], None)
    read = [cell for cell in nbformat.read(chapter, as_version=4).cells if "outputs" in cell]
    stored = {cell.id: cell for cell in read}
    for cell in found:
        given = cell.cell_type == "code" and "exercise" not in cell.metadata.get("tags", [])
        if given and "%pip" not in cell.source:
            assert (cell.source, cell.outputs) == (stored[cell.id].source, stored[cell.id].outputs)


def test_text_with_the_tag_result_is_folded_for_students_and_nothing_else_is() -> None:
    told = new_markdown_cell("It is 3.", metadata={"tags": ["result"]})
    asked = new_markdown_cell("What is 1 + 2?")
    notebook = classroom.to_predict(new_notebook(cells=[asked, told]))
    assert [cell.source for cell in notebook.cells] == [
        "What is 1 + 2?",
        "<details><summary>What came out: predict first</summary>\n\nIt is 3.\n\n</details>",
    ]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_what_gives_a_result_away_is_tagged_and_neither_a_heading_nor_a_caption_is(
    chapter: Path,
) -> None:
    told = tagged(list(nbformat.read(chapter, as_version=4).cells), "result")
    assert len(told) >= 4
    for cell in told:
        assert not re.search(r"^(?:#|!\[|\*\*(?:Live f|F)igure \d)", cell.source, re.M)
    folded = [cell.source for cell in cells("student", chapter) if "What came out" in cell.source]
    assert len(folded) == len(told)
    open_to_all = [cell.source for cell in cells("with results", chapter)]
    assert not [source for source in open_to_all if "What came out" in source]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_no_link_takes_a_student_to_the_chapter_with_its_solutions(chapter: Path) -> None:
    text = prose(chapter.name, pack("student")[chapter.name])
    assert "Open this chapter in Colab" not in text
    assert re.findall(r"https://\S*\.ipynb", text) == []
    assert "Upload notebook" in text


def test_a_lecturer_chooses_chapters_and_no_link_leads_to_the_others() -> None:
    files = classroom.student(["2", "1"])
    names = {CHAPTERS[1].name, CHAPTERS[2].name}
    assert {file for file in files if file.endswith(".ipynb")} == names
    assert dead_links(files) == []
    for file in names:
        text = prose(file, files[file])
        assert set(re.findall(r"\]\(([^)#]*\.ipynb)", text)) <= names
    # What was a link to another chapter is its name.
    stored = prose("book.ipynb", CHAPTERS[2].read_text(encoding="utf-8"))
    [other] = set(re.findall(r"\[(chapter 4)\]\(", stored))
    given = prose("book.ipynb", files[CHAPTERS[2].name])
    assert other in given and f"[{other}]" not in given


def test_a_chapter_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^There is no chapter 12, x. There are 0, 1, .*\.$"):
        classroom.student(["1", "12", "x"])


def test_a_repository_without_an_address_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    text = (ROOT / "pyproject.toml").read_text()
    old = re.findall(r'^Repository = "(.*)"', text, re.M)[0]
    monkeypatch.setattr(classroom, "ROOT", tmp_path)
    # In two parts, which make repository leaves as they are.
    for url in ("https://github.com/your-" + "name/book", ADDRESS):
        (tmp_path / "pyproject.toml").write_text(text.replace(old, url))
        if url == ADDRESS:
            found = classroom.package()
            assert (found["address"], found["files"]) == (ADDRESS, f"{ADDRESS}/blob/main")
            assert re.fullmatch(r"flowvae_tutorial-[\d.]+-py3-none-any\.whl", wheel_name())
        else:
            with pytest.raises(SystemExit, match=r"^[^\n]*make repository URL=[^\n]*$"):
                classroom.package()


def wheel_name() -> str:
    return str(classroom.package()["wheel"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


WHEEL, ON_INDEX = PACKAGE["wheel"], "flowvae_tutorial==9.8"
REPOSITORY = f"git+{ADDRESS}@v9.8"


@pytest.mark.parametrize(
    ("missing", "works", "asks"),
    [
        (set(), None, []),
        ({"flowvae_tutorial"}, WHEEL, [WHEEL]),
        ({"flowvae_tutorial"}, ON_INDEX, [WHEEL, ON_INDEX]),
        ({"flowvae_tutorial"}, REPOSITORY, [WHEEL, ON_INDEX, REPOSITORY]),
        ({"flowvae_tutorial"}, None, [WHEEL, ON_INDEX, REPOSITORY]),
        ({"flowvae_tutorial", "torch"}, WHEEL, []),
    ],
)
def test_a_students_first_cell_tries_the_wheel_then_the_index_then_the_repository(
    missing: set[str],
    works: str | None,
    asks: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / WHEEL).touch()
    left, asked = set(missing), []

    def pip(magic: str, line: str) -> None:
        # IPython fills in what stands in braces.
        asked.append(line.partition('"')[2].rstrip('"').format(**names))
        left.difference_update({"flowvae_tutorial"} if asked[-1] == works else set())

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name not in left)
    [cell] = [cell for cell in cells("student", CHAPTERS[1]) if "%pip" in cell.source]
    names = {"get_ipython": lambda: SimpleNamespace(run_line_magic=pip)}
    exec(TransformerManager().transform_cell(cell.source), names)
    assert asked == asks
    said = capsys.readouterr().out
    how = f"Run this, then restart the kernel: %pip install {WHEEL}\n"
    assert said == (how if left else "")


def test_a_student_without_the_wheel_is_told_where_it_belongs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    [cell] = [cell for cell in cells("student", CHAPTERS[1]) if "%pip" in cell.source]
    exec(TransformerManager().transform_cell(cell.source), {})
    assert capsys.readouterr().out.splitlines() == [
        f"First put {WHEEL} here, beside this notebook.",
        f"Run this, then restart the kernel: %pip install {WHEEL}",
    ]


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
    for cell in stored:
        cell.source = plain(cell.source) if cell.cell_type == "markdown" else cell.source
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
    api = f"{ADDRESS}/blob/main/book/api.md#vae"
    assert files["course/guide.md"] == guide.replace("../api.md#vae", api)
    assert dead_links(files) == []
    assert not any(file.startswith("course") for file in classroom.student([]))


# Both.


@pytest.mark.parametrize("who", ["student", "instructor"])
def test_a_pack_is_complete(who: str) -> None:
    files = pack(who)
    assert {chapter.name for chapter in CHAPTERS} < set(files)
    assert dead_links(files) == []
    lives = (
        "bound digits hierarchy layers levels mnist particles pixels posteriors pseudo race walk"
    )
    for live in lives.split():
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


def test_an_archive_has_one_folder_todays_date_and_files_that_all_may_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["classroom.py", "student"])
    with pytest.raises(SystemExit, match=r"^The pack needs dist/\S+\.whl, .*make wheel first$"):
        classroom.main()
    (folder / "dist").mkdir(exist_ok=True)
    (folder / "dist" / WHEEL).write_bytes(b"the wheel")
    classroom.main()
    archive = ZipFile(folder / "dist" / "student.zip")
    today = datetime.date.today()
    for entry in archive.infolist():
        assert (today - datetime.date(*entry.date_time[:3])).days in (0, 1)
        assert oct(entry.external_attr >> 16) == "0o100644"
    packed = pack("student")
    contents = {
        file: text.encode() if isinstance(text, str) else text for file, text in packed.items()
    }
    assert {entry: archive.read(entry) for entry in archive.namelist()} == {
        f"student/{file}": content for file, content in (contents | {WHEEL: b"the wheel"}).items()
    }


def test_an_archive_may_keep_the_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "dist").mkdir()
    (folder / "dist" / WHEEL).touch()
    monkeypatch.setattr(sys, "argv", ["classroom.py", "student", "--keep-outputs", "--chapters"])
    classroom.main()
    archive = ZipFile(folder / "dist" / "student.zip")
    for file, content in pack("with results").items():
        stored = archive.read(f"student/{file}")
        assert stored == (content.encode() if isinstance(content, str) else content)
