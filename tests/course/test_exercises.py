"""Every exercise of the book has a solution that its check accepts; a wrong answer gets its hint.

The first half holds for all chapters and finds their exercises by itself. The second half,
`MISTAKES`, has one row a wrong answer.
"""

import ast
import importlib
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from flowvae_tutorial import Chain
from flowvae_tutorial.exercises import (
    Hint,
    chapter00,
    chapter01,
    chapter02,
    chapter03,
    chapter04,
    chapter05,
    chapter06,
    chapter07,
    chapter08,
    chapter09,
)
from flowvae_tutorial.exercises.hints import about_change

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
MODULES = sorted((ROOT / "flowvae_tutorial" / "exercises").glob("chapter[0-9][0-9].py"))
HEADING = re.compile(r"### Exercise (?P<number>\d+\.\d+) \((?P<kind>\w+)\): \S")


class Exercise(NamedTuple):
    number: str
    kind: str
    cells: list[dict[str, Any]]
    """From the heading to the next one."""

    def tagged(self, tag: str) -> list[dict[str, Any]]:
        return [cell for cell in self.cells if tag in cell["metadata"].get("tags", [])]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def printed(cell: dict[str, Any]) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


@cache
def cells_of(chapter: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return cells


def exercises_of(chapter: Path) -> list[Exercise]:
    found: list[Exercise] = []
    inside = False
    for cell in cells_of(chapter):
        headings = re.findall(r"^#.*$", source(cell), re.MULTILINE)
        if cell["cell_type"] == "markdown" and headings:
            match = HEADING.match(headings[-1])
            inside = match is not None
            if match:
                found.append(Exercise(match["number"], match["kind"], []))
        if inside:
            found[-1].cells.append(cell)
    return found


def imports_of(chapter: Path) -> str:
    """What the chapter imports at the top level of its cells: where a solution runs."""
    lines = []
    for cell in cells_of(chapter):
        if cell["cell_type"] != "code" or "%pip" in source(cell):
            continue
        for statement in ast.parse(source(cell)).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                lines.append(ast.unparse(statement))
    return "\n".join(lines)


def run(code: str, chapter: Path, capsys: pytest.CaptureFixture[str]) -> str:
    exec(f"{imports_of(chapter)}\n{code}", {"__name__": "__main__"})
    return capsys.readouterr().out


ALL = [(chapter, each) for chapter in CHAPTERS for each in exercises_of(chapter)]
CODE = [(chapter, each) for chapter, each in ALL if each.kind == "code"]


def name(value: Path | Exercise) -> str:
    return value.number if isinstance(value, Exercise) else value.stem


# --- every chapter ----------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_a_chapter_has_three_to_six_exercises_numbered_in_order(chapter: Path) -> None:
    text = "\n".join(source(c) for c in cells_of(chapter) if c["cell_type"] == "markdown")
    written = re.findall(r"^#+ Exercise .*$", text, re.MULTILINE)
    found = exercises_of(chapter)
    assert len(found) == len(written), "a heading has another form, or shares its cell with another"
    assert 3 <= len(found) <= 6
    first = int(chapter.name[:2])
    assert [each.number for each in found] == [f"{first}.{k + 1}" for k in range(len(found))]
    assert {each.kind for each in found} == {"code", "pencil", "open"}


@pytest.mark.parametrize(("chapter", "each"), ALL, ids=name)
def test_every_exercise_has_one_folded_solution(chapter: Path, each: Exercise) -> None:
    [solution] = each.tagged("solution")
    if each.kind == "code":
        assert solution["cell_type"] == "code"
        assert source(solution).startswith(f"# @title Solution {each.number}\n")
        metadata = solution["metadata"]
        assert "hide-cell" in metadata["tags"]
        assert metadata["jupyter"]["source_hidden"] is True
        assert metadata["cellView"] == "form"
        # Colab shows the title, and the web book what it is told.
        fold = {f"code_prompt_{way}": f"Solution {each.number}" for way in ("show", "hide")}
        assert metadata["mystnb"] == fold
    else:
        assert solution["cell_type"] == "markdown"
        title = f"<details><summary>Solution {each.number}</summary>\n\n"
        assert source(solution).startswith(title)
        assert source(solution).endswith("\n\n</details>")


def check_called_in(cell: dict[str, Any]) -> str:
    """The check in a cell's last line, which gets the function that the cell defines."""
    *_, function, last = ast.parse(source(cell)).body
    assert isinstance(function, ast.FunctionDef)
    match = re.fullmatch(r"(?:\w+\.)?(check_\w+)\((\w+)\)", ast.unparse(last))
    assert match and match[2] == function.name, "the cell does not end in its check"
    return match[1]


@pytest.mark.parametrize(("chapter", "each"), CODE, ids=name)
def test_a_code_exercise_has_a_stub_and_a_check(chapter: Path, each: Exercise) -> None:
    [stub] = each.tagged("exercise")
    [solution] = each.tagged("solution")
    assert each.cells.index(stub) < each.cells.index(solution)
    [function] = [n for n in ast.parse(source(stub)).body if isinstance(n, ast.FunctionDef)]
    assert ast.unparse(function.body[0]) == "...", "the stub has no place for an answer"
    assert check_called_in(stub) == check_called_in(solution)


@pytest.mark.parametrize(("chapter", "each"), CODE, ids=name)
def test_the_stub_says_not_yet(
    chapter: Path, each: Exercise, capsys: pytest.CaptureFixture[str]
) -> None:
    [stub] = each.tagged("exercise")
    assert printed(stub).startswith(f"Exercise {each.number}: not yet. ")
    assert run(source(stub), chapter, capsys) == printed(stub)


@pytest.mark.parametrize(("chapter", "each"), CODE, ids=name)
def test_the_solution_is_correct(
    chapter: Path, each: Exercise, capsys: pytest.CaptureFixture[str]
) -> None:
    [solution] = each.tagged("solution")
    assert printed(solution) == f"Exercise {each.number}: correct.\n"
    assert run(source(solution), chapter, capsys) == printed(solution)


def giveaways(solution: str) -> set[str]:
    """The calls and formulas that a solution is made of, without the call of its check."""
    functions = [n for n in ast.parse(solution).body if isinstance(n, ast.FunctionDef)]
    parts = [n for f in functions for n in ast.walk(f) if isinstance(n, ast.Call | ast.BinOp)]
    return {re.sub(r"\s", "", ast.unparse(part)) for part in parts}


def texts(module: Path) -> list[str]:
    """What a module of checks may print: its strings, without its docstrings."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef)
        if isinstance(node.body[0], ast.Expr)
    }
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings]
    return [re.sub(r"\s", "", n.value) for n in strings if isinstance(n.value, str)]


@pytest.mark.parametrize(("chapter", "each"), CODE, ids=name)
def test_no_hint_holds_a_piece_of_the_solution(chapter: Path, each: Exercise) -> None:
    [solution] = each.tagged("solution")
    [module] = [path for path in MODULES if path.stem == f"chapter{chapter.name[:2]}"]
    hints = texts(module)
    assert {part for part in giveaways(source(solution)) for hint in hints if part in hint} == set()


def test_a_piece_of_a_solution_is_found() -> None:
    solution = "def answer(a):\n    return a.logsumexp(0) - 1\n\n\ncheck_it(answer)"
    assert giveaways(solution) == {"a.logsumexp(0)-1", "a.logsumexp(0)"}


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_every_check_is_used_by_its_chapter_and_has_mistakes(module: Path) -> None:
    loaded = importlib.import_module(f"flowvae_tutorial.exercises.{module.stem}")
    checks = {key for key in vars(loaded) if key.startswith("check_")}
    [chapter] = [path for path in CHAPTERS if path.name[:2] == module.stem[-2:]]
    used = [check_called_in(each.tagged("exercise")[0]) for c, each in CODE if c == chapter]
    assert set(used) == checks
    assert {mistake.check.__name__ for mistake in MISTAKES if mistake.module == module.stem} == (
        checks
    )


# --- mistakes ---------------------------------------------------------------------------------


class Mistake(NamedTuple):
    check: Callable[..., None]
    answer: Callable[..., Any]
    hint: str
    """Words of the hint that is meant for it, and of no other hint of this check."""

    @property
    def module(self) -> str:
        return self.check.__module__.rpartition(".")[2]


def each_density(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    return Normal(mean, log_scale.exp()).log_prob(z)


def naive_log_mean_exp(a: Tensor) -> Tensor:
    return a.exp().mean(0).log()


def relative_to(level: Tensor, a: Tensor) -> Tensor:
    return level + (a - level).exp().mean(0).log()


def one_maximum_for_all(a: Tensor) -> Tensor:
    return a.max() + (a - a.max()).exp().mean(0).log()


def maximum_by_hand(a: Tensor) -> Tensor:
    top = a.max(0).values
    return top + (a - top).exp().mean(0).log()


def nan_to_zero(a: Tensor) -> Tensor:
    return maximum_by_hand(a).nan_to_num(nan=0.0, neginf=-math.inf)


def clipped_log_mean_exp(a: Tensor) -> Tensor:
    return torch.where(a.max(0).values > 80, maximum_by_hand(a), naive_log_mean_exp(a))


def unstable_above(a: Tensor) -> Tensor:
    bottom = a.min(0).values.clamp(max=0)
    return bottom + (a - bottom).exp().mean(0).log()


def components(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(N, K, D): nothing summed yet."""
    return Normal(mean, scale).log_prob(z[:, None])


def mixture(z: Tensor, logits: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    parts = Independent(Normal(mean, scale), 1)
    return MixtureSameFamily(Categorical(logits=logits), parts).log_prob(z)


def weighted(z: Tensor, logits: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """(N, K): log-weight and log-density of each component."""
    return logits.log_softmax(-1) + components(z, mean, log_scale.exp()).sum(-1)


def maximum_in_place(a: Tensor) -> Tensor:
    top = a.max(0).values
    a -= top.where(top.isfinite(), 0)
    return top.where(top.isfinite(), 0) + a.exp().mean(0).log()


def coupling_in_place(z: Tensor, net: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    t, s = net(z[:, :2])
    z[:, 2:] -= t
    z[:, 2:] *= (-s).exp()
    return z


def chapter00_mistakes() -> Iterator[Mistake]:
    check = chapter00.check_gaussian_log_density
    for answer, hint in (
        (lambda z, m, s: ..., "Write your answer"),
        (lambda z, m, s: each_density(z, m, s), "shape (5, 4), yours has (5, 4, 3)"),
        (lambda z, m, s: each_density(z, m, s).sum(), "shape (5, 4), yours has ()"),
        (lambda z, m, s: each_density(z, m, s).sum(0), "shape (5, 4), yours has (4, 3)"),
        (lambda z, m, s: each_density(z, m, s).sum(1), "shape (5, 4), yours has (5, 3)"),
        (lambda z, m, s: each_density(z, m, s).sum(-1).numpy(), "Return a tensor"),
        (lambda z, m, s: each_density(z, m, s) @ z, "Two shapes do not fit"),
        (lambda z, m, s: each_density(z, s, m).sum(-1), "`m` and `s` in each"),
        (lambda z, m, s: (z > m).all(-1), "True and False"),
        (lambda z, m, s: Normal(m, s, validate_args=True).log_prob(z), "torch refuses your scale"),
        (lambda z, m, s: -each_density(z, m, s).sum(-1), "sign is turned"),
        (lambda z, m, s: each_density(z, m, s).mean(-1), "mean over the event"),
        (lambda z, m, s: each_density(z, m, s / 2).sum(-1), "log-variance"),
        (lambda z, m, s: each_density(z, m, 2 * s).sum(-1), "spread used is σ²"),
        (lambda z, m, s: Normal(m, s, validate_args=False).log_prob(z).sum(-1), "is NaN"),
        (
            lambda z, m, s: (Normal(m, s.abs()).log_prob(z) + s.abs().log() - s).sum(-1),
            "divided by log σ",
        ),
        (
            lambda z, m, s: (
                each_density(z, m, s) + 0.5 * (z - m) ** 2 * ((-2 * s).exp() - (-s).exp())
            ).sum(-1),
            "divided by σ where σ² belongs",
        ),
        (
            lambda z, m, s: (each_density(z, m, s) - 0.5 * ((z - m) / s.exp()) ** 2).sum(-1),
            "lacks its factor ½",
        ),
        (
            lambda z, m, s: (each_density(z, m, s) + ((z - m) / s.exp()) ** 2).sum(-1),
            "square has the wrong sign",
        ),
        (lambda z, m, s: (each_density(z, m, s) + s).sum(-1), "term with log σ is missing"),
        (lambda z, m, s: (each_density(z, m, s) + s / 2).sum(-1), "You have ½ log σ"),
        (lambda z, m, s: (each_density(z, m, s) - s).sum(-1), "log σ is there twice"),
        (
            lambda z, m, s: (each_density(z, m, s) + 2 * s).sum(-1),
            "term with log σ has the wrong sign",
        ),
        (
            lambda z, m, s: (each_density(z, m, s) + math.log(2 * math.pi) / 2).sum(-1),
            "constant with 2π is missing",
        ),
        (
            lambda z, m, s: each_density(z, m, s).sum(-1) + math.log(2 * math.pi),
            "once for the whole event",
        ),
        (lambda z, m, s: each_density(z, m, s).sum(-1).exp(), "its logarithm is asked for"),
        (lambda z, m, s: each_density(z, m, s).sum(-1, True), "axis of length 1"),
        (
            lambda z, m, s: (each_density(z, m, s) + math.log(2 * math.pi)).sum(-1),
            "has the wrong sign.",
        ),
        (
            lambda z, m, s: (each_density(z, m, s) - 0.5 * math.log(2 * math.pi)).sum(-1),
            "lacks its ½: it comes",
        ),
        (
            lambda z, m, s: (
                (
                    each_density(z, m, s)
                    + 0.5 * math.log(2 * math.pi)
                    - 0.5 * math.log(2) * math.pi  # the bracket after the 2
                ).sum(-1)
            ),
            "multiplied by π",
        ),
        (lambda z, m, s: (each_density(z, m, s) + s - s.exp()).sum(-1), "You subtracted σ"),
        (
            lambda z, m, s: (each_density(m + (z - m) * (2 * s).exp(), m, s)).sum(-1),
            "multiplied the distance",
        ),
        (lambda z, m, s: each_density(z, m, s).exp().sum(-1).log(), "added the densities"),
        (
            lambda z, m, s: (
                each_density(z, m, s) + 0.5 * ((z - m) / s.exp()) ** 2 - 0.5 * (z - m) / s.exp()
            ).sum(-1),
            "not squared",
        ),
        (lambda z, m, s: each_density(z, 0 * m, s).sum(-1), "The mean is missing"),
        (lambda z, m, s: each_density(z, m, 0 * s).sum(-1), "The width is missing"),
        (lambda z, m, s: each_density(z, m, s).prod(-1), "multiplied logarithms"),
        (
            lambda z, m, s: -0.5 * (((z - m) / s.exp()) ** 2 - s - math.log(2 * math.pi)).sum(-1),
            "One bracket too many",
        ),
        (lambda z, m, s: z - Normal(m, s.exp()), "with TypeError"),
        (lambda z, m, s: each_density(z, m, s).sum(-1) + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)

    check = chapter00.check_log_mean_exp
    for answer, hint in (
        (lambda a: None, "Write your answer"),
        (lambda a: a.logsumexp(1) - math.log(3), "shape (3,), yours has (6,)"),
        (lambda a: a.logsumexp((0, 1)) - math.log(18), "shape (3,), yours has ()"),
        (lambda a: a.mean(0), "mean of the logs"),
        (lambda a: a.amax(0) > 0, "True and False"),
        (lambda a: a.logsumexp(0) - math.log(a.shape[1]), "divided by N"),
        (lambda a: a.logsumexp(0), "log of the sum"),
        (lambda a: a.logsumexp(0) / len(a), "divided the logarithm"),
        (lambda a: a.logsumexp(0) + math.log(len(a)), "mind the sign of log S"),
        (lambda a: math.log(len(a)) - a.logsumexp(0), "sign is turned"),
        (lambda a: a.exp().mean(0), "the mean itself"),
        (lambda a: a.max(0).values, "largest term alone"),
        (lambda a: maximum_by_hand(a) - a.max(0).values, "not added again"),
        (lambda a: a.logsumexp(0) - math.log(a.numel()), "number of all entries"),
        (lambda a: a.logsumexp(0) - len(a), "You subtracted S"),
        (
            lambda a: a.amax(0) + (a - a.amax(0)).exp().mean(0),
            "The last logarithm is missing",
        ),
        (lambda a: a - a.max(0), "as `max` does"),
        (lambda a: a.logsumexp(0) / a.shape, "Take the one length"),
        (naive_log_mean_exp, "underflows to zero"),
        (clipped_log_mean_exp, "underflows to zero"),
        (unstable_above, "overflows"),
        (one_maximum_for_all, "one maximum for the whole tensor"),
        (maximum_by_hand, "−inf minus −inf"),
        (nan_to_zero, "must give −inf"),
        (maximum_in_place, "changes `a`"),
        (lambda a: a.logsumexp(0) - 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)

    check = chapter00.check_mixture_log_density
    for answer, hint in (
        (lambda z, w, m, s: ..., "Write your answer"),
        (lambda z, w, m, s: (z > 0).all(-1), "True and False"),
        (lambda z, w, m, s: Normal(m, s, validate_args=True), "torch refuses your scale"),
        (lambda z, w, m, s: weighted(z, w, m, s), "shape (5,), yours has (5, 4)"),
        (lambda z, w, m, s: weighted(z, w, m, s).logsumexp(0), "shape (5,), yours has (4,)"),
        (
            lambda z, w, m, s: (
                (w.log_softmax(0)[:, None] + components(z, m, s.exp())).logsumexp(1).sum(-1)
            ),
            "each dimension by itself",
        ),
        (
            lambda z, w, m, s: (
                (w.log_softmax(0)[:, None] + components(z, m, s.exp())).sum(-1).logsumexp(-1)
            ),
            "counted once for each dimension",
        ),
        (
            lambda z, w, m, s: mixture(z, w, m, s.exp()) + w.logsumexp(0),
            "logits are not log-weights",
        ),
        (
            lambda z, w, m, s: (w.softmax(0) + components(z, m, s.exp()).sum(-1)).logsumexp(-1),
            "A weight multiplies a density",
        ),
        (lambda z, w, m, s: components(z, m, s.exp()).sum(-1).logsumexp(-1), "a mass of K"),
        (lambda z, w, m, s: mixture(z, 0 * w, m, s.exp()), "All components weigh the same"),
        (
            lambda z, w, m, s: (w.softmax(0) * components(z, m, s.exp()).sum(-1)).sum(-1),
            "weighted mean of the log-densities",
        ),
        (lambda z, w, m, s: weighted(z, w, m, s).max(-1).values, "Only the largest component"),
        (
            lambda z, w, m, s: (w.log_softmax(0) + components(z, m, s.exp()).mean(-1)).logsumexp(
                -1
            ),
            "mean over the event",
        ),
        (lambda z, w, m, s: mixture(z, w, m, (s / 2).exp()), "log-variance"),
        (lambda z, w, m, s: mixture(z, w, m, (2 * s).exp()), "spread used is σ²"),
        (lambda z, w, m, s: -mixture(z, w, m, s.exp()), "sign is turned"),
        (lambda z, w, m, s: mixture(z, w, m, s.exp()).exp(), "its logarithm is asked for"),
        (lambda z, w, m, s: weighted(z, w, m, s).exp().sum(-1).log(), "Far from all of them"),
        (lambda z, w, m, s: mixture(z, w, m, s.exp()) - math.log(4), "divided by K as well"),
        (
            lambda z, w, m, s: (w.log() + components(z, m, s.exp()).sum(-1)).logsumexp(-1),
            "is NaN",
        ),
        (
            lambda z, w, m, s: MixtureSameFamily(
                Categorical(logits=w), Normal(m, s.exp())
            ).log_prob(z),
            "left loose",
        ),
        (lambda z, w, m, s: mixture(z, w, s, m.exp()), "`m` and `s` in each"),
        (lambda z, w, m, s: weighted(z, w, m, s).sum(-1), "You added logarithms of"),
        (lambda z, w, m, s: weighted(z, w, m, s).mean(-1), "a mean of the components'"),
        (
            lambda z, w, m, s: (
                (w.softmax(0) * components(z, m, s.exp()).exp().sum(-1)).sum(-1).log()
            ),
            "densities of the coordinates",
        ),
        (
            lambda z, w, m, s: (w.log_softmax(0) * components(z, m, s.exp()).sum(-1)).logsumexp(-1),
            "multiplied two logarithms",
        ),
        (
            lambda z, w, m, s: each_density(z, w.softmax(0) @ m, w.softmax(0) @ s).sum(-1),
            "averaged means and widths",
        ),
        (
            lambda z, w, m, s: MixtureSameFamily(
                Categorical(w), Independent(Normal(m, s.exp()), 1)
            ).log_prob(z),
            "log-weights stand where",
        ),
        (lambda z, w, m, s: mixture(z, w, m, s.exp()) + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)


def gaussian_kl(mean: Tensor, log_scale: Tensor) -> Tensor:
    """To N(0, 1), of each number by itself."""
    return 0.5 * (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale)


def chapter01_mistakes() -> Iterator[Mistake]:
    check = chapter01.check_gaussian_kl
    for answer, hint in (
        (lambda m, s: ..., "Write your answer"),
        (lambda m, s: gaussian_kl(m, s).sum(0), "shape (5,), yours has (3,)"),
        (lambda m, s: gaussian_kl(m, s).sum(), "shape (5,), yours has ()"),
        (lambda m, s: gaussian_kl(m, s), "shape (5,), yours has (5, 3)"),
        (lambda m, s: Normal(m, s).log_prob(m), "torch refuses your scale"),
        (lambda m, s: -gaussian_kl(m, s).sum(-1), "sign is turned"),
        (lambda m, s: gaussian_kl(m, s / 2).sum(-1), "logarithm of the variance"),
        (
            lambda m, s: 0.5 * (m**2 + s.exp() - 1 - 2 * s).sum(-1),
            "σ where σ² belongs",
        ),
        (lambda m, s: (gaussian_kl(m, s) + s / 2).sum(-1), "which is 2 log σ"),
        (lambda m, s: (gaussian_kl(m, s) + 2 * s).sum(-1), "sign of the term with log σ"),
        (lambda m, s: gaussian_kl(m, 2 * s).sum(-1), "took σ² for the standard deviation"),
        (lambda m, s: 0.5 * (m**2 + s**2 - 1 - 2 * s.log()).sum(-1), "is NaN"),
        (lambda m, s: gaussian_kl(m, s).mean(-1), "mean over the dimensions"),
        (lambda m, s: 2 * gaussian_kl(m, s).sum(-1), "the ½"),
        (lambda m, s: (gaussian_kl(m, s) + 0.5).sum(-1), "is not 0 there"),
        (
            lambda m, s: kl_divergence(
                Independent(Normal(torch.zeros_like(m), torch.ones_like(m)), 1),
                Independent(Normal(m, s.exp()), 1),
            ),
            "The other way round",
        ),
        (lambda m, s: 0.5 * (m**2 + 2 * s.exp() - 1 - 2 * s).sum(-1), "doubled σ"),
        (lambda m, s: (gaussian_kl(m, s) + 0.5 * (m - m**2)).sum(-1), "goes in squared"),
        (lambda m, s: gaussian_kl(0 * m, s).sum(-1), "The mean is missing"),
        (lambda m, s: (gaussian_kl(m, s) + s).sum(-1), "term with log σ is missing"),
        (lambda m, s: 0.5 * ((m**2 + (2 * s).exp() - 2 * s).sum(-1) - 1), "once for the whole"),
        (lambda m, s: (gaussian_kl(m, s) - m**2).sum(-1), "square of the mean has the wrong"),
        (lambda m, s: 0.5 * (m**2 - 1 - 2 * s).sum(-1), "σ² is missing"),
        (lambda m, s: (gaussian_kl(m, s) + 1).sum(-1), "and you added it"),
        (lambda m, s: 0.5 * (m**2 + s**2 - 1 - 2 * s).sum(-1), "You squared log σ"),
        (
            lambda m, s: (0.5 * (m**2 + (2 * s).exp() - 1) - 2 * s).sum(-1),
            "before the logarithm, too",
        ),
        (
            lambda m, s: (0.5 * m**2 + (2 * s).exp() - 1 - 2 * s).sum(-1),
            "for the whole sum",
        ),
        (
            lambda m, s: gaussian_kl(0 * m, s).sum(-1) + 0.5 * m.sum(-1) ** 2,
            "summed the means",
        ),
        (
            lambda m, s: (Normal(m, s.exp()).log_prob(m) - Normal(0.0, 1.0).log_prob(m)).sum(-1),
            "log-ratio at the mean",
        ),
        (lambda m, s: gaussian_kl(s, m).sum(-1), "`m` and `s` in each"),
        (lambda m, s: gaussian_kl(m, s).sum(-1) + 2, "term by term"),
        (
            lambda m, s: gaussian_kl(m, s).sum(-1) + torch.randn(()),
            "the whole average in closed form",
        ),
    ):
        yield Mistake(check, answer, hint)

    check = chapter01.check_loss
    for answer, hint in (
        (lambda r, q, p: None, "Write your answer"),
        (lambda r, q, p: -(r - q + p), "shape (), yours has (4, 3)"),
        (lambda r, q, p: -(r - q + p).mean(0), "shape (), yours has (3,)"),
        (lambda r, q, p: (r - q + p).mean(), "the ELBO itself"),
        (lambda r, q, p: -(r + q - p).mean(), "sign of the KL term is turned"),
        (lambda r, q, p: -(r - q + p).sum(), "over samples and pictures"),
        (lambda r, q, p: -(r - q + p).mean(0).sum(), "summed over the pictures"),
        (lambda r, q, p: -(r - q + p).sum(0).mean(), "summed over the samples"),
        (lambda r, q, p: -(q - r + p).mean(), "`r` and `q` in each"),
        (lambda r, q, p: -r.mean(), "KL term is missing"),
        (lambda r, q, p: (q - p).mean(), "KL term alone"),
        (lambda r, q, p: (r.abs() + q - p).mean(), "log of a density may be positive"),
        (lambda r, q, p: -(r - (q - p) / 2).mean(), "has a ½ before it"),
        (lambda r, q, p: -(r - 2 * (q - p)).mean(), "counted twice"),
        (lambda r, q, p: -(r - q.exp() * (q - p)).mean(), "weighted the log-ratio by q"),
        (lambda r, q, p: -(r - q + p).mean() / 2, "half as large"),
        (lambda r, q, p: -(r - q + p).numpy().mean(), "Stay with torch"),
        (lambda r, q, p: -(r - q).mean(), "prior is missing"),
        (lambda r, q, p: -(r + p).mean(), "posterior is missing"),
        (lambda r, q, p: math.log(4) - (r - q + p).logsumexp(0).mean(), "that is (1.12)"),
        (lambda r, q, p: -(r - q - p).mean(), "log p(z) has the wrong sign"),
        (lambda r, q, p: -(r - (q - p).clamp(min=0)).mean(), "cut off negative values"),
        (lambda r, q, p: -(r - (q - p).abs()).mean(), "the KL term without"),
        (lambda r, q, p: -(r - q + p).mean().item(), "lost its gradient"),
        (lambda r, q, p: -(r - q + p).detach().mean(), "lost its gradient"),
        (lambda r, q, p: -(r - q + p).mean().reshape(1), "axis of length 1"),
        (lambda r, q, p: -(r - q + p).mean() + 1, "term by term"),
        (lambda r, q, p: (r + q - p).mean(), "reconstruction has the wrong sign"),
        (lambda r, q, p: -(r + q + p).mean(), "with opposite signs"),
        (lambda r, q, p: -(r - q.detach() + p).mean(), "of one of the three is not"),
        (lambda r, q, p: -(r.detach() - q + p).mean(), "of one of the three is not"),
        (lambda r, q, p: -(r - q + p.detach()).mean(), "of one of the three is not"),
    ):
        yield Mistake(check, answer, hint)

    check = chapter01.check_log_marginal
    for answer, hint in (
        (lambda w: None, "Write your answer"),
        (lambda w: w.logsumexp(1) - math.log(3), "shape (3,), yours has (5,)"),
        (lambda w: w.mean(0), "mean of the logarithms"),
        (lambda w: w.logsumexp(0), "also divides by S"),
        (lambda w: w.exp().mean(0), "the mean weight"),
        (lambda w: math.log(5) - w.logsumexp(0), "sign is turned"),
        (lambda w: w.logsumexp(0) / 5, "divided the logarithm by S"),
        (lambda w: w.logsumexp(0) - math.log(3), "not by N"),
        (lambda w: w.logsumexp(0) + math.log(5), "look at the sign of log S"),
        (lambda w: w.logsumexp(0) - 5, "You subtracted S"),
        (lambda w: w.max(0).values, "largest weight alone"),
        (lambda w: (w - w.amax(0)).exp().mean(0).log(), "not added again"),
        (
            lambda w: w.amax(0) + (w - w.amax(0)).exp().mean(0),
            "The last logarithm is missing",
        ),
        (lambda w: w.logsumexp(0) - math.log(w.numel()), "all S·N weights"),
        (lambda w: w.exp().mean(0).log(), "near −1000"),
        (lambda w: (w - w.max()).exp().mean(0).log() + w.max(), "one maximum for the whole"),
        (maximum_in_place, "changes `a`"),
        (lambda w: w.logsumexp(0) + 1, "term by term"),
        (lambda w: relative_to(w.min(0).values, w), "nats apart"),
        (lambda w: relative_to(w.mean(0), w), "nats apart"),
        (lambda w: relative_to(w[0], w), "nats apart"),
        (lambda w: relative_to(w[-1], w), "nats apart"),
    ):
        yield Mistake(check, answer, hint)


def chapter02_mistakes() -> Iterator[Mistake]:
    check = chapter02.check_mutual_information
    diagonal = torch.eye(6, dtype=torch.bool)
    for answer, hint in (
        (lambda a: ..., "Write your answer"),
        (lambda a: a.diagonal() - a.logsumexp(1), "shape (), yours has (6,)"),
        (lambda a: -information(a, 1), "sign is turned"),
        (lambda a: information(a, 1) - math.log(6), "where is log N"),
        (lambda a: information(a, 0), "along the wrong axis"),
        (lambda a: (a.diagonal() - a.mean(1)).mean(), "mean of the logarithms"),
        (
            lambda a: (
                (a.diagonal() - a.masked_fill(diagonal, -math.inf).logsumexp(1)).mean()
                + math.log(5)
            ),
            "own posterior out of the mixture",
        ),
        (lambda a: 6 * information(a, 1), "summed over the codes"),
        (lambda a: (a - a.logsumexp(1, True)).mean() + math.log(6), "averaged over all pairs"),
        (lambda a: information(a, 1) - 2 * math.log(6), "log N has the wrong sign"),
        (lambda a: information(a, 1) - math.log(6) + 6, "You added N"),
        (
            lambda a: a.diagonal().mean() - a.logsumexp((0, 1)) + math.log(36),
            "one number for the mixture",
        ),
        (
            lambda a: (a.diagonal() - a.logsumexp(1) + math.log(6)).exp().mean(),
            "averaged ratios of densities",
        ),
        (
            lambda a: (a.amax(1) - a.logsumexp(1)).mean() + math.log(6),
            "the largest in each row",
        ),
        (lambda a: (a.diagonal() - a.exp().mean(1)).mean(), "Its logarithm belongs there"),
        (
            lambda a: (a.diagonal().exp() * (a.diagonal() - a.logsumexp(1) + math.log(6))).sum(),
            "each counts alike",
        ),
        (
            lambda a: (a.diagonal().exp() * (a.diagonal() - a.logsumexp(1) + math.log(6))).mean(),
            "has had its say",
        ),
        (
            lambda a: (a.softmax(1) * a.log_softmax(1)).sum(1).mean() + math.log(6),
            "all pictures that a code might come from",
        ),
        (
            lambda a: (a.diagonal() - a.exp().mean(1).log()).mean(),
            "exponentials underflow",
        ),
        (lambda a: information(a, 1) / math.log(2), "in bits"),
        (lambda a: information(a, 1) + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)

    check = chapter02.check_sample
    for answer, hint in (
        (lambda n, w, m, s: None, "Write your answer"),
        (lambda n, w, m, s: m.T, "shape (4000, 2), yours has (2, 3)"),
        (lambda n, w, m, s: torch.normal(m[:n], s[:n]), "took the first n components"),
        (lambda n, w, m, s: Normal(m, s).sample(n), "`sample`, for one, takes a shape"),
        (lambda n, w, m, s: torch.full((n, 2), math.nan), "NaN or infinite"),
        (lambda n, w, m, s: torch.randn(n, 2), "come from N(0, I)"),
        (
            lambda n, w, m, s: torch.normal(m, s)[
                Categorical(logits=w).sample((n, 2)), torch.arange(2)
            ],
            "a component for each dimension",
        ),
        (
            lambda n, w, m, s: torch.normal(m[torch.arange(n) % 3], s[torch.arange(n) % 3]),
            "in order",
        ),
        (lambda n, w, m, s: gaussians(torch.randint(3, (n,)), m, s), "They have weights"),
        (
            lambda n, w, m, s: gaussians(Categorical(logits=w).sample((n,)).sort().values, m, s),
            "in order",
        ),
        (
            lambda n, w, m, s: gaussians(w.argmax().expand(n), m, s),
            "from one component",
        ),
        (
            lambda n, w, m, s: (w.softmax(0) @ m).expand(n, 2) + torch.randn(n, 2),
            "You averaged over the components",
        ),
        (lambda n, w, m, s: torch.normal(m, s).mean(0).expand(n, 2), "You averaged over"),
        (
            lambda n, w, m, s: torch.lerp(m[0], m[2], torch.rand(n, 1)),
            "lie between the components",
        ),
        (
            lambda n, w, m, s: (lambda k: m[k] + s[k] * torch.randn(n, 1))(
                Categorical(logits=w).sample((n,))
            ),
            "move together",
        ),
        (
            lambda n, w, m, s: gaussians(Categorical(logits=-w).sample((n,)), m, s),
            "come with frequencies",
        ),
        (
            lambda n, w, m, s: gaussians(
                np.random.choice(3, n, p=w.exp().numpy()),  # type: ignore[arg-type]
                m,
                s,
            ),
            "are not normalised",
        ),
        (
            lambda n, w, m, s: gaussians(Categorical(logits=w.exp()).sample((n,)), m, s),
            "one of the two is too many",
        ),
        (
            lambda n, w, m, s: torch.normal(m, s)[Categorical(logits=w).sample((n,))],
            "the noise anew for each",
        ),
        (
            lambda n, w, m, s: torch.normal(m, s)[w.softmax(0).multinomial(n)],
            "without putting them back",
        ),
        (
            lambda n, w, m, s: gaussians(w.multinomial(n, replacement=True), m, s),
            "log-weights stand where probabilities belong",
        ),
        (
            lambda n, w, m, s: gaussians(Categorical(w).sample((n,)), m, s),
            "log-weights stand where probabilities belong",
        ),
        (
            lambda n, w, m, s: gaussians(Categorical(w, validate_args=False).sample((n,)), m, s),
            "log-weights stand where probabilities belong",
        ),
        (
            lambda n, w, m, s: MixtureSameFamily(Categorical(logits=w), Normal(m, s)).sample((n,)),
            "left loose",
        ),
        (
            lambda n, w, m, s: gaussians(Categorical(logits=w).sample((n,)), s, m),
            "Means and scales are swapped",
        ),
        (
            lambda n, w, m, s: gaussians(Categorical(logits=w).sample((n,)), m, 0 * s),
            "Draw from them",
        ),
        (
            lambda n, w, m, s: gaussians(Categorical(logits=w).sample((n,)), m, s**2),
            "its standard deviation",
        ),
    ):
        yield Mistake(check, answer, hint)


def information(log_q: Tensor, axis: int) -> Tensor:
    return (log_q.diagonal() - log_q.logsumexp(axis)).mean() + math.log(len(log_q))


def gaussians(k: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return torch.normal(loc[k], scale[k])


def joined_kl(q: Chain, p: Chain, z: Tensor) -> Tensor:
    """(2, S, N): the log-ratios of both levels."""
    return torch.stack(q.log_prob_parts(z)) - torch.stack(p.log_prob_parts(z))


def top_from_q(q: Chain, p: Chain) -> Chain:
    return Chain(q.first, p.then, event_size=3)


def kl_below_at(q: Chain, p: Chain, size: int, which: str) -> Tensor:
    """(2, N): the top level right, the lower one with one of its inputs from elsewhere."""
    z = q.sample((size,))
    z2, z1 = z[..., :2], z[..., 2:]
    for_q = q.first.sample((size,)) if which == "q" else z2
    for_p = p.first.sample((size, 3)) if which == "p" else z2
    below = q.then(for_q).log_prob(z1) - p.then(for_p).log_prob(z1)
    return torch.stack([joined_kl(q, p, z)[0], below]).mean(1)


def kl_with(q: Chain, p: Chain, size: int, signs: list[list[int]]) -> Tensor:
    """(2, N): the two levels' estimates, put together with these signs."""
    return torch.tensor(signs).double() @ joined_kl(q, p, q.sample((size,))).mean(1)


def ancestral(
    z2: Tensor, z1: Tensor, likelihood: Callable[[Tensor], Distribution], mean: bool = False
) -> Tensor:
    p_x = likelihood(torch.cat([z2, z1], -1))
    return p_x.mean if mean else p_x.sample()


def chapter03_mistakes() -> Iterator[Mistake]:
    check = chapter03.check_chain_log_prob
    for answer, hint in (
        (lambda z, t, c: ..., "Write your answer"),
        (lambda z, t, c: torch.stack([t.log_prob(z[..., :2])] * 2), "yours has (2, 5, 4)"),
        (lambda z, t, c: t.log_prob(z) + c(z[..., :2]).log_prob(z[..., 2:]), "judges z₂ alone"),
        (lambda z, t, c: t.log_prob(z[..., :2]) + c(z).log_prob(z[..., 2:]), "takes z₂ alone"),
        (
            lambda z, t, c: t.log_prob(z[..., :2]) + c(t.sample()).log_prob(z[..., 2:]),
            "you draw something",
        ),
        (lambda z, t, c: t.log_prob(z[..., :2]), "top level alone"),
        (lambda z, t, c: c(z[..., :2]).log_prob(z[..., 2:]), "lower level alone"),
        (
            lambda z, t, c: t.log_prob(z[..., 2:]) + c(z[..., 2:]).log_prob(z[..., :2]),
            "took z₁ for z₂",
        ),
        (
            lambda z, t, c: t.log_prob(z[..., :2]) + c(z[..., 2:]).log_prob(z[..., 2:]),
            "z₁ given z₁",
        ),
        (
            lambda z, t, c: t.log_prob(z[..., :2]) + c(z[..., 2:]).log_prob(z[..., :2]),
            "z₂ given z₁",
        ),
        (lambda z, t, c: t.log_prob(z[..., :2]) + c.log_prob(z[..., 2:]), "Call it first"),
        (lambda z, t, c: c(z[..., :2], z[..., 2:]), "takes fewer things"),
        (lambda z, t, c: t.log_prob(z[..., : t.event_shape]), "Take the one length"),
        (
            lambda z, t, c: t.log_prob(z[..., :2]) + c(t.mean).log_prob(z[..., 2:]),
            "Its centre moves",
        ),
        (
            lambda z, t, c: t.log_prob(z[..., :2]) + t.log_prob(z[..., 2:]),
            "density of the top one",
        ),
        (
            lambda z, t, c: -t.log_prob(z[..., :2]) - c(z[..., :2]).log_prob(z[..., 2:]),
            "sign is turned",
        ),
        (
            lambda z, t, c: t.log_prob(z[..., :2]) - c(z[..., :2]).log_prob(z[..., 2:]),
            "subtracted from the other",
        ),
        (
            lambda z, t, c: t.log_prob(z[..., :2]) * c(z[..., :2]).log_prob(z[..., 2:]),
            "multiplied two logarithms",
        ),
        (
            lambda z, t, c: (t.log_prob(z[..., :2]) + c(z[..., :2]).log_prob(z[..., 2:])) / 2,
            "mean of the two levels",
        ),
        (
            lambda z, t, c: torch.logaddexp(
                t.log_prob(z[..., :2]), c(z[..., :2]).log_prob(z[..., 2:])
            ),
            "as for a mixture",
        ),
        (
            lambda z, t, c: (t.log_prob(z[..., :2]) + c(z[..., :2]).log_prob(z[..., 2:])).exp(),
            "its logarithm is asked for",
        ),
        (
            lambda z, t, c: t.log_prob(z[..., :2]) + c(z[..., :2]).log_prob(z[..., 2:]),
            "where does the top level end",
        ),
        (
            lambda z, t, c: t.log_prob(z[..., :2]) + c(z[..., :2]).log_prob(z[..., 2:]) + 1,
            "term by term",
        ),
    ):
        yield Mistake(check, answer, hint)

    check = chapter03.check_kl_by_level
    for answer, hint in (
        (lambda q, p, s: None, "Write your answer"),
        (lambda q, p, s: joined_kl(q, p, q.sample((s,))), "yours has (2, 50000, 3)"),
        (lambda q, p, s: joined_kl(q, p, q.sample((s,))).mean((1, 2)), "yours has (2,)"),
        (lambda q, p, s: joined_kl(q, p, q.sample((s,))).log().mean(1), "is NaN"),
        (lambda q, p, s: -joined_kl(q, p, q.sample((s,))).mean(1), "and yours are"),
        (lambda q, p, s: joined_kl(q, p, q.sample((s,))).mean(1).flip(0), "levels are swapped"),
        (
            lambda q, p, s: joined_kl(q, p, q.sample((s,))).mean(1).cumsum(0),
            "sum of both levels",
        ),
        (lambda q, p, s: joined_kl(q, p, q.sample((s,))).sum(1), "summed over the samples"),
        (lambda q, p, s: joined_kl(q, p, q.sample((s,))).mean(1) / 2, "divided by the number"),
        (lambda q, p, s: joined_kl(q, p, p.sample((s, 3))).mean(1), "samples come from the prior"),
        (lambda q, p, s: joined_kl(q, p, p.sample((s,))).mean(1), "samples come from the prior"),
        (
            lambda q, p, s: q.log_prob_parts(z := q.sample((s,))) - p.log_prob_parts(z),
            "Go level by level",
        ),
        (lambda q, p, s: -joined_kl(q, p, p.sample((s, 3))).mean(1), "from p to q"),
        (
            lambda q, p, s: joined_kl(q, p, top_from_q(q, p).sample((s,))).mean(1),
            "you drew z₁ from the prior",
        ),
        (lambda q, p, s: joined_kl(q, p, q.sample((s,))).clamp(min=0).mean(1), "cut off negative"),
        (lambda q, p, s: joined_kl(q, p, q.sample((s,))).abs().mean(1), "without their sign"),
        (lambda q, p, s: joined_kl(q, p, q.sample()), "Do all of them enter it"),
        (lambda q, p, s: joined_kl(q, p, q.sample((10,))).mean(1), "Do all of them enter it"),
        (lambda q, p, s: kl_below_at(q, p, s, which="p"), "prior at a fresh z₂"),
        (lambda q, p, s: kl_below_at(q, p, s, which="q"), "another z₂ than its own"),
        (
            lambda q, p, s: -torch.stack(p.log_prob_parts(q.sample((s,)))).mean(1),
            "own density is missing",
        ),
        (
            lambda q, p, s: torch.stack(q.log_prob_parts(q.sample((s,)))).mean(1),
            "The prior is missing",
        ),
        (lambda q, p, s: kl_with(q, p, s, [[1, 0], [1, 0]]), "the top level again"),
        (lambda q, p, s: kl_with(q, p, s, [[1, 0], [0, -1]]), "In the lower level the sign"),
        (lambda q, p, s: kl_with(q, p, s, [[-1, 0], [0, 1]]), "In the top level the sign"),
        (
            lambda q, p, s: (
                torch.stack(q.log_prob_parts(q.sample((s,))))
                - torch.stack(p.log_prob_parts(p.sample((s, 3))))
            ).mean(1),
            "samples of its own",
        ),
        (
            lambda q, p, s: (
                torch.stack(q.log_prob_parts(z := q.sample((s,)))).exp() * joined_kl(q, p, z)
            ).mean(1),
            "weighted the log-ratios by q",
        ),
        (lambda q, p, s: kl_divergence(q, p), "no closed form"),
        (lambda q, p, s: joined_kl(q, p, q.sample((s,))).mean(1) + 1, "Which z stands where"),
    ):
        yield Mistake(check, answer, hint)

    check = chapter03.check_ancestral
    for answer, hint in (
        (lambda t, c, d, n: ..., "Write your answer"),
        (lambda t, c, d, n: t, "Return a tensor"),
        (lambda t, c, d, n: d(t.sample((n,))).sample(), "takes both levels as one vector"),
        (lambda t, c, d, n: c(t.sample((n, 2))[..., 0]).sample(), "takes z₂ alone"),
        (lambda t, c, d, n: c(t.sample((n,))).sample(), "yours has (7, 1)"),
        (lambda t, c, d, n: torch.full((n, 2), math.nan), "not finite"),
        (
            lambda t, c, d, n: ancestral(z := t.sample((n,)), c(z).sample(), d, mean=True),
            "means of the likelihood",
        ),
        (
            lambda t, c, d, n: ancestral(z := t.sample((n,)), c(z).mean, d),
            "at its conditional mean",
        ),
        (
            lambda t, c, d, n: ancestral(t.sample((n,)), c(t.sample((n,))).sample(), d),
            "z₁ and z₂ are independent",
        ),
        (
            lambda t, c, d, n: ancestral(z := t.sample((n,)), torch.randn_like(z), d),
            "Your z₁ comes from N(0, I)",
        ),
        (
            lambda t, c, d, n: ancestral(t.sample((n,)), t.sample((n,)), d),
            "Both levels come from the top prior",
        ),
        (
            lambda t, c, d, n: ancestral(c(z := t.sample((n,))).sample(), z, d),
            "the wrong way round",
        ),
        (
            lambda t, c, d, n: ancestral(z := t.mean.expand(n, 1), c(z).sample(), d),
            "Every sample has the same z₂",
        ),
        (
            lambda t, c, d, n: ancestral(z := t.sample().expand(n, 1), c(z).sample(), d),
            "Every sample has the same z₂",
        ),
        (
            lambda t, c, d, n: d(torch.cat([z := t.sample(), c(z).sample()], -1)).sample((n,)),
            "All samples have the same latents",
        ),
        (
            lambda t, c, d, n: ancestral(t.sample((n,)), c(t.mean).sample((n,)), d),
            "at the mean of p(z₂)",
        ),
        (
            lambda t, c, d, n: ancestral(z := t.sample((n,)), c(z).loc, d),
            "has no part of that name",
        ),
        (
            lambda t, c, d, n: ancestral(z := t.sample((n,)), c(z).sample((n,)), d),
            "Two shapes do not fit",
        ),
        (
            lambda t, c, d, n: ancestral(z := torch.randn(n, 1).double(), c(z).sample(), d),
            "Your z₂ comes from N(0, I)",
        ),
        (lambda t, c, d, n: ancestral(z := t.sample((n,)), z, d), "where is z₁ drawn"),
        (lambda t, c, d, n: t().sample((n,)), "is a distribution already"),
        (
            lambda t, c, d, n: (
                ancestral(z := t.sample((n,)), c(z).sample(), d, mean=True)
                + torch.randn(n, 2, dtype=torch.float64)
            ),
            "has its own scale",
        ),
        (
            lambda t, c, d, n: (
                ancestral(z := t.sample((n,)), c(z).sample(), d, mean=True)
                + 0.7 * torch.randn(n, 1, dtype=torch.float64)
            ),
            "share one noise",
        ),
        (
            lambda t, c, d, n: 2 * ancestral(z := t.sample((n,)), c(z).sample(), d),
            "Go down the chain",
        ),
    ):
        yield Mistake(check, answer, hint)


# A chapter's mistakes are one function above and one entry here.
def chapter04_mistakes() -> Iterator[Mistake]:
    def base(u: Tensor) -> Tensor:
        return Normal(0, 1).log_prob(u).sum(-1)

    check = chapter04.check_log_prob
    for answer, hint in (
        (lambda z, m, s: ..., "Write your answer"),
        (lambda z, m, s: Normal(m, s.exp()).log_prob(z), "shape (7,), yours has (7, 3)"),
        (lambda z, m, s: base((z - m) / s.exp()), "log-determinant is missing"),
        (lambda z, m, s: base((z - m) / s.exp()) + s.sum(), "wrong sign"),
        (lambda z, m, s: base((z - m) / s.exp()) - 2 * s.sum(), "log-determinant twice"),
        (
            lambda z, m, s: (
                (-0.5 * ((z - m) / s.exp()) ** 2).sum(-1) - 0.5 * math.log(2 * math.pi) - s.sum()
            ),
            "once for the whole event",
        ),
        (
            lambda z, m, s: (
                (-0.5 * ((z - m) / s.exp()) ** 2 - math.log(2 * math.pi)).sum(-1) - s.sum()
            ),
            "lacks its ½",
        ),
        (
            lambda z, m, s: (
                (-(((z - m) / s.exp()) ** 2) - 0.5 * math.log(2 * math.pi)).sum(-1) - s.sum()
            ),
            "lacks its factor ½",
        ),
        (
            lambda z, m, s: (
                (-0.5 * (z - m) / s.exp() - 0.5 * math.log(2 * math.pi)).sum(-1) - s.sum()
            ),
            "not squared",
        ),
        (lambda z, m, s: Normal(m, (2 * s).exp()).log_prob(z).sum(-1), "The variance stands"),
        (lambda z, m, s: Normal(m, (s / 2).exp()).log_prob(z).sum(-1), "as a log-variance"),
        (lambda z, m, s: base((z - m) / s.exp()) - s.sum() / 2, "half of the log-determinant"),
        (
            lambda z, m, s: base((z - m) / s.exp()) - s.exp().prod(),
            "You subtracted the determinant",
        ),
        (lambda z, m, s: base((z + m) / s.exp()) - s.sum(), "the shift once more"),
        (lambda z, m, s: base(z / s.exp()) - s.sum(), "shift is still there"),
        (lambda z, m, s: base(z - m) - s.sum(), "and the stretch is not"),
        (lambda z, m, s: base(z), "neither the map"),
        (lambda z, m, s: base(-s * (z - m)) - s.sum(), "multiplied by −s"),
        (lambda z, m, s: base((z - m) / s.exp()) - s.exp().sum(), "Where is their log?"),
        (lambda z, m, s: base(z) - s.sum(), "Which u did this z come from?"),
        (lambda z, m, s: base(m + s.exp() * z) - s.sum(), "the other direction"),
        (lambda z, m, s: base(z / s.exp() - m) - s.sum(), "shift before the stretch"),
        (
            lambda z, m, s: -0.5 * (((z - m) / s.exp()) ** 2).sum(-1) - s.sum(),
            "constant of the Gaussian",
        ),
        (lambda z, m, s: base((z - m) / s.exp()) - s.abs().sum(), "without their signs"),
        (lambda z, m, s: base((z - m) / s.exp()) - s.mean(), "averaged the log-slopes"),
        (
            lambda z, m, s: (Normal(0, 1).log_prob((z - m) / s.exp()) - s.sum()).sum(-1),
            "once for each dimension",
        ),
        (lambda z, m, s: base((z - m) / s) - s.sum(), "divided by s"),
        (lambda z, m, s: base((z - m) * s.exp()) - s.sum(), "stretched again"),
        (lambda z, m, s: s.sum() - base((z - m) / s.exp()), "sign is turned"),
        (lambda z, m, s: base((z - s) / m.exp()) - m.sum(), "`m` and `s` in each"),
        (lambda z, m, s: base((z - m) * s.exp()) + s.sum(), "for its inverse throughout"),
        (lambda z, m, s: (base((z - m) / s.exp()) - s.sum()) / 3, "mean over the dimensions"),
        (lambda z, m, s: (base((z - m) / s.exp()) - s.sum()).exp(), "This is the density"),
        (lambda z, m, s: base((z - m) / s.exp()) - s.sum() + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)

    def inverted(z: Tensor, t: Tensor | float, s: Tensor) -> Tensor:
        return torch.cat([z[:, :2], (z[:, 2:] - t) / s.exp()], -1)

    check = chapter04.check_invert
    for answer, hint in (
        (lambda z, net: None, "Write your answer"),
        (lambda z, net: z[:, 2:], "shape (6, 4), yours has (6, 2)"),
        (
            lambda z, net: torch.cat(
                [z[:, :2], net(z[:, :2])[0] + net(z[:, :2])[1].exp() * z[:, 2:]], -1
            ),
            "Undo it",
        ),
        (
            lambda z, net: torch.cat(
                [z[:, :2], z[:, 2:] / net(z[:, :2])[1].exp() - net(z[:, :2])[0]], -1
            ),
            "divided first",
        ),
        (lambda z, net: inverted(z, *net(z[:, 2:])), "looks at the part that stays"),
        (
            lambda z, net: inverted(z.roll(2, -1), *net(z[:, 2:])).roll(2, -1),
            "the first two numbers",
        ),
        (
            lambda z, net: torch.cat(
                [z[:, :2], (z[:, 2:] - net(z[:, :2])[0]) / net(z[:, :2])[1]], -1
            ),
            "logarithm of the scale",
        ),
        (
            lambda z, net: inverted(z, net(z[:, :2])[0], -net(z[:, :2])[1]),
            "instead of back",
        ),
        (lambda z, net: inverted(z, *net(z[:, :2])).roll(2, -1), "changed places"),
        (lambda z, net: z, "Nothing has changed"),
        (
            lambda z, net: torch.cat(
                [z[:, :2], (net(z[:, :2])[0] - z[:, 2:]) / net(z[:, :2])[1].exp()], -1
            ),
            "subtracted z from the shift",
        ),
        (
            lambda z, net: inverted(z.roll(2, -1), *net(z[:, :2])).roll(2, -1),
            "the first two numbers",
        ),
        (lambda z, net: inverted(z, -net(z[:, :2])[0], net(z[:, :2])[1]), "shift once more"),
        (lambda z, net: inverted(z, *net(z[:, :2])[::-1]), "the shift comes first"),
        (
            lambda z, net: inverted(z, net(z[:, :2])[0], 2 * net(z[:, :2])[1].tanh()),
            "as TinyFlow does",
        ),
        (lambda z, net: inverted(z, 0, net(z[:, :2])[1]), "shift is still there"),
        (lambda z, net: inverted(z, net(z[:, :2])[0], torch.zeros(())), "the stretch is not"),
        (
            lambda z, net: torch.cat(
                [
                    inverted(z.roll(2, -1), *net(z[:, :2]))[:, 2:],
                    inverted(z, *net(z[:, :2]))[:, 2:],
                ],
                -1,
            ),
            "changed all four",
        ),
        (
            lambda z, net: inverted(z.flip(-1), *net(z.flip(-1)[:, :2])),
            "here is one alone",
        ),
        (lambda z, net: inverted(z, *net(z)), "the half that stays, of shape"),
        (coupling_in_place, "changes `z`"),
        (lambda z, net: inverted(z, *net(z[:, :2])) + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)

    def passes(z: Tensor, net: Any, undo: Any, count: int = 4, u: Any = None) -> Tensor:
        u = torch.zeros_like(z) if u is None else u
        for _ in range(count):
            u = undo(z, *net(u))
        return u

    def undone(z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (z - t) / s.exp()

    def undone_again(z: Tensor, net: Any) -> Tensor:
        for _ in range(4):
            z = undone(z, *net(z))
        return z

    def first_as_it_is(z: Tensor, net: Any) -> Tensor:
        u = torch.zeros_like(z)
        u[:, 0] = z[:, 0]
        for i in range(1, 4):
            u[:, i] = undone(z, *net(u))[:, i]
        return u

    check = chapter04.check_one_by_one
    for answer, hint in (
        (lambda z, net: ..., "Write your answer"),
        (lambda z, net: z[:, :3], "shape (6, 4), yours has (6, 3)"),
        (lambda z, net: net(z)[0] + net(z)[1].exp() * z, "the map itself"),
        (lambda z, net: undone(z, *net(z)), "the numbers before the map"),
        (lambda z, net: passes(z, net, undone, 1), "gets the first number right"),
        (lambda z, net: passes(z, net, undone, 3), "One pass is missing"),
        (lambda z, net: passes(z, net, undone, 3, z), "One pass is missing"),
        (lambda z, net: passes(z, net, undone, 2), "Two passes are missing"),
        (undone_again, "undone already"),
        (first_as_it_is, "of no numbers before it"),
        (lambda z, net: passes(z, net, lambda z, t, s: z / s.exp()), "shift is still there"),
        (lambda z, net: passes(z, net, lambda z, t, s: z - t), "and the stretch is not"),
        (lambda z, net: passes(z, net, undone, u=torch.zeros(z.shape)), "different kinds"),
        (lambda z, net: passes(z, net, lambda z, t, s: (z + t) / s.exp()), "shift once more"),
        (lambda z, net: passes(z, net, lambda z, t, s: z / s.exp() - t), "divided first"),
        (lambda z, net: passes(z, net, lambda z, t, s: (z - t) / s), "logarithm of the scale"),
        (lambda z, net: passes(z, net, lambda z, t, s: (z - t) * s.exp()), "instead of back"),
        (lambda z, net: undone(z, *net(z[:, :2])), "takes all numbers at once"),
        (lambda z, net: passes(z, net, undone) + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)


def base_density(
    eps: Tensor, loc: Tensor, width: Tensor, at: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """u, and log N(at; loc, width²) summed over the dimensions; at u by default."""
    u = loc + width * eps
    return u, Normal(loc, width).log_prob(u if at is None else at).sum(-1)


def flow_density(
    eps: Tensor, loc: Tensor, width: Tensor, flow: Callable[..., tuple[Tensor, Tensor]]
) -> Tensor:
    u, log_u = base_density(eps, loc, width)
    return log_u - flow(u, loc)[1]


def with_results_swapped(
    eps: Tensor, loc: Tensor, log_scale: Tensor, flow: Callable[..., tuple[Tensor, Tensor]]
) -> Tensor:
    u, log_u = base_density(eps, loc, log_scale.exp())
    ladj, _ = flow(u, loc)
    return log_u - ladj


def kl_by_sum(log_q: Tensor, log_p: Tensor, log_area: float) -> Tensor:
    return (log_q.exp() * (log_q - log_p)).sum(0) * math.exp(log_area)


def chapter05_mistakes() -> Iterator[Mistake]:
    check = chapter05.check_log_q

    def log_u(e: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return base_density(e, m, s.exp())[1]

    def u_of(e: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return m + s.exp() * e

    for answer, hint in (
        (lambda e, m, s, f: None, "Write your answer"),
        (lambda e, m, s, f: Normal(m, s.exp()).log_prob(u_of(e, m, s)), "yours has (4, 5, 3)"),
        (lambda e, m, s, f: flow_density(e, m, s, f), "log σ first"),
        (lambda e, m, s, f: log_u(e, m, s) + f(u_of(e, m, s), m)[1], "wrong sign. Where f"),
        (lambda e, m, s, f: log_u(e, m, s), "This is the density of u"),
        (lambda e, m, s, f: log_u(e, m, s) - 2 * f(u_of(e, m, s), m)[1], "counted twice"),
        (
            lambda e, m, s, f: log_u(e, m, s) - f(u_of(e, m, s), u_of(e, m, s))[1],
            "the noisy u as its context",
        ),
        (lambda e, m, s, f: log_u(e, m, s) - f(u_of(e, m, s), s)[1], "log σ as its context"),
        (lambda e, m, s, f: log_u(e, m, s) - f(e, m)[1], "You sent ε through the flow"),
        (
            lambda e, m, s, f: Normal(0.0, 1.0).log_prob(e).sum(-1) - f(e, m)[1],
            "You left μ and σ out",
        ),
        (
            lambda e, m, s, f: Normal(0.0, 1.0).log_prob(e).sum(-1) - f(u_of(e, m, s), m)[1],
            "the density of ε, not of u",
        ),
        (
            lambda e, m, s, f: (
                Normal(0.0, 1.0).log_prob(e).sum(-1) + s.sum(-1) - f(u_of(e, m, s), m)[1]
            ),
            "log σ has the wrong sign",
        ),
        (
            lambda e, m, s, f: (
                base_density(e, m, s.exp(), at=f(u_of(e, m, s), m)[0])[1] - f(u_of(e, m, s), m)[1]
            ),
            "You took the Gaussian at z. It is",
        ),
        (
            lambda e, m, s, f: base_density(e, m, s.exp(), at=f(u_of(e, m, s), m)[0])[1],
            "knows nothing of the flow",
        ),
        (
            lambda e, m, s, f: log_u(e, m, s) - f(f(u_of(e, m, s), m)[0], m)[1],
            "You took the log-determinant at z",
        ),
        (
            lambda e, m, s, f: (
                Normal(m, s.exp()).log_prob(u_of(e, m, s)).mean(-1) - f(u_of(e, m, s), m)[1]
            ),
            "You averaged over the dimensions",
        ),
        (lambda e, m, s, f: -flow_density(e, m, s.exp(), f), "This is minus log q"),
        (lambda e, m, s, f: flow_density(e, m, (s / 2).exp(), f), "not the log of the variance"),
        (lambda e, m, s, f: flow_density(e, m, (2 * s).exp(), f), "You used the variance"),
        (
            lambda e, m, s, f: log_u(e, m, s) - f(m + s * e, m)[1],
            "You drew u with log σ as its width",
        ),
        (
            lambda e, m, s, f: (
                base_density(e, m, s.exp(), at=e)[1] - f(u_of(e, m, s), m)[1]  # e is no u
            ),
            "the Gaussian of u about ε",
        ),
        (
            lambda e, m, s, f: (
                Normal(0.0, 1.0).log_prob(u_of(e, m, s)).sum(-1) - f(u_of(e, m, s), m)[1]
            ),
            "N(0, I) about u",
        ),
        (lambda e, m, s, f: flow_density(e, m, s.exp(), f) - s.sum(-1), "subtracted twice"),
        (
            lambda e, m, s, f: log_u(e, m, s) - f(u_of(e, m, s), f(u_of(e, m, s), m)[0])[1],
            "its own output",
        ),
        (lambda e, m, s, f: flow_density(e, s, m.exp(), f), "`m` and `s` in each"),
        (
            lambda e, m, s, f: log_u(e, m, s) - f(m.expand_as(e), u_of(e, m, s))[1],
            "two arguments are swapped",
        ),
        (
            lambda e, m, s, f: log_u(e, m, s) - f(u_of(e, m, s)[..., 0], m)[1],
            "The flow takes u first",
        ),
        (lambda e, m, s, f: log_u(e, m, s) - f(u_of(e, m, s), m[:, 0])[1], "as its context, of"),
        (with_results_swapped, "two results of `flow`"),
        (
            lambda e, m, s, f: log_u(e, m, s) - f(m, u_of(e, m, s))[1],
            "two arguments are swapped",
        ),
        (lambda e, m, s, f: log_u(e, m, s) - f(u_of(e, m, s), e)[1], "ε as its context"),
        (lambda e, m, s, f: log_u(e, m, s) - f(m.expand_as(e), m)[1], "sent the mean through"),
        (
            lambda e, m, s, f: (
                Normal(m, s.exp()).log_prob(u_of(e, m, s)) - f(u_of(e, m, s), m)[1][..., None]
            ).sum(-1),
            "once for each dimension",
        ),
        (
            lambda e, m, s, f: log_u(e, m, s) - f(u_of(e, m, s), m)[1].abs().log(),
            "take none of that",
        ),
        (lambda e, m, s, f: -f(u_of(e, m, s), m)[1], "density of u is missing"),
        (
            lambda e, m, s, f: (
                Normal(0.0, 1.0).log_prob(e) - s.exp() - f(u_of(e, m, s), m)[1][..., None] / 3
            ).sum(-1),
            "You subtracted σ",
        ),
        (
            lambda e, m, s, f: (
                Normal(0.0, 1.0).log_prob(f(u_of(e, m, s), m)[0]).sum(-1) - f(u_of(e, m, s), m)[1]
            ),
            "N(0, I) about z",
        ),
        (
            lambda e, m, s, f: (-0.5 * e**2 - s).sum(-1) - f(u_of(e, m, s), m)[1],
            "constant of the Gaussian is missing",
        ),
        (
            lambda e, m, s, f: (
                (-0.5 * e**2 - s).sum(-1) - 0.5 * math.log(2 * math.pi) - f(u_of(e, m, s), m)[1]
            ),
            "once for the whole event",
        ),
        (lambda e, m, s, f: log_u(e, m, s) - f(u_of(e, m, s), m), "A tensor and a pair meet"),
        (
            lambda e, m, s, f: Normal(m, s.exp()).log_prob(m + e).sum(-1) - f(m + e, m)[1],
            "Your u is μ + ε",
        ),
        (lambda e, m, s, f: flow_density(e, m, s.exp().log1p(), f), "by a softplus"),
        (lambda e, m, s, f: flow_density(e, m, s.exp(), f).exp(), "This is the density. Its"),
        (
            lambda e, m, s, f: flow_density(torch.randn_like(e), m, s.exp(), f),
            "you draw something",
        ),
        (lambda e, m, s, f: flow_density(e, m, s.exp(), f) + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)

    check = chapter05.check_kl_to_posterior

    def posterior(p: Tensor, a: float) -> Tensor:
        return p - p.logsumexp(0) - a

    for answer, hint in (
        (lambda q, p, a: ..., "Write your answer"),
        (lambda q, p, a: kl_by_sum(q, posterior(p, a), a).mean(), "yours has ()"),
        (lambda q, p, a: -kl_by_sum(q, posterior(p, a), a), "sign is turned"),
        (lambda q, p, a: kl_by_sum(q, p, a), "This is minus the ELBO"),
        (lambda q, p, a: -kl_by_sum(q, p, a), "This is the ELBO"),
        (lambda q, p, a: kl_by_sum(q, p - p.logsumexp(0), a), "a sum without its area"),
        (lambda q, p, a: kl_by_sum(q, posterior(p, a), 0.0), "missing in the last sum"),
        (lambda q, p, a: kl_by_sum(q, p - p.logsumexp(0), 0.0), "missing in both sums"),
        (lambda q, p, a: kl_by_sum(q, posterior(p, a), 0.0) * a, "the logarithm of the area"),
        (lambda q, p, a: kl_by_sum(posterior(p, a), q, a), "from the true posterior to q"),
        (
            lambda q, p, a: -kl_by_sum(posterior(p, a), q, a),
            "The average is over the true posterior",
        ),
        (
            lambda q, p, a: (p.exp() * (q - posterior(p, a))).sum(0) * math.exp(a),
            "You weigh the points by p(x, z)",
        ),
        (
            lambda q, p, a: (q - posterior(p, a)).sum(0) * math.exp(a),
            "summed the log-ratio over the plane",
        ),
        (
            lambda q, p, a: kl_by_sum(q, posterior(p, a), 0.0) / len(q),
            "An integral is a sum times the area",
        ),
        (
            lambda q, p, a: kl_by_sum(q, posterior(p, a), a) / len(q),
            "then took the area",
        ),
        (
            lambda q, p, a: kl_by_sum(q, p - p.logsumexp((0, 1)) - a, a),
            "one log p(x) for all examples",
        ),
        (lambda q, p, a: p.logsumexp(0) + a, "This is log p(x)"),
        (lambda q, p, a: kl_by_sum(q, posterior(p, a), 2 * a), "counted twice"),
        (
            lambda q, p, a: (q.softmax(0) * (q - posterior(p, a))).sum(0) * math.exp(a),
            "counted twice",
        ),
        (
            lambda q, p, a: (q.exp() * (q - posterior(p, a)).abs()).sum(0) * math.exp(a),
            "without their sign",
        ),
        (
            lambda q, p, a: kl_by_sum(q, p - (p.logsumexp(0) + a).exp(), a),
            "You subtracted p(x) itself",
        ),
        (lambda q, p, a: kl_by_sum(q, p / (p.logsumexp(0) + a), a), "You divided logarithms"),
        (lambda q, p, a: (q - posterior(p, a)).mean(0), "averaged the log-ratio over the grid"),
        (lambda q, p, a: kl_by_sum(q, p, a) - p.logsumexp(0) - a, "log p(x) has the wrong sign"),
        (
            lambda q, p, a: (q * (q - posterior(p, a))).sum(0) * math.exp(a),
            "weights of an average are densities",
        ),
        (
            lambda q, p, a: kl_by_sum(q, p - p.exp().sum(0).log() - a, a),
            "exponentials underflow",
        ),
        (lambda q, p, a: kl_by_sum(q, p - p.logsumexp(0) + a, a), "is subtracted in log p(x)"),
        (
            lambda q, p, a: kl_by_sum(q, p - p.logsumexp(0) - math.exp(a), a),
            "You added the area to the logarithm",
        ),
        (lambda q, p, a: kl_by_sum(q, posterior(p, a), 0.0) + a, "which is no logarithm"),
        (
            lambda q, p, a: kl_by_sum(q, p - p.logsumexp(0) + math.log(len(p)), a),
            "log p(x) is a mean over the grid",
        ),
        (
            lambda q, p, a: kl_by_sum(q, posterior(p, a) + math.log(len(p)), a),
            "and has the area besides",
        ),
        (
            lambda q, p, a: kl_by_sum(q, p - p.logsumexp(0) - a.exp(), a),
            "has no methods of a tensor",
        ),
        (lambda q, p, a: kl_by_sum(p, posterior(q, a), a), "`q` and `p` in each"),
        (lambda q, p, a: kl_by_sum(q, posterior(p, a), a) + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)

    def share(w: Tensor) -> Tensor:
        return w.softmax(0)

    check = chapter05.check_dreg
    for answer, hint in (
        (lambda w, g, e: ..., "Write your answer"),
        (lambda w, g, e: share(w) ** 2 * g * e, "shape (7,), yours has (5, 7)"),
        (lambda w, g, e: (share(w) * g * e).sum(0), "What is left of the score?"),
        (lambda w, g, e: (share(w) * (1 - share(w)) * g * e).sum(0), "belongs to the score"),
        (lambda w, g, e: (share(w) ** 2 * g).sum(0), "with respect to the mean"),
        (lambda w, g, e: (g * e).mean(0), "Where are the weights?"),
        (lambda w, g, e: ((2 * w).softmax(0) * g * e).sum(0), "sum to 1 again"),
        (lambda w, g, e: (share(w) ** 2 * g * e).mean(0), "an average already"),
        (lambda w, g, e: (w.softmax(1) ** 2 * g * e).sum(0), "of one example"),
        (lambda w, g, e: -(share(w) ** 2 * g * e).sum(0), "sign is turned"),
        (lambda w, g, e: (w.log_softmax(0) * g * e).sum(0), "logarithms of the shares"),
        (
            lambda w, g, e: ((w.exp() / w.exp().sum(0)) ** 2 * g * e).sum(0),
            "The weights are zero in floating point",
        ),
        (lambda w, g, e: (w.exp() ** 2 * g * e).sum(0), "The weights are zero in floating point"),
        (lambda w, g, e: (share(w) ** 2 * e).sum(0), "Where is the slope"),
        (lambda w, g, e: (share(w) * g * e).sum(0) ** 2, "You squared the sum"),
        (lambda w, g, e: ((w / w.sum(0)) ** 2 * g * e).sum(0), "You made shares of the"),
        (lambda w, g, e: (w**2 * g * e).sum(0), "You squared the log-weights"),
        (
            lambda w, g, e: ((w - w.amax(0)).exp() ** 2 * g * e).sum(0),
            "relative to the largest",
        ),
        (
            lambda w, g, e: ((w - w.logsumexp((0, 1))).exp() ** 2 * g * e).sum(0),
            "over all examples together",
        ),
        (lambda w, g, e: (2 * share(w) * g * e).sum(0), "You doubled the shares"),
        (lambda w, g, e: ((share(w) * g * e) ** 2).sum(0), "You squared slope and noise"),
        (lambda w, g, e: (share(w) ** 2 * g * e).sum(0) + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)


LogProb = Callable[[Tensor], Tensor]


def slope(z: Tensor, log_prob: LogProb) -> Tensor:
    """The gradient of log p, of each latent."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(log_prob(z).sum(), z)[0]


def in_place(z: Tensor, start: Tensor, log_prob: LogProb, lr: float, anchor: float) -> Tensor:
    z += lr * (slope(z, log_prob) - 2 * anchor * (z - start))
    return z


def leaf_in_place(z: Tensor, start: Tensor, log_prob: LogProb, lr: float, a: float) -> Tensor:
    z = z.clone().requires_grad_()
    z += lr * torch.autograd.grad(log_prob(z).sum(), z)[0]
    return z


def of_another_tensor(z: Tensor, start: Tensor, log_prob: LogProb, lr: float, a: float) -> Tensor:
    z, copy = z.detach().requires_grad_(), z.detach().clone().requires_grad_()
    return z + lr * torch.autograd.grad(log_prob(copy).sum(), z)[0]


def without_gradient(z: Tensor, start: Tensor, log_prob: LogProb, lr: float, a: float) -> Tensor:
    return z + lr * torch.autograd.grad(log_prob(z).sum(), z)[0]


def first_alone(z: Tensor, start: Tensor, log_prob: LogProb, lr: float, a: float) -> Tensor:
    z = z.detach().requires_grad_()
    objective = log_prob(z) - a * (z - start).square().sum(-1)
    return z + lr * torch.autograd.grad(objective[0], z)[0]


def chapter06_mistakes() -> Iterator[Mistake]:
    check = chapter06.check_step
    for answer, hint in (
        (lambda z, s, f, lr, a: ..., "Write your answer"),
        (lambda z, s, f, lr, a: f(z), "shape (4, 3), yours has (4,)"),
        (lambda z, s, f, lr, a: slope(z, f).numpy(), "Return a tensor"),
        (without_gradient, "has no record of what you differentiate"),
        (
            lambda z, s, f, lr, a: z + lr * torch.autograd.grad(f(z.requires_grad_()), z)[0],
            "gave it one for each example",
        ),
        (
            lambda z, s, f, lr, a: z + lr * torch.autograd.grad(f(z.requires_grad_()).sum(), z),
            "returns a tuple, one gradient",
        ),
        (
            lambda z, s, f, lr, a: z + lr * (slope(z, f) - 4 * a * (z - s)),
            "twice as hard",
        ),
        (
            lambda z, s, f, lr, a: s + lr * (slope(s, f) - 2 * a * (s - z)),
            "`z` and `s` in each",
        ),
        (
            lambda z, s, f, lr, a: z + a * (slope(z, f) - 2 * lr * (z - s)),
            "`lr` and `a` in each",
        ),
        (lambda z, s, f, lr, a: z + lr * slope(z[:, 0], f), "log p takes latents"),
        (
            lambda z, s, f, lr, a: z + lr * (slope(z, f) - 2 * a * len(z) * (z - s)),
            "each latent is pulled for all",
        ),
        (
            lambda z, s, f, lr, a: z + lr * (slope(z, f) - 2 * a * (z - s) / z.shape[1]),
            "the mean square",
        ),
        (
            lambda z, s, f, lr, a: z + lr * slope(z, f) - 2 * lr * a * (z + lr * slope(z, f) - s),
            "to the latent before the step",
        ),
        (in_place, "changes `z`"),
        (
            lambda z, s, f, lr, a: z + slope(z, f) - lr * 2 * a * (z - s),
            "in front of the gradient of log p",
        ),
        (
            lambda z, s, f, lr, a: z + lr * (slope(z, f) - a * (z - s) ** 2),
            "the anchor's squares themselves",
        ),
        (
            lambda z, s, f, lr, a: z + lr * (slope(z, f) - 2 * a * (z - s).sum(-1, keepdim=True)),
            "the sum of all",
        ),
        (
            lambda z, s, f, lr, a: z + lr * (slope(z, f) - 2 * a * (z + s)),
            "towards minus the start",
        ),
        (of_another_tensor, "a tensor that took no part"),
        (
            lambda z, s, f, lr, a: z + lr * z.detach().clone().requires_grad_().grad,
            "Something there is None",
        ),
        (lambda z, s, f, lr, a: z, "have not moved"),
        (
            lambda z, s, f, lr, a: z + lr * (slope(z, f) - 2 * a * (z - s)) / len(z),
            "how many others there are",
        ),
        (
            lambda z, s, f, lr, a: z + lr * (slope(z, f) / len(z) - 2 * a * (z - s)),
            "The gradient of log p comes from a mean",
        ),
        (lambda z, s, f, lr, a: z + lr * (slope(z, f) + 2 * a * (z - s)), "look at its sign"),
        (lambda z, s, f, lr, a: z + lr * (slope(z, f) - a * (z - s)), "half as hard"),
        (lambda z, s, f, lr, a: z + lr * slope(z, f), "Where is the anchor"),
        (lambda z, s, f, lr, a: z - lr * 2 * a * (z - s), "Where is log p"),
        (
            lambda z, s, f, lr, a: z - lr * (slope(z, f) - 2 * a * (z - s)),
            "in both terms",
        ),
        (
            lambda z, s, f, lr, a: z - lr * (slope(z, f) + 2 * a * (z - s)),
            "only the anchor is right",
        ),
        (
            lambda z, s, f, lr, a: z + slope(z, f) - 2 * a * (z - s),
            "missing in front of both",
        ),
        (
            lambda z, s, f, lr, a: z + lr * slope(z, f) - 2 * a * (z - s),
            "in front of the anchor's part",
        ),
        (
            lambda z, s, f, lr, a: (
                z + lr * (slope(z, f) - a * (z - s) / (z - s).norm(dim=-1, keepdim=True))
            ),
            "You used the distance",
        ),
        (
            lambda z, s, f, lr, a: z + lr * (slope(s, f) - 2 * a * (z - s)),
            "gradient of log p at the start",
        ),
        (
            lambda z, s, f, lr, a: s + lr * (slope(z, f) - 2 * a * (z - s)),
            "You stepped from the start",
        ),
        (lambda z, s, f, lr, a: lr * (slope(z, f) - 2 * a * (z - s)), "That is the step."),
        (lambda z, s, f, lr, a: slope(z, f) - 2 * a * (z - s), "That is the gradient."),
        (lambda z, s, f, lr, a: z + lr * (slope(z, f) - 2 * a * z), "pulls to the origin"),
        (
            lambda z, s, f, lr, a: z + lr * (slope(z, f) - 2 * a * (z - s) / z.numel()),
            "a mean over all numbers",
        ),
        (lambda z, s, f, lr, a: z + lr * (slope(z, f) - a * (z - s).sign()), "are not squared"),
        (lambda z, s, f, lr, a: z + lr * (slope(z, f) - 2 * (z - s)), "weight is missing"),
        (
            lambda z, s, f, lr, a: z + lr * (f(z) - a * (z - s).square().sum(-1))[:, None],
            "the value of the objective",
        ),
        (leaf_in_place, "keeps a record for its gradient"),
        (first_alone, "Only the first latent"),
        (lambda z, s, f, lr, a: z + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)

    check = chapter06.check_langevin
    for answer, hint in (
        (lambda z, g, e, lr, t: ..., "Write your answer"),
        (lambda z, g, e, lr, t: (z + lr * g).sum(-1), "shape (5, 2), yours has (5,)"),
        (lambda z, g, e, lr, t: z + lr * g + math.sqrt(lr * t) * e, "half its variance"),
        (lambda z, g, e, lr, t: z + lr * g + 2 * lr * t * e, "scale of a variance"),
        (lambda z, g, e, lr, t: z + lr * g + math.sqrt(2 * t) * e, "a small step is all noise"),
        (lambda z, g, e, lr, t: z + lr * g + math.sqrt(2 * lr) * e, "at 0 there should be none"),
        (lambda z, g, e, lr, t: z + lr * (g + math.sqrt(2 * t) * e), "shrinks as fast"),
        (lambda z, g, e, lr, t: z + lr * g + math.sqrt(2 * lr) * t * e, "yours is in its scale"),
        (
            lambda z, g, e, lr, t: z + lr * g + math.sqrt(2 * lr / t) * e,
            "falls as the temperature rises",
        ),
        (
            lambda z, g, e, lr, t: z + lr / 2 * g + math.sqrt(2 * lr * t) * e,
            "the noise is whole",
        ),
        (
            lambda z, g, e, lr, t: z + lr / 2 * g + math.sqrt(lr * t) * e,
            "with half the step in front",
        ),
        (lambda z, g, e, lr, t: z - lr * g + math.sqrt(2 * lr * t) * e, "went downhill"),
        (
            lambda z, g, e, lr, t: z + g + math.sqrt(2 * lr * t) * e,
            "missing in front of the gradient",
        ),
        (
            lambda z, g, e, lr, t: z + lr / t * g + math.sqrt(2 * lr) * e,
            "divided the gradient by the temperature",
        ),
        (
            lambda z, g, e, lr, t: z + lr * g + math.sqrt(2 * lr * t) * torch.randn(5, 2),
            "The noise is given",
        ),
        (lambda z, g, e, lr, t: z + lr * g - math.sqrt(2 * lr * t) * e, "noise is subtracted"),
        (lambda z, g, e, lr, t: z + lr * g + e, "stands as it was drawn"),
        (lambda z, g, e, lr, t: z + lr * g + 2 * math.sqrt(lr * t) * e, "outside of the root"),
        (lambda z, g, e, lr, t: z + lr * (g + math.sqrt(2 * lr * t) * e), "once more"),
        (
            lambda z, g, e, lr, t: z + lr * t * g + math.sqrt(2 * lr * t) * e,
            "before the gradient, too",
        ),
        (
            lambda z, g, e, lr, t: z + lr * t * g + math.sqrt(2 * lr) * e,
            "before the gradient. It belongs",
        ),
        (
            lambda z, g, e, lr, t: z + t * g + math.sqrt(2 * lr * t) * e,
            "`lr` and `t` in each",
        ),
        (
            lambda z, g, e, lr, t: z + lr * e + math.sqrt(2 * lr * t) * g,
            "`g` and `e` in each",
        ),
        (
            lambda z, g, e, lr, t: g + lr * z + math.sqrt(2 * lr * t) * e,
            "`z` and `g` in each",
        ),
        (lambda z, g, e, lr, t: z + lr * g + math.sqrt(lr) * e, "Where are the 2 and the temp"),
        (lambda z, g, e, lr, t: z + lr * g + math.sqrt(t) * e, "Where are the 2 and the step"),
        (lambda z, g, e, lr, t: z + lr * g + lr * t * e, "by step size and temperature"),
        (
            lambda z, g, e, lr, t: z + 2 * lr * g + math.sqrt(2 * lr * t) * e,
            "twice as large as in the equation",
        ),
        (lambda z, g, e, lr, t: z + lr**2 / 2 * g + lr * e, "whose step size squared"),
        (lambda z, g, e, lr, t: z + lr * g + math.sqrt(lr * t / 2) * e, "The 2 divides under"),
        (lambda z, g, e, lr, t: z + lr * g + t * math.sqrt(lr) * e, "the noise's factor is not"),
        (
            lambda z, g, e, lr, t: z + math.sqrt(lr) * g + math.sqrt(2 * lr * t) * e,
            "the gradient's factor is not",
        ),
        (
            lambda z, g, e, lr, t: z - lr * g - math.sqrt(2 * lr * t) * e,
            "neither is the equation's",
        ),
        (
            lambda z, g, e, lr, t: z.add_(lr * g).add_(math.sqrt(2 * lr * t) * e),
            "changes `z`",
        ),
        (
            lambda z, g, e, lr, t: z + lr * g + e.mul_(math.sqrt(2 * lr * t)),
            "changes `e`",
        ),
        (lambda z, g, e, lr, t: z + lr * g, "Where is the noise"),
        (lambda z, g, e, lr, t: z + math.sqrt(2 * lr * t) * e, "Where is the gradient"),
        (lambda z, g, e, lr, t: lr * g + math.sqrt(2 * lr * t) * e, "That is the move."),
        (lambda z, g, e, lr, t: z + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)


def points_guess(z: Tensor, points: Tensor, shrink: Tensor, variance: Tensor) -> Tensor:
    distance = ((z[:, None] - shrink * points) ** 2).sum(-1)
    return (-0.5 * distance / variance).softmax(-1) @ points


def chapter07_mistakes() -> Iterator[Mistake]:
    check = chapter07.check_denoise_points
    guess = points_guess

    def squared(z: Tensor, x: Tensor, lam: Tensor) -> Tensor:
        return ((z[:, None] - lam.sigmoid().sqrt() * x) ** 2).sum(-1)

    for answer, hint in (
        (lambda z, x, lam: ..., "Write your answer"),
        (lambda z, x, lam: squared(z, x, lam), "yours has (6, 5)"),
        (lambda z, x, lam: z @ x, "Two shapes do not fit"),
        (
            lambda z, x, lam: (
                guess(z, x, lam.sigmoid().sqrt(), (-lam).sigmoid()) + 0.01 * torch.randn(6, 2)
            ),
            "you draw something",
        ),
        (lambda z, x, lam: x.mean(0).expand_as(z), "mean of all points"),
        (lambda z, x, lam: x[squared(z, x, lam).argmin(-1)], "the nearest point"),
        (lambda z, x, lam: guess(z, x, torch.ones(()), (-lam).sigmoid()), "the points themselves"),
        (lambda z, x, lam: guess(z, x, lam.sigmoid(), (-lam).sigmoid()), "α² is the sigmoid"),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), (-lam).sigmoid().sqrt()),
            "standard deviation σ",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), (-lam).sigmoid() / 2),
            "where is the ½ of the Gaussian",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), torch.ones(())),
            "does not enter your weights",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), lam.sigmoid()),
            "signal's variance",
        ),
        (
            lambda z, x, lam: (-0.5 * squared(z, x, lam).sqrt() / (-lam).sigmoid()).softmax(-1) @ x,
            "squared distance",
        ),
        (
            lambda z, x, lam: (0.5 * squared(z, x, lam) / (-lam).sigmoid()).softmax(-1) @ x,
            "sign of the exponent",
        ),
        (
            lambda z, x, lam: (
                lam.sigmoid().sqrt() * guess(z, x, lam.sigmoid().sqrt(), (-lam).sigmoid())
            ),
            "the mean of αx",
        ),
        (
            lambda z, x, lam: (-0.5 * squared(z, x, lam) / (-lam).sigmoid()).exp() @ x,
            "has to be normalised",
        ),
        (
            lambda z, x, lam: (-0.5 * squared(z, x, lam) / (-lam).sigmoid()).softmax(0) @ x,
            "over the z",
        ),
        (
            lambda z, x, lam: guess(z / lam.sigmoid().sqrt(), x, torch.ones(()), (-lam).sigmoid()),
            "You divided z by α",
        ),
        (
            lambda z, x, lam: (
                (-0.5 * (z[:, None] - lam.sigmoid().sqrt() * x) ** 2 / (-lam).sigmoid()).softmax(1)
                * x
            ).sum(1),
            "one hypothesis",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), 2 * (-lam).sigmoid()),
            "averaged the squares",
        ),
        (
            lambda z, x, lam: -0.5 * squared(z, x, lam) / (-lam).sigmoid() @ x,
            "log-densities still",
        ),
        (
            lambda z, x, lam: (
                (-0.5 * squared(z, x, lam) / (-lam).sigmoid()).exp()
                / (-0.5 * squared(z, x, lam) / (-lam).sigmoid()).exp().sum(1, True)
                @ x
            ),
            "underflow to zero",
        ),
        (
            lambda z, x, lam: guess(z, x, (-lam).sigmoid().sqrt(), lam.sigmoid()),
            "α and σ have changed places",
        ),
        (
            lambda z, x, lam: guess(z, x, (-lam).sigmoid().sqrt(), (-lam).sigmoid()),
            "You shrink the points by σ",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), (-lam).sigmoid() ** 2),
            "takes the width σ",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid(), (-lam).sigmoid() ** 2),
            "for α and σ: neither",
        ),
        (
            lambda z, x, lam: guess(z, x, (-lam).sigmoid(), lam.sigmoid()),
            "a factor of one of them",
        ),
        (
            lambda z, x, lam: guess(z, x, (-lam).sigmoid(), lam.sigmoid() ** 2),
            "crossed, and neither root",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid(), (-lam).sigmoid().sqrt()),
            "root is at the wrong one",
        ),
        (
            lambda z, x, lam: guess(z, x, (-lam).sigmoid().sqrt(), lam.sigmoid().sqrt()),
            "exponent has no variance",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), (-lam).exp()),
            "e to the −λ",
        ),
        (
            lambda z, x, lam: (
                (-0.5 * squared(z, x, lam) / (-lam).sigmoid()).flatten().softmax(0).view(6, 5) @ x
            ),
            "over everything",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), (-lam).sigmoid()) / len(x),
            "after weighting them",
        ),
        (
            lambda z, x, lam: (-0.5 * squared(z, x, lam) / (-lam).sigmoid()).log_softmax(-1) @ x,
            "logarithms still",
        ),
        (
            lambda z, x, lam: (
                (z - lam.sigmoid().sqrt() * guess(z, x, lam.sigmoid().sqrt(), (-lam).sigmoid()))
                / (-lam).sigmoid().sqrt()
            ),
            "the guess of the noise",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), 1 - lam.sigmoid().sqrt()),
            "1 − α is no variance",
        ),
        (lambda z, x, lam: guess(z, x, lam.exp().sqrt(), (-lam).exp()), "e to the λ"),
        (
            lambda z, x, lam: (
                guess(z, x, lam.sigmoid().sqrt(), (-lam).sigmoid()) / lam.sigmoid().sqrt()
            ),
            "You divided the guess by α",
        ),
        (
            lambda z, x, lam: guess(z, x, lam.sigmoid().sqrt(), (-lam).sigmoid()) + 1,
            "term by term",
        ),
    ):
        yield Mistake(check, answer, hint)

    check = chapter07.check_denoising_terms

    def squares(e: Tensor, g: Tensor) -> Tensor:
        return ((e - g) ** 2).sum(-1)

    def ratio(lam: Tensor) -> Tensor:
        return ((lam[:-1] - lam[1:]).exp() - 1)[:, None]

    for answer, hint in (
        (lambda e, g, lam: None, "Write your answer"),
        (lambda e, g, lam: 0.5 * squares(e, g), "yours has (5, 3)"),
        (lambda e, g, lam: (0.5 * ratio(lam) * squares(e, g)[1:]).sum(0), "yours has (3,)"),
        (lambda e, g, lam: ratio(lam) * squares(e, g)[1:], "Twice too large"),
        (
            lambda e, g, lam: 0.5 * ratio(lam) * ((e - g) ** 2).mean(-1)[1:],
            "summed over them",
        ),
        (lambda e, g, lam: -0.5 * ratio(lam) * squares(e, g)[1:], "sign is turned"),
        (lambda e, g, lam: 0.5 * ratio(lam) * squares(e, g)[:-1], "the noisier level"),
        (
            lambda e, g, lam: 0.5 * (lam[:-1].exp() - lam[1:].exp())[:, None] * squares(e, g)[1:],
            "the weights of (7.8)",
        ),
        (
            lambda e, g, lam: 0.5 * (1 - (lam[1:] - lam[:-1]).exp())[:, None] * squares(e, g)[1:],
            "the other way up",
        ),
        (
            lambda e, g, lam: 0.5 * (ratio(lam) + 1) * squares(e, g)[1:],
            "The 1 is missing",
        ),
        (
            lambda e, g, lam: 0.5 * (lam[:-1] - lam[1:])[:, None] * squares(e, g)[1:],
            "infinitely small steps",
        ),
        (lambda e, g, lam: 0.5 * squares(e, g)[1:], "the simple loss"),
        (
            lambda e, g, lam: 0.5 * ratio(lam) * (e - g).norm(dim=-1)[1:],
            "goes in squared",
        ),
        (
            lambda e, g, lam: (0.5 * ratio(lam) * squares(e, g)[1:]).cumsum(0),
            "rows above added",
        ),
        (
            lambda e, g, lam: (0.5 * (ratio(lam) + 1) - 1) * squares(e, g)[1:],
            "The half is of the difference",
        ),
        (
            lambda e, g, lam: (
                0.5
                * ((-lam[1:]).sigmoid() / (-lam[:-1]).sigmoid() - 1)[:, None]
                * squares(e, g)[1:]
            ),
            "You divided the σ²",
        ),
        (
            lambda e, g, lam: 0.5 * -lam.sigmoid().diff()[:, None] * squares(e, g)[1:],
            "You subtracted the α²",
        ),
        (
            lambda e, g, lam: 0.5 * ratio(lam) * squares(e[:-1], g[1:]),
            "guess of another",
        ),
        (
            lambda e, g, lam: 0.5 * ratio(lam) * ((e - g).sum(-1) ** 2)[1:],
            "square then",
        ),
        (
            lambda e, g, lam: 0.5 * ((lam[1:] - lam[:-1]).exp() - 1)[:, None] * squares(e, g)[1:],
            "the wrong way round",
        ),
        (
            lambda e, g, lam: 0.5 * (lam[:-1] / lam[1:] - 1)[:, None] * squares(e, g)[1:],
            "You divided the λ",
        ),
        (
            lambda e, g, lam: 0.5 * lam.diff()[:, None] * squares(e, g)[1:],
            "right in the limit alone",
        ),
        (
            lambda e, g, lam: 0.5 * lam.exp().diff()[:, None] * squares(e, g)[1:],
            "have the weights for errors of x̂",
        ),
        (lambda e, g, lam: 2.5 * ratio(lam) * squares(e, g)[1:], "are T times too large"),
        (lambda e, g, lam: ratio(lam) * squares(e, g)[1:] / 8, "You averaged over the steps"),
        (
            lambda e, g, lam: 0.5 * ratio(lam) * (e - g).abs().sum(-1)[1:],
            "without their signs",
        ),
        (lambda e, g, lam: 0.5 * ratio(lam) * (e**2 - g**2).sum(-1)[1:], "You subtract squares"),
        (
            lambda e, g, lam: (
                0.5 * (lam[:-1].sigmoid() / lam[1:].sigmoid() - 1)[:, None] * squares(e, g)[1:]
            ),
            "You divided the α²",
        ),
        (lambda e, g, lam: 0.5 * (ratio(lam) + 2) * squares(e, g)[1:], "The 1 is added"),
        (lambda e, g, lam: 2 * ratio(lam) * squares(e, g)[1:], "T − 1 times too large"),
        (
            lambda e, g, lam: 0.5 * ratio(lam)[:, 0] * squares(e, g)[1:],
            "Two shapes do not fit",
        ),
        (lambda e, g, lam: 0.5 * ratio(lam) * squares(e, g)[1:] + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)


def runge_kutta(f: Callable[..., Any], z: Tensor, steps: int) -> Tensor:
    h, total, size = z, torch.zeros(len(z), dtype=z.dtype), 1 / steps
    for k in range(steps):
        t = 1 - k * size
        v1, d1 = f(h, t)
        v2, d2 = f(h - size / 2 * v1, t - size / 2)
        v3, d3 = f(h - size / 2 * v2, t - size / 2)
        v4, d4 = f(h - size * v3, t - size)
        h = h - size / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        total = total + size / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return Normal(0.0, 1.0).log_prob(h).sum(-1) - total


def chapter08_mistakes() -> Iterator[Mistake]:
    check = chapter08.check_matching

    def loss(v: Any, halfway: Tensor, target: Tensor, t: Tensor) -> Tensor:
        return (v(halfway, t) - target).square().sum(-1).mean()

    def on_way(c: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(u, c, t[:, None])

    for answer, hint in (
        (lambda v, c, u, t: None, "Write your answer"),
        (lambda v, c, u, t: (v(on_way(c, u, t), t) - c + u).square().sum(-1), "take the mean"),
        (lambda v, c, u, t: loss(v, torch.lerp(u, c, t), c - u, t), "Print the shape of each"),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), u - c, t), "turn the difference"),
        (lambda v, c, u, t: loss(v, on_way(u, c, t), c - u, t), "There the noise should be"),
        (lambda v, c, u, t: loss(v, on_way(u, c, t), u - c, t), "from codes to noise all the way"),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), c, t), "not its end"),
        (
            lambda v, c, u, t: loss(v, on_way(c, u, t), c - u, t) / 3,
            "You averaged over the D numbers",
        ),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), c - u, t) * 6, "codes. Their mean"),
        (
            lambda v, c, u, t: (v(on_way(c, u, t), t) - c + u).norm(dim=-1).mean(),
            "take no root",
        ),
        (lambda v, c, u, t: loss(v, c, c - u, t), "not on the way"),
        (
            lambda v, c, u, t: loss(v, on_way(c, u, t), c - on_way(c, u, t), t),
            "the same all along it",
        ),
        (lambda v, c, u, t: -loss(v, on_way(c, u, t), c - u, t), "an error is not negative"),
        (lambda v, c, u, t: v(t, c).sum(), "places of shape (N, D)"),
        (lambda v, c, u, t: v(c, c).sum(), "one time for each of them"),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), c - u, t) + 1, "term by term"),
        (
            lambda v, c, u, t: loss(v, on_way(c, u, t), c - u, t[:, None]),
            "the line alone needs a second axis",
        ),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), c - u, t).detach(), "it has no gradient"),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), c - u, t).item(), "it has no gradient"),
        (
            lambda v, c, u, t: loss(v, on_way(c, w := torch.randn_like(u), t), c - w, t),
            "Noise and times are given",
        ),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), c - u, t) / 2, "no ½"),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), u, t), "not its beginning"),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), t[:, None] * (c - u), t), "at all times"),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), c - u, 1 - t), "the time that is left"),
        (lambda v, c, u, t: loss(v, u, c - u, t), "velocity at the noise"),
        (
            lambda v, c, u, t: (v(on_way(c, u, t), t) - c + u).abs().sum(-1).mean(),
            "without their signs",
        ),
        (
            lambda v, c, u, t: (v(on_way(c, u, t), t) - c + u).sum(-1).square().mean(),
            "square then",
        ),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), c + u, t), "added the ends"),
        (
            lambda v, c, u, t: (v(on_way(c, u, t), t) - c + u).sum(-1).mean(),
            "its parts cancel",
        ),
        (
            lambda v, c, u, t: (v(on_way(c, u, t), t) - c + u).square().sum(0).mean(),
            "averaged over the D numbers. Turn",
        ),
        (lambda v, c, u, t: loss(v, (u + c) / 2, c - u, t), "the middle of each line"),
        (lambda v, c, u, t: loss(v, on_way(c, u, t), on_way(c, u, t), t), "a velocity, and yours"),
        (
            lambda v, c, u, t: loss(v, t[:, None] * c + (1 - t[:, None] ** 2).sqrt() * u, c - u, t),
            "Your way has roots",
        ),
        (lambda v, c, u, t: loss(v, on_way(u, c, t), u - c, 1 - t), "You turned time round"),
        (lambda v, c, u, t: loss(v, u + t[:, None] * c, c - u, t), "does not fade"),
        (
            lambda v, c, u, t: loss(
                v, (1 - t[:, None]).sqrt() * u + t[:, None].sqrt() * c, c - u, t
            ),
            "Your way has roots",
        ),
        (lambda v, c, u, t: v(u).sum(), "takes more than you gave it"),
    ):
        yield Mistake(check, answer, hint)

    check = chapter08.check_log_prob

    def follow(
        f: Any, z: Tensor, times: list[float], sign: float = -1, length: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        length = length or 1 / len(times)
        h, total = z, torch.zeros(len(z)).to(z)
        for t in times:
            v, divergence = f(h, t)
            h, total = h + sign * length * v, total + length * divergence
        return h, total

    def log_p(f: Any, z: Tensor, times: Tensor, length: float) -> Tensor:
        u, total = follow(f, z, times.tolist(), length=length)
        return base(u) - total

    def in_place(field: Any, z: Tensor, n: int) -> Tensor:
        total = torch.zeros(len(z)).to(z)
        for t in back(n):
            v, divergence = field(z, t)
            z -= v / n
            total += divergence / n
        return base(z) - total

    def by_determinants(field: Any, z: Tensor, n: int) -> Tensor:
        h, total = z, torch.zeros(len(z)).to(z)
        for t in back(n):
            v, divergence = field(h, t)
            h, total = h - v / n, total + (divergence / n).log1p()
        return base(h) - total

    def results_swapped(field: Any, z: Tensor, n: int) -> Tensor:
        h, total = z, torch.zeros(len(z)).to(z)
        for t in back(n):
            divergence, v = field(h, t)
            h, total = h - v / n, total + divergence / n
        return base(h) - total

    def back(n: int) -> list[float]:
        return [1 - step / n for step in range(n)]

    def base(u: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(u).sum(-1)

    def right(f: Any, z: Tensor, n: int, sign: float = -1) -> Tensor:
        u, total = follow(f, z, back(n))
        return base(u) + sign * total

    def forwards(f: Any, z: Tensor, times: list[float]) -> Tensor:
        h, total = follow(f, z, times, 1)
        return base(h) + total

    def last_alone(f: Any, z: Tensor, n: int) -> Tensor:
        h = z
        for t in back(n):
            v, divergence = f(h, t)
            h, total = h - v / n, divergence / n
        return base(h) - total

    def divergence_after(f: Any, z: Tensor, n: int) -> Tensor:
        h, total = z, torch.zeros(len(z)).to(z)
        for t in back(n):
            h = h - f(h, t)[0] / n
            total = total + f(h, t)[1] / n
        return base(h) - total

    for answer, hint in (
        (lambda f, z, n: None, "Write your answer"),
        (lambda f, z, n: follow(f, z, back(n))[0], "yours has (5, 2)"),
        (lambda f, z, n: right(f, z, n, 1), "where points move apart"),
        (lambda f, z, n: right(f, z, n, 0), "The divergence is missing"),
        (lambda f, z, n: right(f, z, n, -n), "length of a step in the divergence"),
        (lambda f, z, n: base(z) - follow(f, z, back(n))[1], "Which u is its noise"),
        (
            lambda f, z, n: (
                base(follow(f, z, [t - 1 / n for t in back(n)])[0])
                - follow(f, z, [t - 1 / n for t in back(n)])[1]
            ),
            "asked for the field where a step ends",
        ),
        (
            lambda f, z, n: (
                base(follow(f, z, [k / n for k in range(n)], 1)[0])
                - follow(f, z, [k / n for k in range(n)], 1)[1]
            ),
            "is backwards",
        ),
        (
            lambda f, z, n: (
                base(follow(f, z, [k / n for k in range(n)])[0])
                - follow(f, z, [k / n for k in range(n)])[1]
            ),
            "forwards through time",
        ),
        (
            lambda f, z, n: right(f, z, n) + math.log(2 * math.pi),
            "constant of the Gaussian is missing",
        ),
        (lambda f, z, n: -right(f, z, n), "sign is turned"),
        (lambda f, z, n: forwards(f, z, back(n)), "Both parts are turned round"),
        (lambda f, z, n: forwards(f, z, back(n)[::-1]), "Both parts are turned round"),
        (lambda f, z, n: forwards(f, z, [k / n for k in range(n)]), "Both parts are turned"),
        (
            lambda f, z, n: forwards(f, z, [1 - (k + 1) / n for k in range(n)]),
            "Both parts are turned",
        ),
        (last_alone, "Only the last step's divergence"),
        (divergence_after, "divergence where a step ends"),
        (lambda f, z, n: base(z), "neither the way back"),
        (
            lambda f, z, n: log_p(f, z, torch.tensor(back(n)) - 0.5 / n, 1 / n),
            "in the middle of each",
        ),
        (
            lambda f, z, n: right(f, z, n) - base(follow(f, z, back(n))[0]) / 2,
            "averaged over the dimensions",
        ),
        (
            lambda f, z, n: right(f, z, n) + 0.5 * math.log(2 * math.pi),
            "once for the whole event",
        ),
        (lambda f, z, n: f(z, n)[1], "Time runs from 0 to 1"),
        (in_place, "changes `z`"),
        (results_swapped, "two results of `field`"),
        (lambda f, z, n: log_p(f, z, torch.linspace(1, 0, n), 1 / n), "one step fewer"),
        (lambda f, z, n: log_p(f, z, torch.linspace(1, 0, n), 1 / (n - 1)), "one step fewer"),
        (lambda f, z, n: log_p(f, z, torch.linspace(1, 0, n)[:-1], 1 / (n - 1)), "one step fewer"),
        (lambda f, z, n: log_p(f, z, torch.linspace(1, 0, n + 1), 1 / n), "one step too many"),
        (
            lambda f, z, n: log_p(f, z, torch.linspace(1, 0, n + 2)[:-1], 1 / (n + 1)),
            "each of them shorter",
        ),
        (
            lambda f, z, n: (
                base(follow(f, z, back(n), length=1)[0]) - follow(f, z, back(n), length=1)[1] / n
            ),
            "in the move along",
        ),
        (
            lambda f, z, n: log_p(f, z, torch.tensor(back(n)), 1.0),
            "knows how long a step is",
        ),
        (
            lambda f, z, n: base(follow(f, z, back(n), 1)[0]) - follow(f, z, back(n), 1)[1],
            "forwards through space",
        ),
        (
            lambda f, z, n: (
                base(z - sum(f(z, t)[0] for t in back(n)) / n)
                - sum(f(z, t)[1] for t in back(n)) / n
            ),
            "at z in every step",
        ),
        (lambda f, z, n: f(z[:, :1], 1.0)[1], "places of shape (N, D)"),
        (runge_kutta, "four times a step"),
        (
            lambda f, z, n: log_p(f, z, torch.ones(1), 1 / n),
            "returned after the first step",
        ),
        (lambda f, z, n: -follow(f, z, back(n))[1], "Where is the log-density of the noise"),
        (by_determinants, "logarithm of each step's determinant"),
        (
            lambda f, z, n: base(follow(f, z, back(n))[0]).sum() - follow(f, z, back(n))[1],
            "noise over the codes, too",
        ),
        (
            lambda f, z, n: base(follow(f, z, back(n))[0]) - follow(f, z, back(n))[1].sum(),
            "divergence over the codes, too",
        ),
        (lambda f, z, n: right(f, z, n) + 1, "term by term"),
    ):
        yield Mistake(check, answer, hint)


def chapter09_mistakes() -> Iterator[Mistake]:
    check = chapter09.check_difference
    stack = torch.stack

    def error(d: Tensor) -> Tensor:
        return d.std() / len(d) ** 0.5

    for answer, hint in (
        (lambda a, b: ..., "Write your answer"),
        (lambda a, b: a - b, "yours has (40,)"),
        (lambda a, b: a.nothing, "with AttributeError"),
        (lambda a, b: stack([(b - a).mean(), error(b - a)]), "the sign is turned"),
        (
            lambda a, b: stack([(a - b).mean(), (error(a) ** 2 + error(b) ** 2).sqrt()]),
            "as if the pictures were different ones",
        ),
        (lambda a, b: stack([(a - b).mean(), error(a) + error(b)]), "added the two"),
        (lambda a, b: stack([(a - b).mean(), (a - b).std()]), "spread of one picture"),
        (lambda a, b: stack([(a - b).mean(), (a - b).std() / len(a)]), "not by N"),
        (lambda a, b: stack([(a - b).mean(), (a - b).var() / len(a)]), "Take its root"),
        (lambda a, b: stack([error(a - b), (a - b).mean()]), "The mean comes first"),
        (lambda a, b: stack([(a - b).median(), error(a - b)]), "One value should be"),
        (
            lambda a, b: stack([(a - b).mean(), (a - b).std(correction=0) / len(a) ** 0.5]),
            "divides the squares by N − 1",
        ),
        (lambda a, b: stack([(a - b).mean(), 1.96 * error(a - b)]), "half of a 95"),
        (lambda a, b: stack([(a - b).mean(), 2 * error(a - b)]), "half of a 95"),
        (
            lambda a, b: (a - b).mean() + 1.96 * error(a - b) * torch.tensor([-1, 1]),
            "the ends of a 95",
        ),
        (lambda a, b: stack([(a - b).mean(), error(b)]), "second model's mean"),
        (
            lambda a, b: stack([(a - b).mean(), ((a - b) ** 2).mean().sqrt() / 40**0.5]),
            "taken from zero",
        ),
        (lambda a, b: stack([(a - b).mean(), (a - b).var()]), "variance of one picture"),
        (
            lambda a, b: stack([(a - b).mean(), error(a) ** 2 + error(b) ** 2]),
            "variances of two means",
        ),
        (lambda a, b: stack([(a - b).sum(), error(a - b)]), "You summed the differences"),
        (lambda a, b: stack([(a - b).abs().mean(), error(a - b)]), "without their signs"),
        (lambda a, b: torch.cat([(a - b).mean(), error(a - b)]), "single numbers have none"),
        (lambda a, b: stack([(a - b).mean(), a.mean() * torch.nan]), "no spread"),
        (lambda a, b: stack([(a - b).mean(), (a - b).std() / 39**0.5]), "subtracted once"),
        (lambda a, b: stack([(a - b).mean(), (a - b).var() / 40**0.5]), "divided the variance"),
        (lambda a, b: stack([(a - b).mean(), error(a) - error(b)]), "subtracted the two spreads"),
        (lambda a, b: stack([(a - b).mean(), error(a)]), "first model's mean"),
        (lambda a, b: stack([(a - b).mean(), error(torch.cat([a, b]))]), "into one sample"),
        (lambda a, b: stack((a - b).mean(), error(a - b)), "as one list"),
        (
            lambda a, b: stack([(a - b).abs().mean(), error((a - b).abs())]),
            "without their signs",
        ),
    ):
        yield Mistake(check, answer, hint)

    check = chapter09.check_effective_samples

    def small(w: Tensor) -> Tensor:
        return (w - w.amax(0)).exp()

    for answer, hint in (
        (lambda w: ..., "Write your answer"),
        (lambda w: small(w).sum().square() / small(w).square().sum(), "yours has ()"),
        (lambda w: w @ w, "Two shapes do not fit"),
        (lambda w: w.exp().sum(0).square() / w.exp().square().sum(0), "Which factor cancels"),
        (lambda w: small(w).square().sum(0) / small(w).sum(0).square(), "turned the fraction"),
        (lambda w: small(w).sum(0).square() / small(w).square().sum(0) / len(w), "divided by S"),
        (lambda w: w.sum(0).square() / w.square().sum(0), "took the log-weights for weights"),
        (lambda w: small(w).sum(0), "Square, as in the formula"),
        (lambda w: small(w).sum(0).square() / small(w).sum(0).square(), "Square each weight"),
        (lambda w: small(w).sum(0) * 0 + 3.0, "One value should be"),
        (lambda w: small(w).sum(0) / small(w).square().sum(0), "is squared, too"),
        (lambda w: (small(w).sum(0).square() / small(w).square().sum(0)).log(), "its logarithm"),
        (lambda w: 1 / w.softmax(1).square().sum(0), "sum to 1 over the pictures"),
        (lambda w: 1 / w.softmax(0).square().mean(0), "S times too large"),
        (lambda w: -(w.softmax(0) * w.log_softmax(0)).sum(0), "is the entropy"),
        (lambda w: w - w.max(0), "as `max` does"),
        (lambda w: 2 * w.logsumexp(0) / (2 * w).logsumexp(0), "You divided the logarithms"),
        (
            lambda w: (2 * w.logsumexp(0) - (w**2).logsumexp(0)).exp(),
            "a logarithm of a weight was squared",
        ),
        (lambda w: (w.logsumexp(0) - (2 * w).logsumexp(0)).exp(), "Your result is infinite"),
        (
            lambda w: (-(w.softmax(0) * w.log_softmax(0)).sum(0)).exp(),
            "by the entropy of their shares",
        ),
        (
            lambda w: (w - w.max()).exp().sum(0).square() / (w - w.max()).exp().square().sum(0),
            "a largest weight of its own",
        ),
        (
            lambda w: (w - w.mean(0)).exp().sum(0).square() / (w - w.mean(0)).exp().square().sum(0),
            "nats apart",
        ),
    ):
        yield Mistake(check, answer, hint)


def row_by_row(z: Tensor, net: Callable[..., Any]) -> Tensor:
    u = torch.zeros_like(z)
    for i in range(z.shape[-1]):
        t, s = net(u)
        u[i] = ((z - t) * (-s).exp())[i]
    return u


def there_in_each_pass(z: Tensor, net: Callable[..., Any]) -> Tensor:
    u = torch.zeros_like(z)
    for _ in range(z.shape[-1]):
        t, s = net(u)
        u = t + s.exp() * z
    return u


def four_passes(z: Tensor, net: Callable[..., Any]) -> Tensor:
    u = torch.zeros_like(z)
    for _ in range(4):
        t, s = net(u)
        u = (z - t) * (-s).exp()
    return u


def mistakes_of_readers() -> Iterator[Mistake]:
    """What people did who met the exercises for the first time."""

    for check, answer, hint in (
        (
            chapter00.check_gaussian_log_density,
            lambda z, m, s: each_density(z, m, s).exp().prod(-1).log(),
            "product of the densities underflows",
        ),
        (
            chapter00.check_mixture_log_density,
            lambda z, w, m, s: (
                w.log_softmax(0) - (((z[:, None] - m) / s) ** 2 / 2 + s.log()).sum(-1)
            ).logsumexp(-1),
            "Logits and log-scales are logarithms already",
        ),
        (
            chapter01.check_gaussian_kl,
            lambda m, s: 0.5 * (m**2 + s**2 - 1 - 2 * s.log()).sum(-1),
            "log_scale is a logarithm already",
        ),
        (
            chapter02.check_mutual_information,
            lambda q: torch.tensor(math.log(len(q))),
            "knows nothing of these codes",
        ),
        (
            chapter02.check_mutual_information,
            lambda q: (q.diagonal() - q.logsumexp()).mean(),
            "give the function its `dim`",
        ),
        (
            chapter03.check_ancestral,
            lambda top, p, x, n: x(
                torch.cat([z := top.sample((n,)), p(z).sample()], dim=-1)
            ).sample((n,)),
            "One is too many",
        ),
        (
            chapter04.check_log_prob,
            lambda z, m, s: (
                Normal(0.0, 1.0).log_prob((z - m) * (-s).exp()).sum(-1) - s.expand_as(z).sum()
            ),
            "You summed s over the examples",
        ),
        (chapter04.check_one_by_one, row_by_row, "Number i of all examples"),
        (chapter04.check_one_by_one, there_in_each_pass, "go through the map in each pass"),
        (chapter04.check_one_by_one, four_passes, "With five it is not"),
        (
            chapter05.check_log_q,
            lambda e, m, s, f: (
                Normal(m, s.exp() ** 2).log_prob(m + s.exp() * e).sum(-1) - f(m + s.exp() * e, m)[1]
            ),
            "density of u is the variance",
        ),
        (
            chapter05.check_log_q,
            lambda e, m, s, f: (
                Normal(m, s.exp()).log_prob(u := m + s.exp() ** 2 * e).sum(-1) - f(u, m)[1]
            ),
            "drew u with the variance",
        ),
        (
            chapter05.check_log_q,
            lambda e, m, s, f: (
                Normal(m, s.exp()).log_prob(m + s.exp() * e) - f(m + s.exp() * e, m)[1]
            ),
            "not yet summed over the event",
        ),
        (
            chapter05.check_kl_to_posterior,
            lambda q, p, a: (q.exp() * (q - p + p.logsumexp(0) * math.exp(a))).sum(0) * math.exp(a),
            "multiplied a logarithm by the area",
        ),
        (
            chapter05.check_dreg,
            lambda w, g, e: (w.log_softmax(0) ** 2 * g * e).sum(0),
            "You squared logarithms",
        ),
        (
            chapter09.check_effective_samples,
            lambda w: (
                (v := (w - w.amax(1, keepdim=True)).exp()).sum(0).square() / v.square().sum(0)
            ),
            "largest of a sample over the pictures",
        ),
    ):
        yield Mistake(check, answer, hint)


MISTAKES = [
    *chapter00_mistakes(),
    *chapter01_mistakes(),
    *chapter02_mistakes(),
    *chapter03_mistakes(),
    *chapter04_mistakes(),
    *chapter05_mistakes(),
    *chapter06_mistakes(),
    *chapter07_mistakes(),
    *chapter08_mistakes(),
    *chapter09_mistakes(),
    *mistakes_of_readers(),
]


# --- other right answers ----------------------------------------------------------------------


def by_recursion(field: Any, z: Tensor, steps: int, t: float) -> Tensor:
    if t < 0.5 / steps:
        return Normal(0.0, 1.0).log_prob(z).sum(-1)
    velocity, divergence = field(z, t)
    return by_recursion(field, z - velocity / steps, steps, t - 1 / steps) - divergence / steps


def gaussian_by_loop(z: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    total = torch.zeros(z.shape[:-1])
    for d in range(z.shape[-1]):
        total += each_density(z[..., d], loc[..., d], log_scale[..., d])
    return total


def one_column_at_a_time(z: Tensor, net: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    t, s = net(z[:, :2])
    u = z.clone()  # and this one may be written into
    for i, column in enumerate(z[:, 2:].T):
        u[:, 2 + i] = (column - t[:, i]) / s[:, i].exp()
    return u


def one_column_a_pass(z: Tensor, net: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    u = z.clone()
    for i in range(z.shape[1]):
        t, s = net(u)
        u[:, i] = (z[:, i] - t[:, i]) * (-s[:, i]).exp()
    return u


def by_backward(z: Tensor, start: Tensor, log_prob: LogProb, lr: float, anchor: float) -> Tensor:
    z = z.clone().requires_grad_()
    (log_prob(z) - anchor * (z - start).norm(dim=-1) ** 2).sum().backward()
    assert z.grad is not None
    return z + lr * z.grad


def by_torch(z: Tensor, points: Tensor, lam: Tensor) -> Tensor:
    each = Independent(Normal(lam.sigmoid().sqrt() * points, (-lam).sigmoid().sqrt()), 1)
    posterior = Categorical(logits=each.log_prob(z[:, None])).probs
    return (posterior[..., None] * points).sum(1)


RIGHT: list[tuple[Callable[..., None], Callable[..., Any]]] = [
    (chapter00.check_gaussian_log_density, gaussian_by_loop),
    (
        chapter00.check_gaussian_log_density,
        lambda z, m, s: each_density(z.double(), m.double(), s.double()).sum(-1),
    ),
    (
        chapter00.check_log_mean_exp,
        lambda a: torch.stack([c.logsumexp(0) for c in a.T]) - math.log(6),
    ),
    (chapter00.check_mixture_log_density, lambda z, w, m, s: mixture(z, w, m, s.exp()).double()),
    (
        chapter00.check_mixture_log_density,
        lambda z, w, m, s: weighted(z, w, m, s).logsumexp(-1),
    ),
    (chapter01.check_gaussian_kl, lambda m, s: gaussian_kl(m.float(), s.float()).sum(-1)),
    (
        chapter01.check_gaussian_kl,
        lambda m, s: kl_divergence(Normal(m, s.exp()), Normal(0.0, 1.0)).sum(-1),
    ),
    (chapter01.check_loss, lambda r, q, p: q.mean() - p.mean() - r.mean()),
    (chapter01.check_loss, lambda r, q, p: -(r - q + p).sum() / r.numel()),
    (chapter01.check_log_marginal, lambda w: (w.logsumexp(0) - math.log(5)).float()),
    (chapter02.check_mutual_information, lambda a: information(a, 1).item()),
    (
        chapter02.check_mutual_information,
        lambda a: a.log_softmax(1).trace() / 6 + math.log(6),
    ),
    (chapter02.check_sample, lambda n, w, m, s: gaussians(w.exp().multinomial(n, True), m, s)),
    (
        chapter02.check_sample,
        lambda n, w, m, s: MixtureSameFamily(
            Categorical(logits=w), Independent(Normal(m, s), 1)
        ).sample((n,)),
    ),
    (
        chapter03.check_chain_log_prob,
        lambda z, t, c: Chain(t, c, z.shape[-1]).log_prob(z),
    ),
    (chapter03.check_kl_by_level, lambda q, p, s: joined_kl(q, p, q.rsample((s,))).mean(1)),
    (
        chapter03.check_ancestral,
        lambda t, c, d, n: d(Chain(t, c, 2).sample((n,))).rsample(),
    ),
    (
        chapter04.check_log_prob,
        lambda z, m, s: (
            Normal(0.0, 1.0).log_prob((z - m) / s.exp()).sum(-1)
            - s.exp().diag().slogdet().logabsdet
        ),
    ),
    (chapter04.check_invert, one_column_at_a_time),
    (chapter04.check_one_by_one, one_column_a_pass),
    (
        chapter05.check_log_q,
        lambda e, m, s, f: flow_density(e, m.expand_as(e), s.exp(), f).float(),
    ),
    (
        chapter05.check_log_q,
        lambda e, m, s, f: (
            Normal(0.0, 1.0).log_prob(e).sum(-1) - s.sum(-1) - f(m + s.exp() * e, m)[1]
        ),
    ),
    (
        chapter05.check_dreg,
        lambda w, g, e: ((2 * (w - w.logsumexp(0))).exp() * g * e).sum(0).float(),
    ),
    (
        chapter05.check_kl_to_posterior,
        lambda q, p, a: p.logsumexp(0) + a - (q.exp() * (p - q)).sum(0) * math.exp(a),
    ),
    (
        chapter05.check_kl_to_posterior,
        lambda q, p, a: (q.softmax(0) * (q.log_softmax(0) - p.log_softmax(0))).sum(0),
    ),
    (chapter06.check_step, by_backward),
    (
        chapter06.check_step,
        lambda z, s, f, lr, a: z + lr * (slope(z, f) - 2 * a * (z - s)),
    ),
    (chapter06.check_langevin, lambda z, g, e, lr, t: z + lr * g + (2 * lr * t) ** 0.5 * e),
    (chapter07.check_denoise_points, by_torch),
    (
        chapter07.check_denoising_terms,
        lambda e, g, lam: torch.stack(
            [
                0.5 * ((a - b).exp() - 1) * ((x - y) ** 2).sum(-1)
                for a, b, x, y in zip(lam[:-1], lam[1:], e[1:], g[1:], strict=True)
            ]
        ),
    ),
    (
        chapter08.check_matching,
        lambda v, c, u, t: (
            sum(
                (v((u + s * (c - u))[None], s[None])[0] - c + u).square().sum()
                for c, u, s in zip(c, u, t, strict=True)
            )
            / len(t)
        ),
    ),
    (chapter08.check_log_prob, lambda f, z, n: by_recursion(f, z, n, 1.0)),
    (
        chapter09.check_difference,
        lambda a, b: torch.stack([a.mean() - b.mean(), (a - b).var().sqrt() / math.sqrt(len(a))]),
    ),
    (
        chapter09.check_effective_samples,
        lambda w: 1 / w.softmax(0).square().sum(0).float(),
    ),
]


SEEDS = range(3)


def test_hints_do_not_depend_on_the_checks_that_zuko_switches_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        chapter01.check_gaussian_kl(lambda m, s: Normal(m, s - 100).mean)
        assert not Distribution._validate_args
    finally:
        Distribution.set_default_validate_args(checks)
    assert "torch refuses your scale" in capsys.readouterr().out


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_a_right_answer_in_another_form_is_correct(
    check: Callable[..., bool],
    answer: Callable[..., Any],
    seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verdict = check(answer, seed=seed, raises=True)
    assert verdict == 1 and repr(verdict) == "True"
    assert capsys.readouterr().out.endswith(": correct.\n")


@pytest.mark.parametrize("check", sorted({each for each, _ in RIGHT}, key=lambda c: c.__name__))
def test_a_seed_varies_the_numbers_and_the_same_seed_repeats_them(
    check: Callable[..., bool],
) -> None:
    [answer, *_] = [answer for each, answer in RIGHT if each is check]

    def seen(seed: int) -> str:
        given: list[object] = []

        def watched(*arguments: Any) -> Any:
            given.append([each for each in arguments if not callable(each)])
            with torch.random.fork_rng():
                value = answer(*arguments)
            # Where all that varies is in a distribution or a function, it shows in the answer.
            given.append(value)
            return value

        check(watched, seed=seed)
        return repr(given[:2])

    assert seen(0) == seen(0)
    assert len({seen(seed) for seed in SEEDS}) == len(SEEDS)


def test_a_notebook_shows_no_value_below_the_verdict() -> None:
    verdict = chapter00.check_log_mean_exp(maximum_by_hand)
    assert DisplayFormatter().format(verdict) == ({}, {})
    assert DisplayFormatter().format(int(verdict)) != ({}, {})


def test_every_check_takes_a_right_answer_in_another_form() -> None:
    assert {check for check, _ in RIGHT} == {mistake.check for mistake in MISTAKES}


def label(mistake: Mistake) -> str:
    return f"{mistake.check.__name__}: {mistake.hint}"


@pytest.mark.parametrize("mistake", MISTAKES, ids=label)
def test_a_mistake_gets_the_hint_meant_for_it(
    mistake: Mistake, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in SEEDS:
        verdict = mistake.check(mistake.answer, seed=seed)
        assert not verdict and repr(verdict) == "False"
        said = capsys.readouterr().out
        assert re.match(r"Exercise \d+\.\d+: not yet\. ", said)
        assert said.count("\n") == 1
        assert mistake.hint in said


CHECKS = sorted({mistake.check for mistake in MISTAKES}, key=lambda check: check.__name__)


def hint_for(check: Callable[..., bool], answer: object) -> str:
    with pytest.raises(Hint) as caught:
        check(answer, raises=True)
    return str(caught.value)


@pytest.mark.parametrize("check", CHECKS)
def test_on_request_a_wrong_answer_raises_and_prints_nothing(
    check: Callable[..., bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.match(r"Exercise \d\.\d: not yet\. ", hint_for(check, lambda *given: ...))
    assert capsys.readouterr().out == ""


def forgets_to_return(*given: object) -> None:
    """A first try."""
    value = [*given]
    value.reverse()


def nothing_yet(*given: object) -> None:
    """A stub, as the chapters have it."""
    ...


@pytest.mark.parametrize("check", CHECKS)
def test_a_forgotten_return_is_told_from_a_function_without_a_line(
    check: Callable[..., bool],
) -> None:
    assert "return it" in hint_for(check, forgets_to_return)
    assert "in place of the dots" in hint_for(check, nothing_yet)


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_an_answer_that_writes_into_what_it_was_given_is_refused(
    check: Callable[..., bool], answer: Callable[..., Any]
) -> None:
    names = list(inspect.signature(answer).parameters)
    tensors: set[int] = set()

    def writes(*given: Any) -> Any:
        value = answer(*given)
        tensors.update(i for i, each in enumerate(given) if isinstance(each, Tensor))
        for each in given:
            if isinstance(each, Tensor):
                each.detach().mul_(2)
        return value

    writes.__signature__ = inspect.signature(answer)  # type: ignore[attr-defined]
    if check not in (chapter03.check_kl_by_level, chapter03.check_ancestral):
        said = hint_for(check, writes)
        assert f"changes `{names[min(tensors)]}`" in said and said.count("\n") == 0
    else:  # these are given distributions
        assert check(writes) and not tensors


def test_an_answer_that_names_no_arguments_is_refused_all_the_same() -> None:
    def writes(*given: Tensor) -> Tensor:
        return given[0].exp_().mean(0).log()

    def changes(a: Tensor, /) -> Tensor:
        return a.exp_().mean(0).log()

    assert "changes `given`" in hint_for(chapter00.check_log_mean_exp, writes)
    assert "changes `a`" in hint_for(chapter00.check_log_mean_exp, changes)
    assert "changes what it was given" in about_change([])


def another_stub(*given: object) -> None:
    """A stub, as nbgrader writes it."""
    raise NotImplementedError()


def test_a_stub_that_raises_is_no_mistake() -> None:
    assert "in place of the line" in hint_for(chapter00.check_log_mean_exp, another_stub)


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_no_function_is_refused(check: Callable[..., bool]) -> None:
    assert "your function itself" in hint_for(check, torch.zeros(3))


# What torch says in its own words, of mistakes that any exercise may meet.
SPOILT: list[tuple[Callable[[], object], str]] = [
    (lambda: torch.ones(2, 3) @ torch.ones(2, 3), "shapes"),
    (lambda: torch.ones(2, 3) + torch.ones(2, 4), "shapes"),
    (lambda: torch.ones(2, 3).reshape(4, 2), "shapes"),
    (lambda: torch.ones(2, 3).expand(4, 3), "shapes"),
    (lambda: torch.cat([torch.ones(2, 3), torch.ones(3, 4)]), "shapes"),
    (lambda: torch.cat([torch.ones(2, 3), torch.ones(3)]), "shapes"),
    (lambda: torch.ones(3).sum(2), "does not have"),
    (lambda: torch.ones(3)[0, 0], "more axes"),
    (lambda: torch.ones(3)[5], "beyond the end"),
    (lambda: torch.ones(3) @ torch.ones(3).double(), "different kinds"),
    (lambda: bool(torch.ones(3) > 0), "asks for one truth"),
    (lambda: float(torch.ones(3)), "One number"),
    (lambda: torch.ones(3).clamp("a"), "other arguments"),
    (lambda: torch.exp(1.0), "wants a tensor"),
    (lambda: torch.ones(3, requires_grad=True).numpy(), "Stay with torch"),
    (lambda: Normal(0.0, torch.tensor(-1.0), validate_args=True), "refuses your scale"),
    (lambda: torch.linalg.cholesky(-torch.eye(2)), "torch cannot use there"),
    (lambda: torch.ones(3) - torch.ones(3, 3).max(0), "by its name"),
    (lambda: torch.ones(3) / torch.ones(3).shape, "one length"),
    (lambda: torch.ones(2).requires_grad_().add_(1), "keeps a record"),
    (lambda: torch.cat([torch.ones(()), torch.ones(())]), "single numbers have none"),
    (lambda: torch.ones(6, 4) @ torch.ones(2, 4, 4).double(), "different kinds"),
]


@pytest.mark.parametrize("check", CHECKS)
def test_no_error_of_torchs_reaches_a_student_in_torchs_words(check: Callable[..., bool]) -> None:
    for spoilt, words in SPOILT:
        with pytest.raises((RuntimeError, ValueError, TypeError, IndexError)) as caught:
            spoilt()
        hint = hint_for(check, lambda *given, spoilt=spoilt: spoilt())
        assert words.lower() in hint.lower()
        assert str(caught.value).partition("\n")[0] not in hint


def test_an_error_names_the_line_that_stopped() -> None:
    def answer(z: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        width = log_scale.exp()
        return z @ width

    hint = hint_for(chapter00.check_gaussian_log_density, answer)
    assert "stopped at `return z @ width`" in hint


def pairs() -> Iterator[tuple[Callable[..., bool], Callable[..., Any], int, int]]:
    """Every check with each of its right answers, and two of its arguments."""
    for check, answer in RIGHT:
        names = list(inspect.signature(answer).parameters)
        for i, j in itertools.combinations(range(len(names)), 2):
            yield check, answer, i, j


@pytest.mark.parametrize(("check", "answer", "i", "j"), [*pairs()])
def test_arguments_in_the_wrong_order_get_no_generic_hint(
    check: Callable[..., bool],
    answer: Callable[..., Any],
    i: int,
    j: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = list(inspect.signature(answer).parameters)

    def swapped(*given: Any) -> Any:
        other = list(given)
        other[i], other[j] = given[j], given[i]
        return answer(*other)

    swapped.__signature__ = inspect.signature(answer)  # type: ignore[attr-defined]
    if check(swapped):
        return  # two arguments that the right formula treats alike
    said = capsys.readouterr().out
    named = f"`{names[i]}` and `{names[j]}` in each other's place"
    assert named in said or not re.search("term by term|Your function stopped|shape", said)


IN_BITS: list[tuple[Callable[..., bool], Callable[..., Any]]] = [
    (check, lambda *given, answer=answer: answer(*given) / math.log(2))
    for check, answer in RIGHT
    # What these return is a sample or a latent, and has no unit.
    if check not in (chapter02.check_sample, chapter03.check_ancestral, chapter06.check_step)
]


@pytest.mark.parametrize(("check", "answer"), IN_BITS)
def test_bits_are_told_from_nats(check: Callable[..., bool], answer: Callable[..., Any]) -> None:
    assert "in bits" in hint_for(check, answer)


def test_hints_tell_the_mistakes_of_a_check_apart(capsys: pytest.CaptureFixture[str]) -> None:
    said: dict[Callable[..., None], set[str]] = {}
    for mistake in MISTAKES:
        mistake.check(mistake.answer)
        # Several mistakes may stop a function for one reason, each at a line of its own.
        reason = re.sub(r"Your function stopped at `.*`\. ", "", capsys.readouterr().out)
        said.setdefault(mistake.check, set()).add(reason)
    shared = [label(m) for m in MISTAKES if sum(m.hint in hint for hint in said[m.check]) != 1]
    assert shared == []
