"""Any command line at all: an exit code, at most one line of error, and nothing lost.

`FLOWVAE_EXAMPLES=50000` tries so many in each test, and others.
"""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

import flowvae_tutorial.experiments.commands as command_line
from flowvae_tutorial.data import DATA_SETS, Data
from flowvae_tutorial.experiments.record_files import read, run_name
from flowvae_tutorial.experiments.records import RUNS
from flowvae_tutorial.experiments.refinement_records import REFINEMENTS
from flowvae_tutorial.models import MODELS
from flowvae_tutorial.storage.trained import load_trained

MANY = int(os.environ.get("FLOWVAE_EXAMPLES", "0"))
WHOLE_RINGS = DATA_SETS["rings"]
RUN = "rings-gaussian-seed0"
EVALUATED = f"evaluations/{RUN}.json"


def few_rings() -> Data:
    rings = WHOLE_RINGS()
    return replace(
        rings, train=rings.train[:60], validation=rings.validation[:20], test=rings.test[:20],
        labels={part: rings.labels["train"][:n] for part, n in (("train", 60), ("test", 20))},
    )  # fmt: skip


def run(line: list[str]) -> tuple[int, str, str]:
    """The exit code and the output; what is no exit is raised."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["flowvae", *line]
    try:
        # A line that a command warns of is one that it ends well after.
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                command_line.main()
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0, out.getvalue(), err.getvalue()
    finally:
        sys.argv = argv
    raise AssertionError("a command ends with an exit code")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a run of each kind and what might be given in the place of one."""
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
        patch.setitem(DATA_SETS, "rings", few_rings)
        records = "flowvae_tutorial.experiments.records"
        patch.setattr(f"{records}.prior_gap", lambda *args: torch.zeros(1))
        patch.setattr("flowvae_tutorial.experiments.refinement_records.STEPS", (0, 1))
        patch.setattr("flowvae_tutorial.experiments.refinement_records.LATENTS", 20)
        patch.setenv("FLOWVAE_DATA", str(Path(name) / "nothing"))

        def refuse(*args: object, **kwargs: object) -> None:
            raise OSError("there is no network")

        patch.setattr("urllib.request.urlopen", refuse)
        os.chdir(name)
        try:
            for line in (
                "train --data rings --epochs 1 --samples 2",
                "evaluate runs/rings-gaussian-seed0/checkpoint.pt --samples 2",
                "reproduce --data rings --epochs 1 --samples 2 --seeds 1 --models gaussian --out r",
                "refine --data rings --epochs 1 --seeds 1 --models gaussian --out r",
            ):
                assert run(line.split())[0] == 0
            Path("file").write_text("precious")
            torch.save(torch.rand(50, 3), "points.pt")
            torch.save({"train": "words"}, "words.pt")
            yield Path(name)
        finally:
            os.chdir(before)


VALUES = {
    "--data": ["rings", "points.pt", "words.pt", "file", "nowhere.npz", "cifar", "static-mnist"],
    "--model": ["gaussian", "mixture-k2", "vampprior-k3", "vampprior", "vamp2", "mixture-k0"],
    "--models": ["gaussian", "gaussian, mixture-k2", "gaussian,,", "vampprior-k900", ",", "vae"],
    "--betas": ["1", "1,0.5", "nan", "inf", "-1", "1,", "1e400", "0", "0.5,0.5", "½"],
    "--beta": ["1", "0", "nan", "inf", "-1", "1e30"],
    "--epochs": ["2", "1", "0", "-1", "1.5"],
    "--samples": ["3", "2", "0", "1e3"],
    "--seeds": ["1", "0", "2", "9" * 30],
    "--seed": ["0", "1", "-1", "9" * 30],
    "--batch-size": ["64", "1000", "0", "-3"],
    "--device": ["cpu", "auto", "tpu", "cuda:99", ""],
    "--jobs": ["1", "0"],
    "--out": ["runs", "new", "file", "file/in", "x" * 300, "samples.png", "", "a\nb"],
    "--results": ["results", "new", "file", "runs", "r", "x" * 300, ""],
    "--pictures": ["drawn", "file", "file/in"],
    "--count": ["3", "0", "9" * 30],
    "--refine-steps": ["1", "-1", "0"],
}
FLAGS = ["--resume", "--overwrite", "--help", "--version", "--fly"]
TAKES = {
    "train": "--model --data --epochs --batch-size --seed --beta --samples --device --out",
    "evaluate": "--data --samples --device --out",
    "sample": "--out --count --refine-steps --seed --device",
    "reproduce": "--data --seeds --models --betas --epochs --samples --device --results --out",
    "refine": "--data --seeds --models --epochs --device --results --out",
    "report": "--results --data --models --pictures --out",
}
# What keeps a command small, unless the line says otherwise.
SMALL = {
    "train": "--data rings --epochs 1 --samples 2",
    "evaluate": f"runs/{RUN}/checkpoint.pt --samples 2",
    "sample": f"runs/{RUN}/weights.safetensors --count 3",
    "reproduce": "--data rings --epochs 1 --samples 2 --seeds 1 --models gaussian --jobs 1",
    "refine": "--data rings --epochs 1 --seeds 1 --models gaussian",
    "report": "--results results",
}
ANYTHING = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A line that works, with options that are added, changed, cut or repeated."""
    name = draw(st.sampled_from(sorted(TAKES)))
    line = [name, *SMALL[name].split()]
    for option in draw(st.lists(st.sampled_from(TAKES[name].split()), max_size=2)):
        # Mostly what is near to sense: noise ends in the parser.
        near = st.sampled_from(VALUES[option])
        value = draw(st.one_of(*[st.sampled_from(VALUES[option][:2])] * 6, near, near, ANYTHING))
        line += [option, value]
    if draw(st.integers(0, 9)) == 3:
        line.insert(draw(st.integers(0, len(line))), draw(st.sampled_from(FLAGS)))
    if draw(st.integers(0, 4)) == 3:
        line.append("--overwrite")
    if draw(st.integers(0, 19)) == 3:
        del line[draw(st.integers(0, len(line) - 1))]
    if draw(st.integers(0, 19)) == 3:
        line[draw(st.integers(0, len(line) - 1))] = draw(ANYTHING)
    return line


def kept(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Whatever comes to lie in the folder, afterwards it is as it was."""
    whole = Path(f"{folder}-whole")
    if not whole.exists():
        shutil.copytree(folder, whole)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        os.chdir(folder)


def examples(count: int) -> Callable[..., Any]:
    return settings(
        max_examples=MANY or count, deadline=None, derandomize=not MANY, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@examples(100)
@given(line=lines())
@example(line=["reproduce", *SMALL["reproduce"].split(), "--epochs", "2"])
@example(line=["reproduce", *SMALL["reproduce"].split(), "--samples", "3"])
@example(line=["evaluate", *SMALL["evaluate"].split(), "--samples", "3"])
def test_any_line_ends_in_a_code_with_at_most_one_line_of_error_and_loses_nothing(
    folder: Path, line: list[str]
) -> None:
    before = kept(folder)
    with untouched(folder):
        code, out, err = run(line)
        event(f"{line[0] if line and line[0] in TAKES else 'no command'} {code}")
        assert code in (0, 1, 2)
        assert "Traceback" not in out + err
        # A bar stands before it, and so do the runs that failed, each with its reason.
        said = re.findall(r"^(?:Error|error): .*", err.replace("\r", "\n"), re.MULTILINE)
        assert len(said) == (code != 0 and bool(line)), err
        after = kept(folder)
        if "--overwrite" not in line and "--resume" not in line:
            replaced = {name for name in before if after.get(name) != before[name]}
            # Pictures are drawn anew.
            assert {n for n in replaced if not n.endswith(".png")} <= {EVALUATED}
            # What is evaluated again is the same but for the day.
            old, new = (json.loads(state[EVALUATED]) for state in (before, after))
            assert old["nll"] == new["nll"] and old["num_samples"] == new["num_samples"]
        if code == 0 and line[0] == "reproduce" and not {"--help", "--version"} & set(line):
            # No record of something else stands for what was asked for.
            asked = dict(itertools.pairwise(line))
            place = Path(asked.get("--results", "results"))
            weight = float(asked.get("--betas", "1").split(",")[0])
            data = Path(asked.get("--data", "digits")).stem
            for model in asked.get("--models", "").split(","):
                path = place / f"{run_name(model.strip(), data, weight, 0)}.json"
                record = json.loads(path.read_bytes())
                found = {"--epochs": record["epochs"], "--samples": record["num_samples"]}
                assert {option: int(asked[option]) for option in found} == found
        assert before.keys() <= after.keys()
        for path in folder.rglob("*.json"):
            # A record of one kind or the other, and whole.
            read(REFINEMENTS if b'"anchors"' in path.read_bytes() else RUNS, path)
        for path in folder.rglob("checkpoint.pt"):
            load_trained(path)
        assert not list(folder.rglob("*.before"))


# --- values that make no sense, and some that do ----------------------------------------------


def near_names(names: list[str]) -> st.SearchStrategy[str]:
    """Names with a letter too few, too many or another."""
    letters = st.sampled_from("aeknrstz0-_. ;'\"%")
    name, place = st.sampled_from(names), st.integers(0, 9)
    changed = st.one_of(
        st.builds(lambda name, i: name[:i] + name[i + 1 :], name, place),
        st.builds(lambda name, i, letter: name[:i] + letter + name[i:], name, place, letters),
        st.builds(lambda name, i, letter: name[:i] + letter + name[i + 1 :], name, place, letters),
    )
    return changed.filter(lambda text: text.strip() not in names and "," not in text)


def whole_numbers(least: int, most: int) -> st.SearchStrategy[str]:
    outside = st.one_of(st.integers(max_value=least - 1), st.integers(min_value=most + 1))
    return st.one_of(outside.map(str), st.sampled_from(["1.5", "1e3", "", "x", "0x3", "½", "1,2"]))


WORDS = st.sampled_from(["nan", "-nan", "inf", "-inf", "1e400", "Infinity", "", "x", "1;2", "½"])
WEIGHTS = st.one_of(
    WORDS, st.floats(max_value=-1e-300).map(str), st.floats(min_value=1.1e30).map(str)
)
# Names that are built from a number of components are names, too.
MODEL_NAMES = near_names(sorted(MODELS)).filter(lambda name: "-k" not in name)
SENSELESS = {
    "--seed": whole_numbers(0, 2**31 - 1), "--seeds": whole_numbers(1, 10_000),
    "--epochs": whole_numbers(1, 2**31 - 1), "--samples": whole_numbers(1, 2**31 - 1),
    "--batch-size": whole_numbers(1, 2**31 - 1),
    "--count": whole_numbers(1, 10_000), "--refine-steps": whole_numbers(0, 2**31 - 1),
    "--beta": WEIGHTS,
    "--betas": st.builds("{1},{0}".format, WEIGHTS.filter(lambda w: w != "1,2"), st.just("1")),
    "--device": near_names(["auto", "cpu", "cuda", "mps"]),
    "--data": near_names(sorted(DATA_SETS)),
    "--model": MODEL_NAMES, "--models": st.builds("gaussian,{}".format, MODEL_NAMES),
}  # fmt: skip
FRESH = "--out new --results newer"
LISTS = {
    "--models": st.lists(st.sampled_from(["gaussian", "mixture-k2", "vampprior-k3"]), min_size=1),
    "--betas": st.lists(st.floats(0, 9).map(lambda weight: f"{weight:.3g}"), min_size=1),
}


@st.composite
def senseless_lines(draw: st.DrawFn) -> tuple[list[str], str]:
    """A line that works but for the value of one option."""
    name = draw(st.sampled_from(sorted(TAKES)))
    option = draw(st.sampled_from([each for each in TAKES[name].split() if each in SENSELESS]))
    fresh = {"train": "--out new", "reproduce": FRESH, "refine": FRESH}.get(name, "").split()
    return [name, *SMALL[name].split(), *fresh, option, draw(SENSELESS[option])], option


@examples(150)
@given(which=senseless_lines())
@example(which=(["reproduce", *SMALL["reproduce"].split(), "--betas", "1,1.1e+30"], "--betas"))
@example(which=(["report", "--results", "results", "--data", "d.igits"], "--data"))
def test_a_value_that_makes_no_sense_is_named_and_nothing_done(
    folder: Path, which: tuple[list[str], str]
) -> None:
    line, option = which
    event(f"{line[0]} {option}")
    before = kept(folder)
    with untouched(folder):
        code, _, err = run(line)
        assert code == 2, err
        said = err.splitlines()[-1]
        assert re.match("[Ee]rror: ", said) and len(re.findall("(?m)^[Ee]rror", err)) == 1
        wrong = line[-1].split(",")[-1].strip()
        assert wrong in said or option.strip("-").rstrip("s") in said.replace("_", "-")
        assert "look at the data" not in said and "epoch" not in err.replace(said, "")
        assert kept(folder) == before


@st.composite
def sensible_lines(draw: st.DrawFn) -> list[str]:
    option = draw(st.sampled_from(sorted(LISTS)))
    between = draw(st.sampled_from([",", ", ", " ,"]))
    line = ["reproduce", *SMALL["reproduce"].split(), *FRESH.split()]
    return [*line, option, between.join(draw(LISTS[option])[:3])]


@examples(10)
@given(line=sensible_lines())
def test_a_list_makes_sense_with_blanks_and_twice_the_same(folder: Path, line: list[str]) -> None:
    with untouched(folder):
        code, _, err = run(line)
        assert code == 0, err
        named = {each.strip() for each in line[-1].split(",")}
        key = "model" if line[-2] == "--models" else "beta"
        found = [json.loads(path.read_text())[key] for path in Path("newer").iterdir()]
        assert sorted(found) == sorted(named if key == "model" else {float(n) for n in named})
