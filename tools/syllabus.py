"""Reads the syllabus and the question bank, as the decks of slides need them."""

import re
from functools import cache
from typing import NamedTuple

from classroom import BOOK

COURSE = BOOK / "course"
SESSION = re.compile(
    r"^## (?:Preparation|Session (\d+)): (.*?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL
)
QUESTION = re.compile(
    r"^### (Q[\d.]+) \(([\w -]+)\): (.*?)\n(.*?)<details><summary>Answer</summary>(.*?)</details>",
    re.MULTILINE | re.DOTALL,
)


class Question(NamedTuple):
    kind: str
    title: str
    text: str
    answer: str


class Session(NamedTuple):
    number: int
    title: str
    text: str
    """Its section of the syllabus."""

    def part(self, words: str) -> str:
        """The text behind these words in bold, to the next empty line."""
        found = re.search(rf"^\*\*{words}\.?\*\*,? ?(.*?)(?=\n\n|\Z)", self.text, re.M | re.S)
        return found[1] if found else ""

    def plan(self) -> str:
        return "\n".join(re.findall(r"^\|.*$", self.text, re.M))

    def asks(self) -> list[str]:
        """The questions and exercises of the plan, in its order."""
        found = re.findall(r"Q\d+\.\d+|(?<=[Ee]xercise )\d+\.\d+", self.plan())
        return list(dict.fromkeys(found))

    def brought_along(self) -> list[str]:
        """Those that belong to an earlier chapter."""
        return [each for each in self.asks() if int(each.lstrip("Q").split(".")[0]) != self.number]

    def objectives(self) -> str:
        return self.text.partition("**Objectives.** ")[2].partition("\n\n**")[0]

    def ahead(self) -> list[str]:
        """What the next session needs, or what comes after the course."""
        return re.findall(r"^\*\*(?:Session|After) .*?(?=\n\n|\Z)", self.text, re.M | re.S)


def sessions() -> list[Session]:
    """The preparation, number 0, and the sessions."""
    syllabus = (COURSE / "syllabus.md").read_text(encoding="utf-8")
    found = SESSION.findall(syllabus)
    return [Session(int(number or 0), title, text) for number, title, text in found]


@cache
def minutes(number: str) -> int:
    """How long an exercise takes, by the table of the workload."""
    syllabus = (COURSE / "syllabus.md").read_text(encoding="utf-8")
    [found] = re.findall(rf"\b{re.escape(number)}: (\d+)", syllabus)
    return int(found)


@cache
def questions() -> dict[str, Question]:
    bank = (COURSE / "question_bank.md").read_text(encoding="utf-8")
    return {name: Question(*rest) for name, *rest in QUESTION.findall(bank)}
