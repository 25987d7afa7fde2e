"""The commands: what they print and leave behind, and one line for every mistake.

Run as a script, this file is the command line itself, on data small enough for tests.
"""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file
from torch import Tensor

import flowvae_tutorial.__main__ as command_line
from flowvae_tutorial import VAE, build
from flowvae_tutorial.checkpoints import load_checkpoint
from flowvae_tutorial.data import DATA_SETS, Data, load
from flowvae_tutorial.models import BOOK_MODELS, MODELS
from flowvae_tutorial.records import read_records
from flowvae_tutorial.refinement_records import read_refinements, refinement_table

RUN = "rings-gaussian-seed0"


def few_rings() -> Data:
    rings = WHOLE_RINGS()
    return replace(
        rings, train=rings.train[:200], validation=rings.validation[:50], test=rings.test[:50],
        labels={"train": rings.labels["train"][:200]},
    )  # fmt: skip


WHOLE_RINGS = DATA_SETS["rings"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Call the command line in this process, in an empty folder, with small rings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATA_SETS, "rings", few_rings)

    def call(line: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["flowvae_tutorial", *line.split()])
        with pytest.raises(SystemExit) as end:
            command_line.main()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, *capsys.readouterr())

    return call


TRAIN = "train --data rings --epochs 3 --samples 20"
REPRODUCE = "reproduce --data rings --epochs 2 --samples 20 --seeds 2"
ONE_RUN = "reproduce --data rings --epochs 2 --samples 20 --seeds 1 --models gaussian"


def mistake(outcome: Outcome, code: int = 2) -> str:
    """The one line of a refused command; the bar of a run that had begun may stand before it."""
    assert outcome.code == code
    assert "Traceback" not in outcome.out + outcome.err
    lines = [line for line in outcome.err.splitlines() if "epoch/s" not in line]
    assert len([line for line in lines if line.strip()]) == 1, outcome.err
    assert lines[-1].startswith("error: ")
    return lines[-1]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# --- train ------------------------------------------------------------------------------------


def test_train_ends_with_a_table_that_agrees_with_its_record(
    command: Command, tmp_path: Path
) -> None:
    outcome = command(TRAIN)
    assert outcome.code == 0
    (record,) = read_records(tmp_path / "runs" / RUN)
    nll = f"{record['nll']['mean']:.2f} ± {record['nll']['standard_error']:.2f}"
    head, *lines = outcome.out.splitlines()
    assert head == (
        f"gaussian on rings, seed 0: best epoch {record['best_epoch']} of 3; 50 test examples, "
        "S = 20"
    )
    found = {line[2:17].strip(): line[17:].split("  nats")[0].strip() for line in lines[:5]}
    assert found == {
        "NLL": nll, "ELBO": f"{record['elbo']:.2f}",
        "reconstruction": f"{record['reconstruction']:.2f}", "KL": f"{record['kl'][0]:.2f}",
        "active units": f"{record['active_units']} of 2",
    }  # fmt: skip
    assert all("nats per example" in line for line in lines[:4])
    assert "3/3" in outcome.err, "a progress bar"


def assert_picture(path: Path) -> None:
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 300
    assert pixels[..., :3].std() > 0.05, "the picture is not blank"


def test_train_leaves_a_picture_a_record_and_weights_that_load(
    command: Command, tmp_path: Path
) -> None:
    out = command(TRAIN + " --model mixture --seed 3 --out there").out
    folder = tmp_path / "there" / "rings-mixture-seed3"
    assert sorted(file.name for file in folder.iterdir()) == [
        "checkpoint.pt", "rings-mixture-seed3.json", "samples.png", "weights.safetensors"
    ]  # fmt: skip
    for path in re.findall(r"(?:pictures|weights): +(.+)", out):
        assert (tmp_path / path).is_file()
    assert_picture(folder / "samples.png")
    vae = build("mixture", few_rings())
    vae.load_state_dict(load_file(folder / "weights.safetensors"))
    best = load_checkpoint(folder / "checkpoint.pt")["best"]
    assert all(torch.equal(value, best[name]) for name, value in vae.state_dict().items())


def test_a_second_run_is_refused_without_resume_and_keeps_every_file(
    command: Command, tmp_path: Path
) -> None:
    command(TRAIN)
    before = files(tmp_path)
    said = mistake(command(TRAIN))
    assert "--resume" in said and f"runs/{RUN}/checkpoint.pt" in said
    assert files(tmp_path) == before


def test_a_resumed_run_ends_with_the_weights_of_one_that_never_stopped(
    command: Command, tmp_path: Path
) -> None:
    command(TRAIN.replace("3", "5") + " --out whole")
    command(TRAIN)
    outcome = command(TRAIN.replace("3", "5") + " --resume")
    assert outcome.code == 0
    ends = [load_file(tmp_path / f / RUN / "weights.safetensors") for f in ("whole", "runs")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert read_records(tmp_path / "runs" / RUN)[0]["epochs"] == 5


def test_resume_without_anything_to_resume_starts_the_run(command: Command) -> None:
    assert command(TRAIN + " --resume").code == 0


def test_beta_and_seed_reach_the_run(command: Command, tmp_path: Path) -> None:
    command(TRAIN + " --beta 0.25 --seed 2")
    (record,) = read_records(tmp_path / "runs" / "rings-gaussian-beta0.25-seed2")
    assert (record["beta"], record["seed"]) == (0.25, 2)
    state = load_checkpoint(tmp_path / "runs" / "rings-gaussian-beta0.25-seed2" / "checkpoint.pt")
    assert (state["run"]["beta"], state["run"]["seed"]) == (0.25, 2)


def test_two_stages_hold_the_encoder_and_decoder_of_the_first_and_train_the_prior(
    command: Command, tmp_path: Path
) -> None:
    command(TRAIN)
    command(TRAIN + " --model two-stage-flow-prior")
    first, second = (
        load_file(tmp_path / "runs" / name / "weights.safetensors")
        for name in (RUN, RUN.replace("gaussian", "two-stage-flow-prior"))
    )
    assert first.keys() < second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert second["prior.loc"].any(), "the prior has learned"


def test_the_readmes_command_trains_on_digits(tmp_path: Path) -> None:
    arguments = "train --model gaussian --data digits --epochs 2 --samples 20".split()
    answer = subprocess.run(
        [sys.executable, "-m", "flowvae_tutorial", *arguments],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"NLL +-?\d+\.\d\d ± \d+\.\d\d  nats per example", answer.stdout)
    assert "active units" in answer.stdout and "360 test examples" in answer.stdout
    assert "Warning" not in answer.stderr
    folder = tmp_path / "runs" / "digits-gaussian-seed0"
    assert_picture(folder / "samples.png")
    assert read_records(folder)[0]["num_test"] == 360
    build("gaussian", load("digits")).load_state_dict(load_file(folder / "weights.safetensors"))


# --- stopped by hand --------------------------------------------------------------------------

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def start(line: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *line.split()], cwd=folder, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def test_active_units_are_counted_of_both_levels(command: Command) -> None:
    out = command(TRAIN + " --model hvae").out
    assert re.search(r"active units +[0-4] of 4\n", out)


def test_ctrl_c_keeps_the_checkpoint_and_says_how_to_go_on(
    command: Command, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "runs" / RUN / "checkpoint.pt"
    process = start("train --data rings --epochs 100000", tmp_path)
    wait_for(checkpoint, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    (said,) = (line for line in err.splitlines() if line.startswith("stopped:"))
    assert err.splitlines()[-1] == said
    assert f"runs/{RUN}/checkpoint.pt" in said and "--resume" in said
    done = len(load_checkpoint(checkpoint)["history"]["loss"])
    assert command(f"{TRAIN} --resume --epochs {done + 1}").code == 0
    assert read_records(tmp_path / "runs" / RUN)[0]["epochs"] == done + 1


@pytest.mark.parametrize("where", ["evaluate", "prior_gap"])
def test_ctrl_c_during_the_evaluation_says_how_to_go_on_too(
    command: Command, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"flowvae_tutorial.records.{where}", interrupted)
        outcome = command(TRAIN)
    assert outcome.code == 130
    assert "--resume" in outcome.err.splitlines()[-1]
    assert command(TRAIN + " --resume").code == 0


# --- reproduce and report ---------------------------------------------------------------------

NAMES = [f"rings-{model}-seed{seed}.json" for model in BOOK_MODELS for seed in (0, 1)]


def same_figures(one: Path, other: Path) -> bool:
    """Whether two folders hold the same records, apart from how long they took."""
    records = [
        [r | {"seconds": 0, "date": ""} for r in read_records(folder)] for folder in (one, other)
    ]
    return records[0] == records[1]


def test_reproduce_writes_a_record_a_run_and_does_nothing_twice(
    command: Command, tmp_path: Path
) -> None:
    outcome = command(REPRODUCE)
    assert outcome.code == 0
    assert sorted(f.name for f in (tmp_path / "results").iterdir()) == sorted(NAMES)
    assert {(r["model"], r["seed"]) for r in read_records(tmp_path / "results")} == {
        (model, seed) for model in BOOK_MODELS for seed in (0, 1)
    }
    table = [line.split(" | ")[:2] for line in outcome.out.splitlines()[-len(BOOK_MODELS) :]]
    assert table == [
        [f"| rings-{model}", "2"] for model in sorted(BOOK_MODELS, key=lambda m: f"{m}-seed")
    ]

    before = files(tmp_path)
    again = command(REPRODUCE)
    assert files(tmp_path) == before
    assert again.out.count("its record is there") == len(NAMES)


def test_reproduce_redoes_a_record_that_is_gone_and_no_other(
    command: Command, tmp_path: Path
) -> None:
    command(REPRODUCE + " --models gaussian")
    before = files(tmp_path / "results")
    (tmp_path / "results" / f"{RUN}.json").unlink()
    command(REPRODUCE + " --models gaussian")
    after = files(tmp_path / "results")
    assert after["rings-gaussian-seed1.json"] == before["rings-gaussian-seed1.json"]
    old, new = (json.loads(state[f"{RUN}.json"][1]) for state in (before, after))
    assert new | {"date": ""} == old | {"date": ""}


def test_a_killed_reproduce_goes_on_where_it_was(command: Command, tmp_path: Path) -> None:
    line = "reproduce --data rings --models gaussian --epochs 20 --samples 20 --seeds 3"
    process = start(line, tmp_path)
    try:
        wait_for(tmp_path / "results" / f"{RUN}.json", process)
        wait_for(tmp_path / "runs" / "rings-gaussian-seed1" / "checkpoint.pt", process)
    finally:
        process.kill()
        process.communicate()
    done = files(tmp_path / "results")
    assert len(done) < 3
    assert command(line).code == 0
    assert files(tmp_path / "results").items() >= done.items(), "no finished run was touched"
    command(line + " --results whole --out others")
    assert same_figures(tmp_path / "results", tmp_path / "whole")


def test_reproduce_runs_every_beta_with_its_own_record(command: Command, tmp_path: Path) -> None:
    command(ONE_RUN + " --betas 0.5,1")
    found = {f.name: json.loads(f.read_text())["beta"] for f in (tmp_path / "results").iterdir()}
    assert found == {"rings-gaussian-beta0.5-seed0.json": 0.5, f"{RUN}.json": 1}


def test_report_prints_both_tables(command: Command) -> None:
    command(REPRODUCE + " --models gaussian,mixture")
    outcome = command("report --results results")
    assert (outcome.code, outcome.err) == (0, "")
    first, second = outcome.out.strip().split("\n\n")
    assert first.startswith("| run | seeds | NLL ") and "| rings-mixture | 2 | " in first
    assert second.startswith("| first − second | NLL difference, nats [95 % interval] |")
    difference = r"\| rings-gaussian − rings-mixture \| -?\d+\.\d\d \[-?\d+\.\d\d, -?\d+\.\d\d\] \|"
    assert re.search(difference, second)


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train --model vamp2 --data rings", ["'vamp2'", *MODELS]),
        ("train --data cifar", ["'cifar'", *DATA_SETS]),
        ("train --data rings --epochs 0", ["epochs=0"]),
        ("train --data rings --beta -1", ["beta=-1"]),
        ("train --data rings --device tpu", ["'tpu'", "cpu"]),
        ("reproduce --data cifar", ["'cifar'", *DATA_SETS]),
        ("reproduce --data rings --models gaussian,vamp2", ["'vamp2'", *MODELS]),
        ("reproduce --data rings --betas 1,x", ["'1,x'", "numbers"]),
        ("report --results nowhere", ["nowhere", "reproduce"]),
        ("report --results nowhere --data cifar", ["cifar"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    command: Command, tmp_path: Path, line: str, says: list[str]
) -> None:
    said = mistake(command(line))
    assert [word for word in says if word not in said] == []
    assert files(tmp_path) == {}


@pytest.mark.parametrize("line", ["train --samples 0", "train --seed -1", "train --seed x", "fly"])
def test_a_misused_option_is_explained_without_a_traceback(command: Command, line: str) -> None:
    outcome = command(line)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err and "Error" in outcome.err


def test_a_seed_beyond_torchs_range_is_refused_without_a_traceback(command: Command) -> None:
    outcome = command(TRAIN + " --seed 100000000000000")
    assert outcome.code == 2 and outcome.err.strip()


def test_no_command_shows_the_help(command: Command) -> None:
    outcome = command("")
    assert all(name in outcome.out + outcome.err for name in ("train", "reproduce", "report"))


def test_no_network_is_one_line_that_says_what_to_put_where(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("FLOWVAE_DATA", str(tmp_path / "cache"))
    for data, folder in (("dynamic-mnist", "MNIST/raw"), ("static-mnist", "binarized_mnist")):
        said = mistake(command(f"train --data {data}"))
        assert str(tmp_path / "cache" / folder) in said and "'digits'" in said


def test_a_damaged_checkpoint_is_one_line_and_is_left_alone(
    command: Command, tmp_path: Path
) -> None:
    command(TRAIN)
    checkpoint = tmp_path / "runs" / RUN / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    before = files(tmp_path)
    said = mistake(command(TRAIN + " --resume"))
    assert "checkpoint.pt is damaged" in said
    assert files(tmp_path) == before


@pytest.mark.parametrize("line", ["report --results results", ONE_RUN])
def test_a_damaged_record_is_one_line_that_names_it(
    command: Command, tmp_path: Path, line: str
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / f"{RUN}.json").write_text('{"model": "gauss')
    assert f"{RUN}.json is damaged" in mistake(command(line))


def test_a_loss_that_turns_nan_is_one_line_and_exit_code_1(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = VAE.forward, 0

    def spoilt(vae: VAE, x: Tensor, beta: float = 1.0) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(vae, x, beta) * (float("nan") if calls == 7 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(VAE, "forward", spoilt)
        said = mistake(command(TRAIN), code=1)
    assert "nan at epoch 2, step 3" in said
    checkpoint = tmp_path / "runs" / RUN / "checkpoint.pt"
    assert len(load_checkpoint(checkpoint)["history"]["loss"]) == 1
    assert command(TRAIN + " --resume").code == 0


@pytest.mark.parametrize("line", [TRAIN + " --out file", ONE_RUN + " --results file"])
def test_a_folder_that_is_a_file_is_one_line(command: Command, tmp_path: Path, line: str) -> None:
    (tmp_path / "file").write_text("precious")
    assert "file" in mistake(command(line))
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, an always full disk")
@pytest.mark.parametrize(
    "file",
    ["checkpoint.pt.part", "weights.safetensors.part", f"{RUN}.json.part", "samples.png.part"],
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_with_room_again(
    command: Command, tmp_path: Path, file: str
) -> None:
    full = tmp_path / "runs" / RUN / file
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    assert "No space left" in mistake(command(TRAIN))
    full.unlink(missing_ok=True)
    assert command(TRAIN + " --resume").code == 0


@pytest.mark.parametrize("file", ["weights.safetensors", "samples.png", f"{RUN}.json"])
def test_an_output_that_cannot_be_written_is_one_line(
    command: Command, tmp_path: Path, file: str
) -> None:
    (tmp_path / "runs" / RUN / file / "in the way").mkdir(parents=True)
    mistake(command(TRAIN))


# --- refine -----------------------------------------------------------------------------------

REFINE = "refine --data digits --epochs 1 --seeds 2 --models gaussian"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae_tutorial.refinement_records.STEPS", (0, 2))
    monkeypatch.setattr("flowvae_tutorial.refinement_records.LATENTS", 50)


@pytest.mark.usefixtures("quick")
def test_refine_writes_a_record_a_run_and_does_nothing_twice(
    command: Command, tmp_path: Path
) -> None:
    outcome = command(REFINE)
    assert outcome.code == 0
    folder = tmp_path / "results" / "refinement"
    assert sorted(file.name for file in folder.iterdir()) == [
        "digits-gaussian-seed0.json", "digits-gaussian-seed1.json"
    ]  # fmt: skip
    records = read_refinements(folder)
    assert [(r["model"], r["seed"], r["epochs"]) for r in records] == [
        ("gaussian", 0, 1), ("gaussian", 1, 1)
    ]  # fmt: skip
    assert records[0]["log_prob"] != records[1]["log_prob"]
    assert outcome.out.endswith(refinement_table(records) + "\n")
    before = files(tmp_path)
    again = command(REFINE)
    assert files(tmp_path) == before
    assert again.out.count("its record is there") == 2


@pytest.mark.usefixtures("quick")
def test_refine_takes_the_model_that_reproduce_has_trained(
    command: Command, tmp_path: Path
) -> None:
    command(REFINE.replace("refine", "reproduce") + " --samples 2")
    trained = files(tmp_path / "runs")
    assert command(REFINE).code == 0
    assert files(tmp_path / "runs") == trained
    alone = read_refinements(tmp_path / "results" / "refinement")
    command(REFINE + " --results others --out elsewhere")
    assert read_refinements(tmp_path / "others") == alone, "and trains the same one without it"
    assert len(read_records(tmp_path / "results")) == 2


def test_ctrl_c_during_a_refinement_says_how_to_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flowvae_tutorial.refinement_records.refine", interrupted)
    outcome = command(REFINE)
    assert outcome.code == 130
    last = outcome.err.splitlines()[-1]
    assert last.startswith("stopped:") and "digits-gaussian-seed0/checkpoint.pt" in last
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("refine --models gaussian,vamp2", ["'vamp2'", *MODELS]),
        ("refine --data cifar", ["'cifar'", *DATA_SETS]),
        ("refine --data rings", ["'rings' has no labels"]),
        ("refine --device tpu", ["'tpu'", "cpu"]),
    ],
)
def test_a_mistake_in_refine_is_one_line_and_leaves_no_file(
    command: Command, tmp_path: Path, line: str, says: list[str]
) -> None:
    said = mistake(command(line))
    assert [word for word in says if word not in said] == []
    assert files(tmp_path) == {}


if __name__ == "__main__":
    # Inherited from a shell's background job, an ignored signal would stay ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    DATA_SETS["rings"] = few_rings
    command_line.main()
