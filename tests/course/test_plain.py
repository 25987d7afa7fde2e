"""What a pack or an assignment says is drawn by Jupyter, Colab and nbgrader, which know no MyST."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
import pytest
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

import marks
from plain import plain
from test_classroom import address, cells  # noqa: F401 (a pack has an address here too)
from test_exercises import CHAPTERS, name

EXTENSIONS = """amsmath attrs_block attrs_inline colon_fence deflist dollarmath fieldlist
html_admonition html_image strikethrough substitution tasklist""".split()
MYST = create_md_parser(MdParserConfig(enable_extensions=set(EXTENSIONS)), RendererHTML)
# What every notebook's Markdown has, its formulas included.
PLAIN = re.compile(
    r"text|inline|softbreak|code_inline|image|html_block|math_inline|math_block|fence"
    r"|(?:paragraph|strong|em|link|heading|list_item|bullet_list|ordered_list)_(?:open|close)"
    r"|(?:table|thead|tbody|tr|th|td)_(?:open|close)"
)
LABELLED = re.compile(r"\\tag\{([\d.]+)\} % eq-[a-z0-9-]+\n\$\$$", re.MULTILINE)
TAGGED = re.compile(r"\\tag\{([\d.]+)\}(?:(?!\$\$).)*\$\$", re.DOTALL)


def tokens(found: list[Token]) -> Iterator[Token]:
    for token in found:
        yield token
        yield from tokens(token.children or [])


def myst_only(source: str) -> list[str]:
    """What MyST's own parser finds in a text that Markdown does not have."""
    return [
        token.type + token.info
        for token in tokens(MYST.parse(source))
        if not PLAIN.fullmatch(token.type)
        or (token.type == "fence" and "{" in token.info)
        or str(token.attrs.get("href", "")).startswith("#")
    ]


@cache
def texts(where: str, chapter: Path) -> list[str]:
    if where == "nbgrader":
        found = marks.assignment(nbformat.read(chapter, as_version=4), seed=7).cells
    else:
        found = cells(where, chapter)
    return [cell.source for cell in found if cell.cell_type == "markdown"]


def source_of(chapter: Path) -> str:
    found = nbformat.read(chapter, as_version=4).cells
    return "\n\n".join(cell.source for cell in found if cell.cell_type == "markdown")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
@pytest.mark.parametrize("where", ["student", "instructor", "nbgrader"])
def test_no_pack_has_what_myst_alone_understands(where: str, chapter: Path) -> None:
    found = texts(where, chapter)
    assert len(found) >= 5
    assert [each for text in found for each in myst_only(text)] == []
    assert [text for text in found if re.search(r"\(eq-|\(#|^\(.*\)=$", text, re.M)] == []


@pytest.mark.parametrize(
    "written",
    [
        "$$\n1 \\tag{1.1}\n$$ (eq-one)",
        "(here)=\n## A section",
        "See {eq}`eq-one`.",
        "See [(1.1)](#eq-one).",
        "```{note}\nThis.\n```",
        ":::{admonition} Mind\nThis.\n:::",
        "% unseen",
        "{{ name }}",
        "A word[^1].\n\n[^1]: And its note.",
        "[a word]{.red}",
    ],
)
def test_what_myst_alone_understands_is_seen(written: str) -> None:
    assert myst_only(written) != []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_a_chapter_opened_from_the_repository_has_links_to_its_own_places_and_no_more(
    chapter: Path,
) -> None:
    assert set(myst_only(source_of(chapter))) == {"link_open"}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_an_equation_of_a_pack_has_the_number_that_it_has_in_the_book(chapter: Path) -> None:
    numbers = LABELLED.findall(source_of(chapter))
    assert numbers
    assert TAGGED.findall("\n\n".join(texts("instructor", chapter))) == numbers


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_of_a_link_inside_the_book_its_words_stay(chapter: Path) -> None:
    given = "\n\n".join(texts("instructor", chapter))
    before, words = zip(*re.findall(r"(.*)\[([^\[\]]*)\]\(#", source_of(chapter)), strict=True)
    assert len(words) >= 5
    for start, link in zip(before, words, strict=True):
        assert f"{plain(start)[-30:]}{link}" in given


def test_code_that_looks_like_a_link_and_a_formula_without_a_name_stay() -> None:
    for text in ("`f[0](z)` [a](b.ipynb) $$a$$", "$$\na \\tag{1.2}\n$$\n(so far)", "(this)= that"):
        assert plain(text) == text
    assert plain("In [[1] and (2)](#x), [f](#a) ![p](q.svg)") == "In [1] and (2), f ![p](q.svg)"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_what_a_cell_displays_as_markdown_needs_no_myst(chapter: Path) -> None:
    for cell in nbformat.read(chapter, as_version=4).cells:
        for output in cell.get("outputs", []):
            shown = output.get("data", {}).get("text/markdown", "")
            assert myst_only(shown) == []
