"""The Markdown pages beside the chapters: their code runs, and what they refer to is there.

Each check takes a page's text and returns what is wrong with it, so that it can be shown to fail.
"""

import ast
import importlib.util
import re
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import torch
from matplotlib.image import imread
from torch.distributions import Distribution

BOOK = Path(__file__).parents[2] / "book"
PAGES = ("faq.md", "glossary.md", "other_priors.md", "own_data.md", "own_vae.md")
# Their code is not run, and they quote figures of the chapters.
OTHERS = ("intro.md", "which_model.md", *(f"course/{name}.md" for name in (
    "index", "instructors_guide", "projects", "question_bank", "syllabus"
)))  # fmt: skip
# What no requirement of the project's installs: a block that imports one runs where it is there.
OPTIONAL = ("lightning", "normflows")


def load(path: Path) -> str:
    """All that a chapter says and prints."""
    cells = nbformat.read(path, as_version=4).cells
    printed = [output.get("text", "") for cell in cells for output in cell.get("outputs", [])]
    return "\n".join([*(cell.source for cell in cells), *printed])


CHAPTERS = {path.name: load(path) for path in sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))}
EVERY = "\n".join(CHAPTERS.values())
# The digits of a measurement, which nbval does not compare.
MEASURED = r"-?\d+(?:\.\d+)?(?=(?: [^\d(\n]*)? ?\(page: )"
SECTIONS = re.compile(r"\b[Ss]ections?\s+((?:\d+\.\d+(?:,\s+|\s+and\s+)?)+)")


def read(page: str) -> str:
    return (BOOK / page).read_text(encoding="utf-8")


def prose(text: str) -> str:
    return re.sub(r"^```python\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def python_blocks(text: str) -> list[tuple[str, int]]:
    """Each block of Python with the number of the line that it begins at."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(block[1], text.count("\n", 0, block.start(1))) for block in found]


def optional_imports(code: str) -> list[str]:
    return [name for name in OPTIONAL if re.search(rf"^import {name}$", code, re.MULTILINE)]


def run_page(text: str, name: str) -> int:
    """Run the blocks in order, in one namespace; how many were left out."""
    namespace: dict[str, object] = {"__name__": "page"}
    left_out = 0
    for code, line in python_blocks(text):
        optional = optional_imports(code)
        if any(importlib.util.find_spec(module) is None for module in optional):
            left_out += 1
            continue
        with warnings.catch_warnings():
            if optional:  # What others warn of is not ours to forbid.
                warnings.simplefilter("ignore")
            # Blank lines in front, so that an error names the line of the page.
            exec(compile("\n" * line + code, name, "exec"), namespace)
    return left_out


def fence_problems(text: str) -> list[str]:
    """Fences that keep code from being run; a directive, `{glossary}`, is no code."""
    opened = re.findall(r"^```(.*)\n(?:.*\n)*?```$", text, re.MULTILINE)
    return [fence for fence in opened if fence != "python" and not fence.startswith("{")]


def equation_problems(text: str) -> list[str]:
    """Links of the form [(2.3)](chapter) whose chapter has no such equation."""
    links = re.findall(r"\[\((\d+)\.(\d+)\)\]\(([^)]*)\)", text)
    return [
        f"({chapter}.{number}) in {file}"
        for chapter, number, file in links
        if file[:2] != f"{int(chapter):02d}"
        or f"\\tag{{{chapter}.{number}}}" not in CHAPTERS.get(file, "")
    ]


def section_problems(text: str) -> list[str]:
    """Sections that no chapter has; where several are named, each counts."""
    named = [
        number for group in SECTIONS.findall(text) for number in re.findall(r"[\d.]+\d", group)
    ]
    return [n for n in named if not re.search(rf"^## {re.escape(n)} ", EVERY, re.MULTILINE)]


def exercise_problems(text: str) -> list[str]:
    named = re.findall(r"\bexercise (\d+\.\d+)", text)
    return [n for n in named if not re.search(rf"^### Exercise {re.escape(n)}\b", EVERY, re.M)]


def chapter_problems(text: str) -> list[str]:
    """Links to a chapter by another's number."""
    links = re.findall(r"\[[Cc]hapter\s+(\d+)\]\(([^)]*)\)", text)
    return [
        f"chapter {number}: {file}"
        for number, file in links
        if file[:2] != f"{int(number):02d}" or file not in CHAPTERS
    ]


def decimal_problems(text: str) -> list[str]:
    """Decimals, which no test compares, but for numbers of sections and a chapter's own lines."""
    for code in re.findall(r"`[^`\n]*`", text):
        # Another execution has other digits there.
        line = r"-?\d+(?:\.\d+)?".join(map(re.escape, re.split(MEASURED, code[1:-1])))
        printed = re.search(rf"^{line}$", EVERY, re.MULTILINE)
        if printed or "(page: " not in code:
            text = text.replace(code, "")
    text = re.sub(r"\[\(\d+\.\d+\)\]|\bexercise \d+\.\d+|\]\(https:[^)]*\)", "", text)
    return re.findall(r"\d+\.\d+", SECTIONS.sub("", text))


def interval_problems(text: str) -> list[str]:
    """Intervals that no chapter prints; those of the questions on chapter 9 are made up."""
    text = text.partition("## Chapter 9: ")[0].replace("−", "-")
    found = re.findall(r"-?\d+\.\d+\s\[-?\d+\.\d+, -?\d+\.\d+\]", text)
    return [interval for interval in found if re.sub(r"\s\[", " [", interval) not in EVERY]


def import_problems(text: str) -> list[str]:
    """What blocks of code import from the package, and the package has not."""
    problems = []
    for code, _ in python_blocks(text):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flowvae"):
                try:
                    exec(ast.unparse(node), {})
                except ImportError as error:
                    problems.append(str(error))
    return problems


def glossary_entries(text: str) -> list[tuple[list[str], str]]:
    """The terms of each entry, and its definition."""
    found = re.search(r"^```\{glossary\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found, "a page without a glossary"
    entries = []
    for entry in found[1].strip().split("\n\n"):
        lines = entry.split("\n")
        terms = [line for line in lines if not line.startswith(" ")]
        entries.append((terms, " ".join(line.strip() for line in lines[len(terms) :])))
    return entries


def place(term: str) -> str:
    return term.lower().replace("β", "beta").replace("-", " ")


def glossary_problems(text: str) -> list[str]:
    entries = glossary_entries(text)
    terms = [term for names, _ in entries for term in names]
    first = [place(names[0]) for names, _ in entries]
    problems = [f"not in order: {b}" for a, b in pairwise(first) if a > b]
    problems += [f"twice: {term}" for term in set(terms) if terms.count(term) > 1]
    for names, definition in entries:
        if not re.search(r"\[[Cc]hapter \d+\]\(", definition):
            problems.append(f"no chapter: {names[0]}")
        # The list of chapters at the end is no sentence.
        words = re.sub(r"(\[[Cc]hapter \d+\]\([^)]*\)[;.]\s*)+$", "", definition)
        words = re.sub(r"\$[^$]*\$|`[^`]*`|\([^)]*\)", "x", words)
        if not 1 <= len(re.findall(r"[.](?=\s|$)", words)) <= 3:
            problems.append(f"not one to three sentences: {names[0]}")
    return problems


Check = Callable[[str], list[str]]
CHECKS: list[Check] = [
    fence_problems,
    equation_problems,
    section_problems,
    exercise_problems,
    chapter_problems,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no(page: str, check: Check) -> None:
    assert check(prose(read(page)) if check is not fence_problems else read(page)) == []


@pytest.mark.parametrize(
    "check", [*CHECKS[1:], interval_problems, import_problems], ids=lambda check: check.__name__
)
@pytest.mark.parametrize("page", OTHERS)
def test_another_page_has_no(page: str, check: Check) -> None:
    text = read(page).replace("](../", "](")
    assert check(text if check is import_problems else prose(text)) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_decimals_that_nothing_compares(page: str) -> None:
    # The threshold of an active unit is part of its definition.
    assert decimal_problems(prose(read(page))) == (["0.01"] if page == "glossary.md" else [])


def test_the_glossary_is_sorted_and_every_entry_leads_to_a_chapter() -> None:
    text = read("glossary.md")
    assert glossary_problems(text) == []
    assert 45 <= len(glossary_entries(text)) <= 85


def test_the_code_of_the_page_on_your_own_vae_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    # The page imports zuko, which does this to torch, but only the first time in a process.
    monkeypatch.setattr(Distribution, "_validate_args", False)
    monkeypatch.setattr(Distribution, "arg_constraints", {})
    text = read("own_vae.md")
    assert len(python_blocks(text)) == text.count("\n```python\n")
    missing = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    assert run_page(text, "own_vae.md") == len(missing)


def test_the_code_of_the_page_on_other_priors_runs() -> None:
    torch.set_num_threads(1)
    text = read("other_priors.md")
    assert len(python_blocks(text)) == text.count("\n```python\n")
    run_page(text, "other_priors.md")


def test_the_code_of_the_page_on_your_own_data_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = read("own_data.md")
    assert len(python_blocks(text)) == text.count("\n```python\n")
    assert run_page(text, "own_data.md") == 0
    # Its letters are those that the page shows: others, of another seed, differ by 0.06.
    drawn, shown = (imread(folder / "letters.png")[..., :3] for folder in (tmp_path, BOOK))
    assert drawn.shape == shown.shape and abs(drawn - shown).mean() < 0.03
    ten = next(code for code, _ in python_blocks(text) if "save_model(vae" in code)
    lines = [line for line in ten.splitlines() if line]
    assert len([line for line in lines if not line.startswith(("import ", "from "))]) == 10


@pytest.mark.parametrize("name", OPTIONAL)
def test_the_page_says_how_to_install_what_the_project_does_not(name: str) -> None:
    assert f"`pip install {name}`" in prose(read("own_vae.md"))


# Each check refuses what it should.


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (fence_problems, "```python no-run\nx = 1\n```\n"),
        (fence_problems, "```\nx = 1\n```\n"),
        (equation_problems, "see [(2.99)](02_vampprior.ipynb)"),
        (equation_problems, "see [(2.3)](01_gaussian_vae.ipynb)"),
        (section_problems, "sections 2.6 and 2.99"),
        (section_problems, "in section 10.1"),
        (exercise_problems, "exercise 1.99"),
        (chapter_problems, "[chapter 3](02_vampprior.ipynb)"),
        (chapter_problems, "[Chapter 2](02_gone.ipynb)"),
        (decimal_problems, "a gain of 5.66 nats"),
        (interval_problems, "a gain of 5.66 [1.23, 9.87] nats"),
        (interval_problems, "a loss of −5.66\n[−9.87, −1.23] nats"),
        (import_problems, "```python\nfrom flowvae_tutorial import gone\n```\n"),
        (decimal_problems, "`NLL: 1.23 nats (page: 1.2 ± 0.5)`"),
        (
            glossary_problems,
            "```{glossary}\nb\n  B. [Chapter 0](x).\n\na\n  A. [Chapter 0](x).\n```",
        ),
        (glossary_problems, "```{glossary}\na\nb\na\n  A. [Chapter 0](x).\n```"),
        (glossary_problems, "```{glossary}\na\n  A letter.\n```"),
        (glossary_problems, "```{glossary}\na\n  A. B. C. D. [Chapter 0](x).\n```"),
    ],
)
def test_a_spoilt_page_is_refused(check: Check, text: str) -> None:
    assert check(text) != []


def test_a_false_statement_in_a_page_fails_at_its_line() -> None:
    with pytest.raises(AssertionError) as failure:
        run_page("# A page\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "a.md")
    assert failure.traceback[-1].lineno == 7
    assert str(failure.traceback[-1].path).endswith("a.md")


def test_a_block_is_left_out_only_for_a_module_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "```python\nimport lightning\n```\n\n```python\nimport json\n```\n"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run_page(text, "a.md") == 1


# --- the lab ----------------------------------------------------------------------------------


def test_what_a_chapter_tells_its_reader_to_choose_in_the_lab_is_there() -> None:
    lab = (BOOK / "live" / "lab.js").read_text(encoding="utf-8")
    offered = re.findall(r'link\("([^"]+)"', lab)
    told = {
        path.name[:2]: re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", cell.source)
        for path in sorted(BOOK.glob("0*.ipynb"))
        for cell in nbformat.read(path, as_version=4).cells
        if "[the VAE lab](lab.md)" in cell.source and "*Try*" in cell.source
    }
    assert set(told) == {"01", "02", "04", "05"}
    assert {choice for each in told.values() for choice in each} - {"Try"} <= set(offered)
