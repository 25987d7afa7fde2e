"""The commands: what they print and leave behind, and one line for every mistake.

Run as a script, this file is the command line itself, on data small enough for tests; or, told so,
the process that kills it time and again: see `killed_reproduce`.
"""

import contextlib
import errno
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from called import Command, Outcome
from matplotlib.image import imread
from safetensors.torch import load_file
from torch import Tensor

import flowvae_tutorial.experiments.commands as command_line
from flowvae_tutorial import VAE, build
from flowvae_tutorial.data import DATA_SETS, Data, load, outline
from flowvae_tutorial.experiments import records
from flowvae_tutorial.experiments.records import Record, read_records
from flowvae_tutorial.experiments.refinement_records import read_refinements, refinement_table
from flowvae_tutorial.history import History, Validation
from flowvae_tutorial.models import BOOK_MODELS, MODELS
from flowvae_tutorial.pretrained import pretrained_models
from flowvae_tutorial.storage.checkpoints import load_checkpoint
from flowvae_tutorial.storage.trained import Trained, save_trained
from flowvae_tutorial.training import loop as training

RUN = "rings-gaussian-seed0"


def few_rings() -> Data:
    rings = WHOLE_RINGS()
    return replace(
        rings, train=rings.train[:200], validation=rings.validation[:50], test=rings.test[:50],
        labels={"train": rings.labels["train"][:200]},
    )  # fmt: skip


WHOLE_RINGS = DATA_SETS["rings"]


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Call the command line in this process, in an empty folder, with small rings."""
    monkeypatch.setitem(DATA_SETS, "rings", few_rings)
    return command


TRAIN = "train --data rings --epochs 3 --samples 20"
# In this process: another one knows nothing of the small rings.
REPRODUCE = "reproduce --data rings --epochs 2 --samples 20 --seeds 2 --jobs 1"
ONE_RUN = "reproduce --data rings --epochs 2 --samples 20 --seeds 1 --models gaussian"


def mistake(outcome: Outcome, code: int = 2) -> str:
    """The one line of a refused command; the bar of a run that had begun may stand before it."""
    assert outcome.code == code
    assert "Traceback" not in outcome.out + outcome.err
    # The bar of a slow machine counts seconds an epoch.
    lines = [line for line in outcome.err.splitlines() if not re.search("epoch/s|s/epoch", line)]
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


@contextlib.contextmanager
def stopped_after(epochs: int) -> Iterator[None]:
    """Ctrl-C in the epoch after so many, of all stages."""
    validate, calls = training._validate, 0

    def interrupted(vae: VAE, x: Tensor) -> Validation:
        nonlocal calls
        calls += 1
        if calls > epochs:
            raise KeyboardInterrupt
        return validate(vae, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_validate", interrupted)
        yield


def test_a_resumed_run_ends_with_the_weights_of_one_that_never_stopped(
    command: Command, tmp_path: Path
) -> None:
    line = TRAIN.replace("3", "5")
    command(line + " --out whole")
    with stopped_after(3):
        assert command(line).code == 130
    outcome = command(line + " --resume")
    assert outcome.code == 0
    ends = [load_file(tmp_path / f / RUN / "weights.safetensors") for f in ("whole", "runs")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert read_records(tmp_path / "runs" / RUN)[0]["epochs"] == 5


@pytest.mark.parametrize("model", ["gaussian", "two-stage-flow-prior"])
def test_a_run_goes_on_only_to_the_epochs_over_which_its_step_falls(
    command: Command, tmp_path: Path, model: str
) -> None:
    line = TRAIN + f" --model {model}"
    command(line)
    before = files(tmp_path)
    for epochs in ("2", "5"):
        said = mistake(command(line.replace("3", epochs) + " --resume"))
        assert f"checkpoint.pt is of another run, it differs in epochs (3 there, {epochs}" in said
        assert files(tmp_path) == before
    assert command(line.replace("3", "5") + " --overwrite").code == 0
    (record,) = read_records(tmp_path / "runs" / RUN.replace("gaussian", model))
    assert record["epochs"] == 5


def test_resume_without_anything_to_resume_starts_the_run(command: Command) -> None:
    assert command(TRAIN + " --resume").code == 0


def test_beta_and_seed_reach_the_run(command: Command, tmp_path: Path) -> None:
    command(TRAIN + " --beta 0.25 --seed 2")
    (record,) = read_records(tmp_path / "runs" / "rings-gaussian-beta0.25-seed2")
    assert (record["beta"], record["seed"]) == (0.25, 2)
    state = load_checkpoint(tmp_path / "runs" / "rings-gaussian-beta0.25-seed2" / "checkpoint.pt")
    assert (state["run"]["beta"], state["run"]["seed"]) == (0.25, 2)


@pytest.mark.parametrize(("option", "size"), [("", 64), (" --batch-size 37", 37)])
def test_a_batch_size_reaches_the_run_and_its_record(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, size: int
) -> None:
    forward, seen = VAE.forward, []

    def spy(vae: VAE, x: Tensor, beta: float = 1.0) -> Tensor:
        seen.append(len(x))
        return forward(vae, x, beta)

    monkeypatch.setattr(VAE, "forward", spy)
    assert command(TRAIN + option).code == 0
    assert seen[0] == size and sum(seen) == 3 * 200
    assert read_records(tmp_path / "runs" / RUN)[0]["settings"]["batch_size"] == size


def test_a_run_goes_on_only_with_its_own_batch_size(command: Command) -> None:
    command(TRAIN + " --batch-size 37")
    assert "differs in batch_size" in mistake(command(TRAIN + " --resume"))
    assert command(TRAIN + " --resume --batch-size 37").code == 0


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


def test_two_stages_resumed_keep_the_first_that_the_second_stands_on(
    command: Command, tmp_path: Path
) -> None:
    line = TRAIN + " --model two-stage-flow-prior"
    name = RUN.replace("gaussian", "two-stage-flow-prior")
    command(line + " --out whole")
    with stopped_after(3 + 1):
        assert command(line).code == 130
    kept = tmp_path / "runs" / name / "first-stage.pt"
    before = files(kept.parent)["first-stage.pt"]
    assert command(line + " --resume").code == 0
    assert files(kept.parent)["first-stage.pt"] == before
    ends = [load_file(tmp_path / f / name / "weights.safetensors") for f in ("whole", "runs")]
    assert all(torch.equal(ends[0][part], ends[1][part]) for part in ends[0])


def test_a_run_stopped_in_its_first_stage_says_what_is_kept_and_goes_on_if_asked(
    command: Command, tmp_path: Path
) -> None:
    line = TRAIN + " --model two-stage-flow-prior"
    with stopped_after(1):
        stopped = command(line)
    assert stopped.code == 130
    assert "first-stage.pt keeps the last finished epoch" in stopped.err
    assert "--resume" in stopped.err
    refused = command(line)
    assert refused.code == 2 and "first-stage.pt holds a run already" in refused.err
    assert command(line + " --resume").code == 0


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
    with stopped_after(2):
        assert command("train --data rings --epochs 100000 --resume").code == 130
    assert len(load_checkpoint(checkpoint)["history"]["loss"]) == done + 2, "it went on from there"


@pytest.mark.parametrize("where", ["evaluate", "prior_gap"])
def test_ctrl_c_during_the_evaluation_says_how_to_go_on_too(
    command: Command, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"flowvae_tutorial.experiments.records.{where}", interrupted)
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
    today = {"date": "", "sha256": ""}
    assert new | today == old | today


def test_reproduce_runs_every_beta_with_its_own_record(command: Command, tmp_path: Path) -> None:
    command(ONE_RUN + " --betas 0.5,1 --jobs 1")
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


@pytest.mark.skipif(os.name == "nt", reason="needs process groups")
def test_ctrl_c_stops_reproduce_in_two_processes_with_one_line(
    command: Command, tmp_path: Path
) -> None:
    line = "reproduce --data rings --seeds 1 --models gaussian,mixture,hvae --epochs 100000"
    process = subprocess.Popen(
        [sys.executable, "-m", "flowvae_tutorial", *line.split(), "--jobs", "2"], cwd=tmp_path,
        env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
        # Inherited from a shell's background job, an ignored signal would stay ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        for model in ("gaussian", "mixture"):
            wait_for(tmp_path / "runs" / RUN.replace("gaussian", model) / "checkpoint.pt", process)
        # As a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert len(re.findall("stopped: ", err)) == 1
    assert err.rstrip().endswith(
        "stopped: checkpoints in runs keep the last finished epochs; the same command goes on from "
        "there"
    )
    assert sorted(file.name for file in (tmp_path / "runs").iterdir()) == [
        RUN, RUN.replace("gaussian", "mixture")
    ], "the third model does not begin"  # fmt: skip
    assert not (tmp_path / "results").exists()


# --- reproduce, killed ------------------------------------------------------------------------

KILLED = "reproduce --data rings --models gaussian,mixture --epochs 100 --samples 20 --seeds 2"


def run_command(line: str, folder: Path, start_method: str) -> None:
    """The command in this process, a fork, and in a session of its own; it does not return."""
    os.setsid()
    os.chdir(folder)
    quiet = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method: get_context(start_method)  # type: ignore
    if start_method == "fork":
        # Otherwise most kills would come in the seconds that it takes.
        records.prior_gap = lambda *args: torch.zeros(1)
    sys.argv = ["flowvae_tutorial", *line.split()]
    try:
        command_line.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(1)


def killed_reproduce(folder: Path, tries: int, seed: int, start_method: str) -> None:
    """Kill `reproduce` with all its processes at random moments; then let it end; report.

    Begins anew where it has ended before it could be killed. Commands are forked from a process
    that never computes, so that nothing of torch's is forked amid work.
    """
    # Imported by the first training step and the first record otherwise, in each process anew and
    # for seconds.
    for name in ("torch._dynamo", "jsonschema"):
        importlib.import_module(name)

    def start(line: str) -> int:
        pid = os.fork()
        if pid == 0:
            run_command(line, folder, start_method)
        return pid

    def ended_well(pid: int) -> bool:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def ended(pid: int) -> bool:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)

    def checkpoints() -> dict[Path, int]:
        found = sorted((folder / "runs").rglob("checkpoint.pt"))
        return {path: path.stat().st_mtime_ns for path in found}

    begin = time.monotonic()
    assert ended_well(start(f"{KILLED} --jobs 1 --results whole --out whole-runs"))
    duration = (time.monotonic() - begin) / 2
    moments = random.Random(seed)
    done: dict[str, tuple[int, bytes]] = {}
    kills = 0
    while kills < tries:
        moment = moments.uniform(0.02, 0.5) * duration
        before, over = checkpoints(), False
        pid = start(f"{KILLED} --jobs 2")
        while start_method == "spawn" and not over and checkpoints() == before:
            # Its processes import torch, for seconds.
            time.sleep(0.01)
            over = ended(pid)
        time.sleep(moment)
        if over or ended(pid):
            shutil.rmtree(folder / "results")
            shutil.rmtree(folder / "runs")
            done = {}
            continue
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        # What a user would find: every file can be read, and what was finished is as it was.
        epochs = [len(load_checkpoint(path)["history"]["loss"]) for path in checkpoints()]
        now = files(folder / "results")
        whole = {name: content for name, content in now.items() if name.endswith(".json")}
        assert whole.items() >= done.items(), "no finished run was touched"
        assert not whole or len(read_records(folder / "results")) == len(whole)
        done = whole
        halves = [path.name for path in sorted(folder.rglob("*.part"))]
        print(json.dumps([round(moment, 3), epochs, len(done), halves]))
    assert ended_well(start(f"{KILLED} --jobs 2"))
    assert files(folder / "results").items() >= done.items(), "no finished run was touched"


def assert_a_killed_reproduce_ends_as_if_it_had_not(
    folder: Path, tries: int, seed: int, start_method: str
) -> None:
    answer = subprocess.run(
        [sys.executable, __file__, "kill", str(folder), str(tries), str(seed), start_method],
        capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    output = folder / "output.txt"
    assert answer.returncode == 0, answer.stderr + (output.read_text() if output.exists() else "")
    print("seconds, epochs in each checkpoint, records, half-written files", answer.stdout)
    kills = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(kills) == tries
    assert any(0 < n < 100 for _, epochs, _, _ in kills for n in epochs), "no kill came amid a run"
    assert same_figures(folder / "results", folder / "whole")
    assert len(read_records(folder / "results")) == 4
    # Those of the kills themselves have names with a dot, and go after an hour.
    assert not list(folder.rglob("[!.]*.part")), "a half-done evaluation stays"
    assert "Traceback" not in output.read_text()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
def test_a_reproduce_killed_at_5_random_moments_ends_with_the_figures_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    # Forked, its processes need not import torch: that alone would take a minute.
    assert_a_killed_reproduce_ends_as_if_it_had_not(tmp_path, 5, seed=0, start_method="fork")


@needs_fork
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("tries", "start_method"), [(50, "fork"), (5, "spawn")])
def test_a_reproduce_killed_at_more_random_moments_ends_with_the_figures_of_one_that_was_not(
    tmp_path: Path, tries: int, start_method: str
) -> None:
    assert_a_killed_reproduce_ends_as_if_it_had_not(tmp_path, tries, 1, start_method)


# --- evaluate ---------------------------------------------------------------------------------


def figures(outcome: Outcome) -> list[str]:
    """The table of one run's figures."""
    assert outcome.code == 0, outcome.err
    return outcome.out.splitlines()[:6]


def undated(folder: Path) -> Record:
    (record,) = read_records(folder)
    return record | {"date": ""}


@pytest.mark.parametrize("file", ["checkpoint.pt", "weights.safetensors"])
@pytest.mark.parametrize("model", ["gaussian", "hierarchical-vampprior"])
def test_evaluate_prints_and_records_what_train_did(
    command: Command, tmp_path: Path, file: str, model: str
) -> None:
    trained = command(f"{TRAIN} --model {model} --seed 3 --beta 0.5")
    run = f"rings-{model}-beta0.5-seed3"
    before = files(tmp_path / "runs")
    outcome = command(f"evaluate runs/{run}/{file} --samples 20")
    assert figures(outcome) == figures(trained)
    assert outcome.out.splitlines()[6:] == [f"record: evaluations/{run}.json"]
    assert undated(tmp_path / "evaluations") == undated(tmp_path / "runs" / run)
    assert files(tmp_path / "runs") == before, "the run is left as it is"
    assert [path.name for path in (tmp_path / "evaluations").iterdir()] == [f"{run}.json"]


def test_evaluate_takes_another_number_of_samples_and_another_folder(
    command: Command, tmp_path: Path
) -> None:
    command(TRAIN)
    outcome = command(f"evaluate runs/{RUN}/checkpoint.pt --samples 7 --out new/folder")
    assert figures(outcome)[0].endswith("S = 7")
    assert undated(tmp_path / "new" / "folder")["num_samples"] == 7
    assert not (tmp_path / "evaluations").exists()


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ctrl-C in the evaluation's part of this number."""
    log_marginal, calls = VAE.log_marginal, 0

    def interrupted(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return log_marginal(vae, x, num_samples)

    monkeypatch.setattr(VAE, "log_marginal", interrupted)


@pytest.mark.parametrize(
    ("part", "says"),
    [(3, f"{RUN}.part keeps the test examples that are done; the same command goes on"),
     (1, "nothing was finished")],
    ids=["third part", "first part"],
)  # fmt: skip
def test_a_stopped_evaluation_goes_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, says: str
) -> None:
    monkeypatch.setattr("flowvae_tutorial.experiments.records.PART", 10)
    line = f"evaluate runs/{RUN}/checkpoint.pt --samples 20"
    trained = command(TRAIN)
    with monkeypatch.context() as patch:
        stop_at(patch, part)
        outcome = command(line)
    assert outcome.code == 130
    last = outcome.err.splitlines()[-1]
    assert last.startswith("stopped:") and says in last and "--resume" not in last
    assert not list(tmp_path.glob("evaluations/*.json"))
    with monkeypatch.context() as patch:
        stop_at(patch, 7 - part)  # one more than there are left
        again = command(line)
    assert figures(again) == figures(trained)
    assert undated(tmp_path / "evaluations") == undated(tmp_path / "runs" / RUN)
    assert [path.name for path in (tmp_path / "evaluations").iterdir()] == [f"{RUN}.json"]


@pytest.mark.parametrize("command_name", ["train", "reproduce"])
def test_a_stopped_evaluation_goes_on_with_the_training_and_leaves_nothing_behind(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_name: str
) -> None:
    monkeypatch.setattr("flowvae_tutorial.experiments.records.PART", 10)
    line = ONE_RUN if command_name == "reproduce" else TRAIN
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert command(line).code == 130
    assert (tmp_path / "runs" / RUN / "evaluation.part").exists()
    with monkeypatch.context() as patch:
        stop_at(patch, 3)  # two parts are left
        assert command(line + " --resume" * (command_name == "train")).code == 0
    assert not list(tmp_path.rglob("*.part"))
    folder = tmp_path / ("results" if command_name == "reproduce" else f"runs/{RUN}")
    found = undated(folder)
    command(f"evaluate runs/{RUN}/checkpoint.pt --samples 20")
    assert undated(tmp_path / "evaluations") == found


@pytest.mark.parametrize("line", ["evaluate {}", "sample {}"])
def test_a_trained_model_that_cannot_be_read_is_one_line_and_leaves_no_file(
    command: Command, tmp_path: Path, line: str
) -> None:
    said = mistake(command(line.format("runs/nowhere/checkpoint.pt")))
    assert "runs/nowhere/checkpoint.pt" in said
    assert all(name in said for name in pretrained_models()), "there are some by name"
    assert files(tmp_path) == {}
    for name in ("checkpoint.pt", "weights.safetensors", "notes.txt"):
        (tmp_path / name).write_text("precious")
        before = files(tmp_path)
        assert f"{name} is damaged or no" in mistake(command(line.format(name)))
        assert files(tmp_path) == before


# --- sample -----------------------------------------------------------------------------------


def no_data() -> Data:
    raise AssertionError("a data set was loaded")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Weights of a model of images whose data are not to be had."""
    monkeypatch.setitem(DATA_SETS, "dynamic-mnist", no_data)
    torch.manual_seed(0)
    vae = build("vampprior-k5", outline("dynamic-mnist"))
    # Untrained, it would show the same grey in every place.
    for parameter in vae.likelihood.parameters():
        parameter.data *= 3
    history = History([1.0], [1.0], [0.5], best_epoch=1)
    trained = Trained(vae, "vampprior-k5", "dynamic-mnist", 0, 1.0, {}, history)
    save_trained(trained, tmp_path / "weights.safetensors")
    return "weights.safetensors --count 12"


def test_sample_draws_images_without_any_data(
    command: Command, tmp_path: Path, weights: str
) -> None:
    outcome = command(f"sample {weights} --out new/grid.png")
    assert (outcome.code, outcome.out, outcome.err) == (0, "new/grid.png\n", "")
    pixels = imread(tmp_path / "new" / "grid.png")
    assert pixels.shape[1] > 4 * pixels.shape[0], "ten in a row, two rows"
    assert pixels[..., :3].std() > 0.05
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grid.png"]


def test_sample_draws_points_beside_the_data(command: Command, tmp_path: Path) -> None:
    command(TRAIN)
    for file in ("checkpoint.pt", "weights.safetensors"):
        outcome = command(f"sample runs/{RUN}/{file}")
        assert (outcome.code, outcome.out) == (0, "samples.png\n")
        assert_picture(tmp_path / "samples.png")


def test_sample_repeats_with_its_seed_and_changes_with_seed_count_and_refinement(
    command: Command, tmp_path: Path, weights: str
) -> None:
    def picture(options: str = "") -> bytes:
        torch.manual_seed(len(found))  # nothing but --seed decides
        assert command(f"sample {weights} {options}").code == 0
        return (tmp_path / "samples.png").read_bytes()

    found: list[bytes] = []
    changes = ["", "--seed 1", "--count 9", "--refine-steps 5", "--refine-steps 6"]
    for options in changes:
        found.append(picture(options))
    assert len(set(found)) == len(changes)
    again = [picture(options) for options in ["--seed 0", "--seed 1", "--refine-steps 5"]]
    assert again == [found[0], found[1], found[3]]


def test_sample_hands_its_options_to_the_model(
    command: Command, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    asked: list[tuple[int, bool, int]] = []
    sample = VAE.sample

    def spy(vae: VAE, n: int, mean: bool = False, *, refine_steps: int = 0) -> Tensor:
        asked.append((n, mean, refine_steps))
        return sample(vae, n, mean, refine_steps=refine_steps)

    monkeypatch.setattr(VAE, "sample", spy)
    command(f"sample {weights} --refine-steps 4")
    command(TRAIN)
    command(f"sample runs/{RUN}/checkpoint.pt")
    # Means of pictures, and of points the samples themselves.
    assert asked[0] == (12, True, 4) and asked[-1] == (100, False, 0)


@pytest.mark.parametrize("out", ["grid.jpg", "grid", "png", "folder/grid.PNG.txt"])
def test_sample_refuses_to_write_anything_but_a_png(
    command: Command, tmp_path: Path, weights: str, out: str
) -> None:
    before = files(tmp_path)
    said = mistake(command(f"sample {weights} --out {out}"))
    assert ".png" in said and out in said
    assert files(tmp_path) == before


@pytest.mark.parametrize("option", ["--count 0", "--refine-steps -1", "--seed -1", "--count x"])
def test_sample_explains_a_misused_option(command: Command, weights: str, option: str) -> None:
    outcome = command(f"sample {weights} {option}")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err and "Error" in outcome.err


def test_a_picture_that_cannot_be_written_is_one_line(
    command: Command, tmp_path: Path, weights: str
) -> None:
    (tmp_path / "file").write_text("precious")
    assert "grid.png" in mistake(command(f"sample {weights} --out file/grid.png"))
    assert (tmp_path / "file").read_text() == "precious"


# --- report --pictures ------------------------------------------------------------------------


@pytest.fixture
def quick_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the one figure that takes seconds, and that no picture shows."""
    monkeypatch.setattr(
        "flowvae_tutorial.experiments.records.prior_gap", lambda *args: torch.zeros(1)
    )


@pytest.mark.usefixtures("quick_records")
def test_report_draws_reconstructions_and_samples_of_every_model_with_a_checkpoint(
    command: Command, tmp_path: Path
) -> None:
    line = "reproduce --data digits --epochs 1 --samples 2 --jobs 1"
    command(line + " --seeds 2 --models gaussian,vampprior-k5")
    command(line.replace("digits", "rings") + " --seeds 1 --models gaussian")
    shutil.rmtree(tmp_path / "runs" / "digits-gaussian-seed1")
    outcome = command("report --results results --pictures drawn/here")
    assert (outcome.code, outcome.err) == (0, "")
    folder = tmp_path / "drawn" / "here"
    names = ["digits-reconstructions.png", "digits-samples.png"]
    assert outcome.out.splitlines()[-2:] == [f"drawn/here/{name}" for name in names]
    assert sorted(path.name for path in folder.iterdir()) == names
    rows = {name: imread(folder / name) for name in names}
    assert all(pixels[..., :3].std() > 0.05 for pixels in rows.values())
    # A row of test images and one a model; of samples, one a model.
    assert rows[names[0]].shape[0] > 1.3 * rows[names[1]].shape[0]
    assert "| run | seeds |" in outcome.out
    drawn = files(folder)
    command("report --results results --pictures drawn/here")
    assert {name: content for name, (_, content) in files(folder).items()} == {
        name: content for name, (_, content) in drawn.items()
    }, "the same pictures every time"


@pytest.mark.usefixtures("quick_records")
@pytest.mark.parametrize("why", ["no checkpoint", "another folder", "points"])
def test_report_says_in_one_line_that_there_is_nothing_to_draw(
    command: Command, tmp_path: Path, why: str
) -> None:
    data = "rings" if why == "points" else "digits"
    command(f"reproduce --data {data} --epochs 1 --samples 2 --seeds 1 --models gaussian")
    if why == "no checkpoint":
        shutil.rmtree(tmp_path / "runs")
    where = "elsewhere" if why == "another folder" else "runs"
    outcome = command(f"report --results results --pictures drawn --out {where}")
    assert f"no checkpoint in {where}" in mistake(outcome)
    assert "| run | seeds |" in outcome.out, "the tables all the same"
    assert not (tmp_path / "drawn").exists()


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train --model vamp2 --data rings", ["'vamp2'", *MODELS]),
        ("train --data cifar", ["'cifar'", *DATA_SETS]),
        ("train --data rings --epochs 0", ["epochs", "got 0"]),
        ("train --data rings --batch-size 0", ["batch_size", "got 0"]),
        ("train --data rings --beta -1", ["beta", "got -1"]),
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


COMMANDS = ["train", "evaluate", "sample", "reproduce", "refine", "report"]


def test_no_command_shows_the_help(command: Command) -> None:
    outcome = command("")
    assert all(name in outcome.out + outcome.err for name in COMMANDS)
    assert sorted(typer.main.get_command(command_line.app).commands) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example_that_it_takes(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    outcome = command(f"{name} --help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"Example: python -m flowvae_tutorial {name} " in outcome.out
    called = typer.main.get_command(command_line.app).commands[name]
    # The help breaks a long line.
    (example,) = re.findall(rf"Example: python -m flowvae_tutorial {name} (.+)", called.help)
    done = []
    monkeypatch.setattr(called, "callback", lambda **options: done.append(options))
    called.main(example.split(), standalone_mode=False)
    assert len(done) == 1, "its options are understood"


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


@pytest.mark.parametrize(
    ("option", "size", "half"),
    [("", 64, "32"), (" --batch-size 5", 5, "2"), (" --batch-size 1", 1, "another device")],
)
def test_too_little_memory_for_a_batch_is_one_line_with_the_batch_to_try(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    size: int,
    half: str,
) -> None:
    forward, calls = VAE.forward, 0

    def out_of_memory(vae: VAE, x: Tensor, beta: float = 1.0) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 200 / size + 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has")
        return forward(vae, x, beta)

    with monkeypatch.context() as patch:
        patch.setattr(VAE, "forward", out_of_memory)
        said = mistake(command(TRAIN + option))
    assert f"batches of {size}: try {half}" in said
    checkpoint = tmp_path / "runs" / RUN / "checkpoint.pt"
    assert len(load_checkpoint(checkpoint)["history"]["loss"]) == 1, "the epoch before is kept"
    assert command(TRAIN + option + " --resume").code == 0


def test_too_little_memory_for_the_evaluation_is_one_line_too(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has")

    monkeypatch.setattr(VAE, "log_marginal", out_of_memory)
    assert "CUDA out of memory" in mistake(command(TRAIN), code=1)


@pytest.mark.parametrize("line", [TRAIN + " --out file", ONE_RUN + " --results file"])
def test_a_folder_that_is_a_file_is_one_line(command: Command, tmp_path: Path, line: str) -> None:
    (tmp_path / "file").write_text("precious")
    assert "file" in mistake(command(line))
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "file", ["checkpoint.pt", "weights.safetensors", f"{RUN}.json", "samples.png"]
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_with_room_again(
    command: Command, full_disk: Callable[[str | None], None], file: str
) -> None:
    full_disk(file)
    assert "No space left" in mistake(command(TRAIN))
    full_disk(None)
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
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.STEPS", (0, 2))
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.LATENTS", 50)


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


@pytest.mark.usefixtures("quick", "quick_records")
def test_refine_takes_the_model_that_reproduce_has_trained(
    command: Command, tmp_path: Path
) -> None:
    command(REFINE.replace("refine", "reproduce") + " --samples 2 --jobs 1")
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

    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.refine", interrupted)
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


# A process that `reproduce` starts imports this file under the second name.
if __name__ in ("__main__", "__mp_main__"):
    DATA_SETS["rings"] = few_rings

if __name__ == "__main__":
    # Inherited from a shell's background job, an ignored signal would stay ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[1] == "kill":
        killed_reproduce(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        command_line.main()
