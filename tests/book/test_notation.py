"""Each letter of the chapters' formulas is in a table of the notation page, and no other letter is.

A check takes texts and returns what is wrong with them, so that it can be shown to fail.
"""

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|varphi|chi|psi"
    "|omega|ell|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega"
)
# Names written out, as in KL or SNR, the d of a differential, numbers and environments.
NO_LETTERS = re.compile(
    r"\\(?:tag|text|textstyle|mathrm|operatorname|begin|end)\s*(?:\{[^}]*\}|[A-Za-z]\b)"
)
LETTER = re.compile(
    rf"\\math(?:cal|bb)\s*\{{?[A-Z]|\\(?:{GREEK})(?![a-zA-Z])|(?<![\\a-zA-Z])[A-Za-z](?![a-zA-Z])"
)
# Euler's number, which needs no row.
KNOWN = {"e"}


class Row(NamedTuple):
    chapters: set[int]
    """Empty for all of them."""
    symbols: str

    @property
    def letters(self) -> set[str]:
        return letters(self.symbols)

    @property
    def defined(self) -> set[str]:
        """Its letters without those of an index or an argument."""
        return letters(re.sub(r"_(?:\{[^}]*\}|\\?\w+)|\([^)]*\)", "", self.symbols))


def letters(tex: str) -> set[str]:
    found = LETTER.findall(NO_LETTERS.sub(" ", tex))
    return {re.sub(r"[\s{]", "", letter) for letter in found}


def rows(page: str) -> list[Row]:
    """The rows of the tables of symbols: one has the chapter in front."""
    found = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and re.fullmatch(r"[\d, ]+", cells[0]):
            found.append(Row({int(number) for number in cells[0].split(",")}, cells[1]))
        elif len(cells) == 3 and cells[0].startswith("$"):
            found.append(Row(set(), cells[0]))
    return found


def displayed(text: str) -> str:
    return " ".join(re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL))


def formulas(text: str) -> str:
    inline = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.DOTALL)
    return displayed(text) + " ".join(re.findall(r"\$([^$]+)\$", inline))


def missing_letters(text: str, chapter: int, table: list[Row]) -> set[str]:
    """Letters of a chapter's formulas that the page does not explain."""
    known = [row.letters for row in table if not row.chapters or chapter in row.chapters]
    return letters(formulas(text)) - KNOWN - set().union(*known)


def unused_letters(texts: dict[int, str], table: list[Row]) -> list[str]:
    """Letters that the page explains for a chapter, or for all, and that no formula there has."""
    used = {chapter: letters(formulas(text)) for chapter, text in texts.items()}
    problems = []
    for row in table:
        for chapter in row.chapters:
            problems += [f"{chapter}: {unused}" for unused in row.letters - used[chapter]]
        if not row.chapters:
            problems += sorted(row.letters - set().union(*used.values()))
    return problems


def twofold_letters(table: list[Row]) -> list[str]:
    """Letters that have two rows, in one chapter or in the tables for all."""
    problems = []
    for chapter in {0, *(number for row in table for number in row.chapters)}:
        of_it = [row.defined for row in table if chapter in row.chapters]
        problems += [f"{chapter}: {x}" for x in letters_twice(of_it)]
    return problems


def letters_twice(sets: list[set[str]]) -> list[str]:
    every = [letter for each in sets for letter in each]
    return sorted({letter for letter in every if every.count(letter) > 1})


def text_of(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


TEXTS = {int(path.stem[:2]): text_of(path) for path in CHAPTERS}
TABLE = rows((BOOK / "notation.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("chapter", TEXTS)
def test_every_letter_of_a_formula_is_on_the_page(chapter: int) -> None:
    assert missing_letters(TEXTS[chapter], chapter, TABLE) == set()


def test_no_letter_is_on_the_page_for_chapters_that_do_not_use_it() -> None:
    assert unused_letters(TEXTS, TABLE) == []


def test_in_a_chapter_a_letter_has_one_row() -> None:
    assert twofold_letters(TABLE) == []


# Each check refuses what it should.

PAGE = r"""
| symbol | meaning | in the code |
| --- | --- | --- |
| $x, \mu$ | a number | `x` |

| chapter | symbol | meaning there | in the code |
| --- | --- | --- | --- |
| 1, 2 | $r(x)$ | a reward | |
| 2 | $\mathcal L_\beta$ | a loss | `loss` |
"""
SOUND = {
    1: r"$$ e^{r} \mathrm{SNR} \, \mathrm d x \tag{1.1} $$ and $\mu$",
    2: r"$$ \mathcal{L}_\beta(x) = \begin{aligned} r(x) \end{aligned} $$",
}


def test_a_sound_page_is_accepted() -> None:
    table = rows(PAGE)
    assert [row.letters for row in table] == [{"x", r"\mu"}, {"r", "x"}, {r"\mathcalL", r"\beta"}]
    assert [missing_letters(SOUND[k], k, table) for k in SOUND] == [set(), set()]
    assert unused_letters(SOUND, table) == []
    assert twofold_letters(table) == []


@pytest.mark.parametrize("formula", ["y", r"\tau", r"\mathcal L", r"a_{\text{b}}", r"\mathbb E"])
def test_a_letter_that_the_page_does_not_explain_is_seen(formula: str) -> None:
    [missing] = missing_letters(f"{SOUND[1]} $${formula}$$", 1, rows(PAGE))
    assert missing in (formula.replace(" ", ""), "a")


def test_a_row_that_nothing_needs_is_seen() -> None:
    assert unused_letters({**SOUND, 1: "$\\mu x$"}, rows(PAGE)) == ["1: r"]
    assert unused_letters({**SOUND, 1: "$x r$"}, rows(PAGE)) == [r"\mu"]


def test_a_second_row_for_a_letter_is_seen() -> None:
    assert twofold_letters(rows(f"{PAGE}| 1 | $r_x$ | a radius | |\n")) == ["1: r"]
    assert twofold_letters(rows(f"{PAGE}| 3 | $r$ | a radius | |\n")) == []
