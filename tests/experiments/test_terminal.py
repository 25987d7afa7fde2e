"""What a terminal, a pipe and the system do to a command: encodings, streams, signals, width."""

import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

import flowvae_tutorial
import flowvae_tutorial.experiments.commands as command_line
from flowvae_tutorial import VAE, build, evaluate, load_pretrained
from flowvae_tutorial.data import DATA_SETS, load
from flowvae_tutorial.experiments.records import (
    _nll,
    book_results,
    paired_table,
    read_records,
    table,
)
from flowvae_tutorial.experiments.tables import aligned
from flowvae_tutorial.models import BOOK_MODELS, MODELS
from flowvae_tutorial.pretrained import pretrained_models
from flowvae_tutorial.storage.checkpoints import load_checkpoint

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
COMMANDS = ["train", "evaluate", "sample", "reproduce", "refine", "report"]


def say(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["flowvae", *line.split()])
    with pytest.raises(SystemExit) as end:
        command_line.main()
    assert end.value.code is None or isinstance(end.value.code, int)
    return end.value.code or 0, *capsys.readouterr()


def in_a_shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", line.replace("flowvae", f"{sys.executable} -m flowvae_tutorial")],
        cwd=folder, env=ENVIRONMENT | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


# --- encodings, streams and signals -----------------------------------------------------------


def test_an_encoding_without_these_signs_has_others_for_them(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for path in book_results().glob("rings-*-seed[01].json"):
        (tmp_path / "few" / path.name).write_bytes(path.read_bytes())
    answer = in_a_shell("flowvae report --results few", tmp_path, PYTHONIOENCODING="cp1252")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "| first - second |" in answer.stdout
    assert re.search(r"\| rings-[\w-]+ - rings-[\w-]+ \| -?\d", answer.stdout)
    helped = in_a_shell("flowvae reproduce --help", tmp_path, PYTHONIOENCODING="cp1252")
    assert helped.returncode == 0 and "SEEDS - 1" in helped.stdout


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_a_closed_stderr_stops_nothing(tmp_path: Path) -> None:
    line = "flowvae train --data rings --epochs 1 --samples 2 2>&-"
    answer = in_a_shell(line, tmp_path)
    assert answer.returncode == 0 and "nats per example" in answer.stdout


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_sigterm_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flowvae_tutorial", "train", "--data", "rings", "--epochs", "9999"],
        cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    checkpoint = tmp_path / "runs" / "rings-gaussian-seed0" / "checkpoint.pt"
    end = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    (said,) = (line for line in err.splitlines() if line.startswith("stopped: "))
    assert "checkpoint.pt keeps the last finished epoch" in said
    assert len(load_checkpoint(checkpoint)["history"]["loss"]) > 0


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("way", ["module", "script"])
def test_ctrl_c_amid_the_imports_is_silent_and_a_deaf_command_stays_deaf(
    way: str, tmp_path: Path
) -> None:
    """A torch in its place, which takes long to import, says when it is reached."""
    (tmp_path / "torch.py").write_text("print('here', flush=True)\nimport time\ntime.sleep(1.5)\n")
    script = tmp_path / "flowvae"
    script.write_text("from flowvae_tutorial.experiments.commands import main\nmain()\n")
    line = ["-m", "flowvae_tutorial"] if way == "module" else [str(script)]
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    for handler, code in ((signal.SIG_DFL, 130), (signal.SIG_IGN, 1)):
        process = subprocess.Popen(
            [sys.executable, *line, "--version"], text=True, env=ENVIRONMENT | {"PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda handler=handler: signal.signal(signal.SIGINT, handler),
        )  # fmt: skip
        assert process.stdout and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code
        # This torch has nothing in it.
        assert (out, "KeyboardInterrupt" in err, "ImportError" in err) == ("", False, code == 1)


def test_ctrl_c_where_nothing_is_kept_is_one_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "read_records", interrupted)
    assert say("report", monkeypatch, capsys) == (130, "", "stopped\n")


# --- options ----------------------------------------------------------------------------------


def test_version_and_completion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = f"flowvae_tutorial {flowvae_tutorial.__version__}\n"
    assert say("--version", monkeypatch, capsys) == (0, expected, "")
    assert "--install-completion" in say("--help", monkeypatch, capsys)[1]


@pytest.mark.parametrize("width", ["60", "80", "120"])
def test_no_help_breaks_a_name_in_two(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    helps = {name: say(f"{name} --help", monkeypatch, capsys)[1] for name in COMMANDS}
    assert [line for text in helps.values() for line in text.splitlines() if line[-1:] == "-"] == []
    named = {"train": [*MODELS, *DATA_SETS], "evaluate": pretrained_models(), "refine": DATA_SETS}
    for name, words in named.items():
        assert [word for word in words if not re.search(rf"\b{word}\b", helps[name])] == []


def test_one_number_of_samples_is_the_default_everywhere() -> None:
    called = typer.main.get_command(command_line.app).commands
    defaults = [inspect.signature(f).parameters["num_samples"].default
                for f in (evaluate, VAE.log_marginal)]  # fmt: skip
    for name in ("train", "evaluate", "reproduce"):
        defaults += [option.default for option in called[name].params if option.name == "samples"]
    assert defaults == [5000] * 5


# --- report -----------------------------------------------------------------------------------


def test_report_takes_some_models_with_spaces_between_and_the_newest_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for path in book_results().glob("dynamic-mnist-*-seed0.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    # With blanks in it, a list is one argument all the same.
    line = ["report", "--results", str(folder), "--models", "flow-both, gaussian"]
    monkeypatch.setattr(sys, "argv", ["flowvae", *line])
    with pytest.raises(SystemExit):
        command_line.main()
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| dynamic-")]
    names = [row.split()[1].removeprefix("dynamic-mnist-") for row in rows]
    assert names == ["flow-both", "gaussian"]
    newest = sorted(read_records(folder), key=lambda record: record["date"], reverse=True)
    _, out, _ = say(f"report --results {folder}", monkeypatch, capsys)
    assert out == f"{table(newest)}\n\n{paired_table(newest)}\n"
    assert len({record["date"] for record in newest}) > 1
    code, _, err = say(f"report --results {folder} --models vamp2", monkeypatch, capsys)
    assert code == 2 and "'vamp2'" in err and "gaussian" in err


def test_report_finds_what_train_wrote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for path in book_results().glob("rings-gaussian-seed[01].json"):
        run = tmp_path / "runs" / path.stem
        run.mkdir(parents=True)
        (run / path.name).write_bytes(path.read_bytes())
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "notes" / "other.json").write_text("[]")
    line = f"report --results {tmp_path / 'runs'}"
    code, out, _ = say(line, monkeypatch, capsys)
    assert code == 0 and "| rings-gaussian | 2 |" in out
    code, _, err = say(f"{line} --data digits", monkeypatch, capsys)
    assert code == 2 and "no records of digits" in err


def test_a_table_is_aligned_on_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plain, _ = say("report --data digits-binary", monkeypatch, capsys)
    monkeypatch.setattr(command_line, "_speak_anywhere", lambda: None)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, shown, _ = say("report --data digits-binary", monkeypatch, capsys)
    for one, other in zip(plain.split("\n\n"), shown.split("\n\n"), strict=True):
        rows = other.strip().splitlines()
        assert len({len(row) for row in rows}) == 1
        places = {tuple(i for i, c in enumerate(row) if c == "|") for row in rows}
        assert len(places) == 1
        assert (
            re.sub("-+", "---", re.sub(" +", " ", other)).split()
            == re.sub("-+", "---", one).split()
        )
        assert aligned(aligned(one.strip())) == aligned(one.strip()) == other.strip()


def test_reproduce_says_first_how_much_there_is_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "at_once", lambda job, work, jobs: ["no"] * len(work))
    _, out, _ = say("reproduce --data rings --seeds 3 --jobs 4 --epochs 7", monkeypatch, capsys)
    assert out.startswith(f"runs to do: {3 * len(BOOK_MODELS)}, of up to 7 epochs each, 4 at once")


def test_names_may_have_spaces_after_their_commas(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        command_line, "at_once", lambda job, work, jobs: asked.extend(work) or ["no", "no"]
    )
    line = ["reproduce", "--data", "rings", "--seeds", "1", "--models", "gaussian, mixture"]
    monkeypatch.setattr(sys, "argv", ["flowvae", *line])
    with pytest.raises(SystemExit):
        command_line.main()
    assert [model for model, *_ in asked] == ["gaussian", "mixture"]


# --- what takes long says how long ------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 2])
def test_whatever_takes_more_than_two_seconds_shows_the_time_that_is_left(
    delay: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flowvae_tutorial.training.progress.DELAY", delay)
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.STEPS", (0, 1))
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.LATENTS", 20)
    records = "flowvae_tutorial.experiments.records"
    monkeypatch.setattr(f"{records}.prior_gap", lambda *args: torch.zeros(1))
    rest = "--data digits --models gaussian --seeds 1 --epochs 1"
    run = "runs/digits-gaussian-seed0/checkpoint.pt"
    bars = {
        f"reproduce {rest} --samples 30": ["test NLL", "test figures"],
        f"evaluate {run} --samples 30": ["test NLL", "test figures"],
        f"sample {run} --refine-steps 3": ["refinement"],
        f"refine {rest}": ["classifier", "refinement"],
        "report --results results --pictures drawn": [
            "models of digits", "reconstructions", "samples"
        ],
    }  # fmt: skip
    for line, names in bars.items():
        code, _, err = say(line, monkeypatch, capsys)
        assert code == 0, err
        for name in names:
            if delay:
                assert not re.search(rf"{name}: +0%", err)
            else:
                assert re.search(rf"{name}: +100%.*\[\d\d:\d\d<00:00", err), name


@pytest.mark.parametrize("name", ["gaussian", "hierarchical-vampprior", "flow-both"])
def test_a_bar_of_the_refinement_counts_every_step_and_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    vae = load_pretrained(name)
    monkeypatch.setattr("flowvae_tutorial.training.progress.DELAY", 0)
    monkeypatch.setattr("flowvae_tutorial.refinement.CHUNK", 4)
    monkeypatch.setattr(command_line, "CHUNK", 4)
    drawn: list[torch.Tensor] = []
    for bar in (contextlib.nullcontext(), command_line._refinement_bar(vae, 10, 5)):
        torch.manual_seed(0)
        with bar:
            drawn.append(vae.sample(10, mean=True, refine_steps=5))
    assert torch.equal(*drawn)
    assert re.search(r"refinement: 100%.* 18/18 ", capsys.readouterr().err), "5 and a look, thrice"
    assert not vae.prior._forward_hooks


def test_a_bar_of_the_nll_counts_every_sample_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = load("rings")
    data = replace(data, test=data.test[:300])
    vae = build("gaussian", data)
    counted: list[int] = []

    class Bar:
        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *args: object) -> None:
            pass

        def update(self, n: int) -> bool:
            counted.append(n)
            return True  # as tqdm does when it has drawn

    monkeypatch.setattr("flowvae_tutorial.experiments.records.slow_bar", lambda **of: Bar())
    # Fewer at once, so that there are parts.
    monkeypatch.setattr("flowvae_tutorial.vae.CHUNK", 3000)
    found = []
    for measure in (lambda: _nll(vae, data.test, 35, 0, None, True),
                    lambda: -vae.log_marginal(data.test, 35)):  # fmt: skip
        torch.manual_seed(0)
        found.append(measure())
    assert torch.equal(*found)
    assert counted == [10, 10, 10, 5]
    assert not vae.likelihood._forward_hooks
