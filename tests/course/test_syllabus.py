"""What the syllabus counts: minutes of each session, of each exercise, and hours of work."""

import re
from pathlib import Path

import classroom
from test_exercises import ALL

COURSE = Path(__file__).parents[2] / "book" / "course"
SYLLABUS = (COURSE / "syllabus.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """A section of the syllabus, to the next heading."""
    [found] = re.findall(rf"^## {heading}.*?(?=^## |\Z)", SYLLABUS, re.M | re.S)
    return str(found)


def exercise_minutes() -> dict[str, int]:
    rows = re.findall(r"(\d\.\d): (\d+)", section("Workload"))
    assert len(rows) == len(dict(rows))
    return {number: int(minutes) for number, minutes in rows}


def hours() -> dict[str, float]:
    rows = re.findall(r"^\| ([a-z ]+) \| ([\d.]+) \|", section("Workload"), re.M)
    return {work: float(number) for work, number in rows}


def test_each_session_plans_75_of_its_90_minutes() -> None:
    for number in range(1, 10):
        planned = re.findall(r"^\| (\d+) \| ", section(f"Session {number}:"), re.M)
        assert sum(map(int, planned)) == 75, f"session {number}"


def test_every_exercise_has_its_minutes_in_the_column_of_its_kind() -> None:
    assert set(exercise_minutes()) == {each.number for _, each in ALL}
    for line in re.findall(r"^\| \d \|.*", section("Workload"), re.M):
        cells = dict(zip(("code", "pencil", "open"), line.split("|")[2:5], strict=True))
        for _, each in ALL:
            if f"{each.number}:" in line:
                assert f"{each.number}:" in cells[each.kind]


def test_the_hours_add_up_and_agree_with_what_they_are_made_of() -> None:
    found = hours()
    together = found.pop("together")
    assert together == sum(found.values())
    assert f"| {together:g} | 3 ECTS of {together / 3:.0f} hours |" in section("Workload")
    assert found["sessions"] == 9 * 90 / 60
    assert "Fifteen hours of work" in (COURSE / "projects.md").read_text(encoding="utf-8")
    assert found["projects"] == 2 * 15
    minutes = exercise_minutes()
    set_work = sum(minutes[each.number] for _, each in ALL if each.kind != "open")
    assert abs(found["exercises"] - (set_work + minutes["1.5"]) / 60) < 1
    # Chapter 0 states its minutes without its exercises, and in other words.
    chapters = [each for name, each in classroom.chapters().items() if name[:2] != "00"]
    reading = 20 + sum(classroom.minutes_and_seconds(each)[0] for each in chapters)
    assert abs(found["reading"] - 2 * reading / 60) < 2


def test_the_weights_of_the_grade_add_up() -> None:
    weights = re.findall(r"(\d+) %", section("Weights of the grade"))
    assert sum(map(int, weights)) == 100


def test_the_courses_front_page_counts_its_sessions_and_its_questions() -> None:
    page = (COURSE / "index.md").read_text(encoding="utf-8")
    bank = (COURSE / "question_bank.md").read_text(encoding="utf-8")
    sessions = re.findall(r"^## Session \d", SYLLABUS, re.M)
    questions = re.findall(r"^### Q\d", bank, re.M)
    assert (len(sessions), len(questions)) == (9, 69)
    assert "a course of nine sessions" in page and "nine sessions, with objectives" in page
    assert "sixty-nine questions" in page
