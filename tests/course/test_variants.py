"""Questions from templates: other numbers for another seed, right answers, on no page."""

import math
import re
import sys
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import pytest

import classroom
import variants
from test_classroom import PACKAGE
from test_exercises import CHAPTERS
from variants import Variant

SEEDS = range(12)


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"[-+]?\d+(?:\.\d+)?", text.replace("−", "-"))]


@cache
def made(seed: int) -> dict[str, Variant]:
    return variants.variants(seed)


def given(number: str, seed: int) -> Variant:
    return made(seed)[number]


def test_each_chapter_has_two_and_their_names_are_not_those_of_the_bank() -> None:
    names = list(variants.variants(1))
    assert names == [f"V{chapter}.{place}" for chapter in range(len(CHAPTERS)) for place in (1, 2)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_gives_the_same_test_twice_and_finite_answers(seed: int) -> None:
    assert made(seed) == variants.variants(seed)
    for each in made(seed).values():
        assert re.search(r"\d", each.answer)
        assert not re.search(r"\b(?:nan|inf)\b", each.answer)
        assert each.question.rstrip()[-1] in ".?"
        assert each.question.count("$") % 2 == 0 and each.answer.count("$") % 2 == 0


@pytest.mark.parametrize("number", list(variants.variants(1)))
def test_other_seeds_give_other_numbers_and_other_answers(number: str) -> None:
    asked = {given(number, seed).question for seed in range(40)}
    answered = {given(number, seed).answer for seed in range(40)}
    assert len(asked) >= 3 and len(answered) >= 3


# Answers that the templates let the package compute, by hand.


@pytest.mark.parametrize("seed", SEEDS)
def test_a_kl_term_is_that_of_the_closed_form(seed: int) -> None:
    each = given("V1.1", seed)
    m1, m2, s1, s2 = numbers(each.question)[:4]
    costs = [0.5 * (m**2 + s**2 - 1 - 2 * math.log(s)) for m, s in ((m1, s1), (m2, s2))]
    told = numbers(each.answer.partition("cost ")[2])
    assert told[:3] == pytest.approx([*costs, sum(costs)], abs=2e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lower_level_costs_more_against_a_prior_that_does_not_follow(seed: int) -> None:
    each = given("V3.1", seed)
    first, second = map(float, re.findall(r"N\((?:z_2 )?([-+]?[\d.]+), 1\)", each.question)[:2])
    told = re.findall(r"costs (?:\(a\) )?([\d.]+)", each.answer)
    assert float(told[0]) == pytest.approx(first**2 / 2, abs=1e-3)
    assert float(told[1].rstrip(".")) == pytest.approx(second**2 / 2, abs=1e-3)
    [last] = re.findall(r"\(b\) ([\d.]+):", each.answer)
    assert float(last) == pytest.approx(((first + second) ** 2 + 1) / 2, abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_steps_uphill_shrink_the_distance_by_one_factor(seed: int) -> None:
    each = given("V6.1", seed)
    [lr], [anchor] = (
        re.findall(rf"{name} = ([\d.]+)\$", each.question) for name in (r"\\eta", r"\\kappa")
    )
    [start] = re.findall(r"starts at ([-\d.]+) and", each.question)
    [steps] = re.findall(r"after (\d) steps", each.question)
    rest = 2 * float(anchor) / (1 + 2 * float(anchor)) * float(start)
    factor = (1 - float(lr) * (1 + 2 * float(anchor))) ** int(steps)
    end, rests = re.findall(r"at ([-\d.]+\d)", each.answer)
    assert float(end) == pytest.approx(rest + factor * (float(start) - rest), abs=1e-3)
    assert float(rests) == pytest.approx(rest, abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fold_is_where_the_product_rule_turns_the_slope(seed: int) -> None:
    each = given("V5.2", seed)
    [c] = re.findall(r"-([\d.]+) \\tanh", each.question)
    [u] = re.findall(r"u = ([\d.]+)\$", each.question)
    s = -float(c) * math.tanh(float(u))
    slope = math.exp(s) * (1 - float(u) * float(c) / math.cosh(float(u)) ** 2)
    [told] = re.findall(r"slope is (-?[\d.]+\d)", each.answer)
    assert float(told) == pytest.approx(slope, abs=1e-3)
    assert ("The map folds" in each.answer) == (slope < 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_losses_of_a_diffusion_step_agree(seed: int) -> None:
    answer = given("V7.1", seed).answer
    first, *_, again = re.findall(r"\d+\.\d+", answer)
    assert float(first) == pytest.approx(float(again), rel=1e-3)


# Where they go.


def test_the_teachers_pack_has_them_for_a_seed_and_no_other_pack_or_page_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classroom, "package", lambda: PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["classroom.py", "instructor", "--seed", "7"])
    classroom.main()
    archive = ZipFile(tmp_path / "dist" / "instructor.zip")
    for name, text in variants.pages(7).items():
        assert archive.read(f"instructor/questions/{name}").decode() == text
    assert "seed 7" in archive.read("instructor/README.md").decode()
    assert not [name for name in classroom.instructor() if name.startswith("questions")]
    assert not [name for name in classroom.student([]) if "questions" in name]
    bank = (classroom.BOOK / "course" / "question_bank.md").read_text(encoding="utf-8")
    for each in variants.variants(7).values():
        assert each.question not in bank


def test_answers_are_on_a_page_of_their_own() -> None:
    asked, kept = variants.pages(3)["questions-3.md"], variants.pages(3)["answers-3.md"]
    for number, each in variants.variants(3).items():
        assert f"## {number}: {each.title}" in asked and f"## {number}: {each.title}" in kept
        assert each.answer not in asked and each.question not in kept
