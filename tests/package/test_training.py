"""Training: early stopping, warm-up, and checkpoints that survive whatever stops a run.

Run as a script, this file is the process that kills its own training runs: see `killed_runs`.
"""

import hashlib
import importlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvae_tutorial import VAE, History, InputError, build, fit
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.history import Validation
from flowvae_tutorial.models import Sizes
from flowvae_tutorial.storage.checkpoints import load_checkpoint
from flowvae_tutorial.storage.weights import read_tensors, write_tensors
from flowvae_tutorial.training import NotFinite, device_by_name
from flowvae_tutorial.training import loop as training

STEPS = 4  # an epoch, in the settings of these tests


@pytest.fixture
def data() -> Data:
    rings = load("rings")
    return replace(
        rings, train=rings.train[:200], validation=rings.validation[:100], test=rings.test[:100]
    )


def model(data: Data, kind: type[VAE] = VAE, hidden: int = 16, seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    parts = build("mixture", data, Sizes(latent=2, hidden=(hidden,), components=3))
    return kind(parts.prior, parts.posterior, parts.likelihood)


def run(vae: VAE, data: Data, epochs: int = 6, **settings: Any) -> History:
    """A run with a step so large that the last epoch is not always the best, and does not fall."""
    ours = {"batch_size": 200 // STEPS, "lr": 0.03, "decay": 0.0, "warmup": 2}
    return fit(vae, data, epochs=epochs, **ours | settings)


def weights(vae: VAE) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in vae.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- what a run does --------------------------------------------------------------------------


def test_training_raises_the_validation_elbo(data: Data) -> None:
    vae = model(data)
    before = vae.elbo(data.validation, 8).value.mean().item()
    history = run(vae, data, epochs=15)
    assert history.elbo[0] > before + 0.2
    assert max(history.elbo) > history.elbo[0] + 1
    assert history.seconds > 0


def test_the_model_ends_with_the_weights_of_its_best_epoch(data: Data) -> None:
    vae = model(data)
    history = run(vae, data, epochs=30, lr=0.1, seed=2)
    assert history.best_epoch < len(history.elbo), "else the last weights would pass, too"
    assert history.elbo[history.best_epoch - 1] == max(history.elbo)
    torch.manual_seed(training.VALIDATION_SEED)
    with torch.no_grad():
        now = vae.elbo(data.validation, training.VALIDATION_SAMPLES).value.mean().item()
    assert now == pytest.approx(max(history.elbo), abs=1e-4)


def test_the_history_holds_one_entry_an_epoch_and_the_elbo_at_beta_1(data: Data) -> None:
    history = run(model(data), data, epochs=5, beta=4)
    assert [len(x) for x in (history.loss, history.reconstruction, history.kl)] == [5, 5, 5]
    parts = zip(history.reconstruction, history.kl, strict=True)
    assert history.elbo == [reconstruction - kl for reconstruction, kl in parts]


@pytest.mark.parametrize(
    ("peak", "warmup", "patience", "last"),
    [(7, 0, 4, 11), (7, 3, 4, 11), (1, 0, 1, 2), (2, 10, 3, 13), (10, 10, 3, 13), (38, 5, 9, 40)],
)
def test_a_run_stops_patience_epochs_after_the_best_but_not_for_warm_up(
    data: Data, monkeypatch: pytest.MonkeyPatch, peak: int, warmup: int, patience: int, last: int
) -> None:
    elbos = iter(-abs(epoch - peak) / 10 for epoch in range(1, 41))
    monkeypatch.setattr(training, "_validate", lambda *_: Validation(next(elbos), 0, 0, -9))
    history = run(model(data), data, epochs=40, warmup=warmup, patience=patience)
    assert (history.best_epoch, len(history.loss)) == (peak, last)


class Recording(VAE):
    """Keeps the β of every step."""

    def forward(self, x: Tensor, beta: float = 1.0) -> Tensor:
        self.__dict__.setdefault("betas", []).append(beta)
        return super().forward(x, beta)


@pytest.mark.parametrize(
    ("warmup", "expected"), [(4, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]), (0, [0.5] * 6)]
)
def test_beta_rises_linearly_over_the_warm_up(
    data: Data, warmup: int, expected: list[float]
) -> None:
    vae = model(data, Recording)
    run(vae, data, beta=0.5, warmup=warmup)
    assert vae.__dict__["betas"] == [beta for beta in expected for _ in range(STEPS)]


def test_the_step_size_is_held_and_then_falls_linearly_to_zero(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    train_epoch = training._train_epoch

    def spy(vae: VAE, data: Data, optimizer: torch.optim.Optimizer, *rest: Any) -> float:
        seen.append(optimizer.param_groups[0]["lr"])
        return train_epoch(vae, data, optimizer, *rest)

    monkeypatch.setattr(training, "_train_epoch", spy)
    run(model(data), data, epochs=8, lr=0.01, decay=0.5)
    assert seen == pytest.approx([0.01] * 5 + [0.0075, 0.005, 0.0025])
    seen.clear()
    run(model(data), data, epochs=3, lr=0.01)
    assert seen == [0.01, 0.01, 0.01]


def test_a_decaying_run_resumes_bit_for_bit_and_only_with_the_same_epochs(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model(data)
    run(whole, data, epochs=6, decay=1.0)
    stopped = tmp_path / "checkpoint.pt"
    train_epoch = training._train_epoch

    def stop_in_epoch_4(*args: Any) -> float:
        if args[-1] == 4:
            raise KeyboardInterrupt
        return train_epoch(*args)

    monkeypatch.setattr(training, "_train_epoch", stop_in_epoch_4)
    with pytest.raises(KeyboardInterrupt):
        run(model(data), data, epochs=6, decay=1.0, checkpoint=stopped)
    monkeypatch.undo()
    again = model(data)
    run(again, data, epochs=6, decay=1.0, checkpoint=stopped)
    assert same(weights(whole), weights(again))
    for epochs in (5, 7):
        with pytest.raises(InputError, match=rf"\A[^\n]*epochs \(6 there, {epochs} here\)[^\n]*\Z"):
            run(model(data), data, epochs=epochs, decay=1.0, checkpoint=stopped)
    for decay in (0.0, 0.5):
        with pytest.raises(InputError, match=r"\A[^\n]*differs in decay:[^\n]*\Z"):
            run(model(data), data, epochs=6, decay=decay, checkpoint=stopped)


def test_by_default_the_step_falls_so_that_a_checkpoint_does_not_go_on_with_more_epochs(
    data: Data, tmp_path: Path
) -> None:
    path, vae = tmp_path / "run.pt", model(data)
    expected = fit(vae, data, epochs=2, checkpoint=path)
    content, before = path.read_bytes(), weights(vae)
    with pytest.raises(InputError) as error:
        fit(vae, data, epochs=4, checkpoint=path)
    assert one_line(error) == (
        f"{path} is of another run, it differs in epochs (2 there, 4 here), on which a falling "
        "step size depends: choose another file or delete it"
    )
    assert path.read_bytes() == content and same(weights(vae), before)
    assert fit(vae, data, epochs=2, checkpoint=path) == expected, "the same run is at its end"
    fit(model(data), data, epochs=2, decay=0.0, checkpoint=tmp_path / "held.pt")
    longer = fit(model(data), data, epochs=4, decay=0.0, checkpoint=tmp_path / "held.pt")
    assert len(longer.loss) == 4, "a step that is held lets it go on"


def test_by_default_no_run_stops_before_its_last_epoch(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    elbos = (Validation(-epoch, 0.0, -epoch, -epoch) for epoch in range(1000))
    monkeypatch.setattr(training, "_validate", lambda *_: next(elbos))
    monkeypatch.setattr(training, "_train_epoch", lambda *_: 0.0)
    history = fit(model(data), data)
    assert (history.best_epoch, len(history.loss)) == (1, 200)


def test_each_epoch_shows_every_training_example_once_in_a_new_order(data: Data) -> None:
    seen: list[Tensor] = []

    def batch(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    run(model(data), replace(data, batch=batch), epochs=2)
    everything, *seen = seen
    assert len(everything) == len(data.train), "looked at before the first step"
    first, second = torch.cat(seen[:STEPS]), torch.cat(seen[STEPS:])
    assert len(seen) == 2 * STEPS
    assert not torch.equal(first, second)
    for epoch in (first, second):
        assert torch.equal(epoch.sort(dim=0).values, data.train.sort(dim=0).values)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data: Data) -> None:
    ends = []
    for seed in (3, 3, 4):
        vae = model(data)
        torch.manual_seed(len(ends))  # the caller's random state must not matter
        run(vae, data, seed=seed)
        ends.append(weights(vae))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_the_callers_random_state_is_left_as_it_was(data: Data, tmp_path: Path) -> None:
    vae = model(data)
    before = torch.get_rng_state()
    run(vae, data, checkpoint=tmp_path / "run.pt")
    assert torch.equal(before, torch.get_rng_state())


def test_progress_is_shown_only_on_request(data: Data, capfd: pytest.CaptureFixture[str]) -> None:
    run(model(data), data, epochs=2)
    assert capfd.readouterr() == ("", "")
    run(model(data), data, epochs=2, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "2/2" in shown.err and "validation ELBO" in shown.err


# --- runs that are stopped and go on ----------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 3, 5, 20])
def test_a_run_continued_from_its_checkpoint_equals_one_that_never_stopped(
    data: Data, tmp_path: Path, stop: int
) -> None:
    settings = {"epochs": 25, "lr": 0.1, "patience": 12, "seed": 1}
    whole, first, second = model(data), model(data), model(data, seed=9)
    expected = run(whole, data, **settings)
    checkpoint = tmp_path / "new folder" / "run.pt"
    run(first, data, **settings | {"epochs": stop}, checkpoint=checkpoint)
    history = run(second, data, **settings, checkpoint=checkpoint)
    assert same(weights(second), weights(whole))
    assert history.loss == expected.loss and history.elbo == expected.elbo
    assert history.best_epoch == expected.best_epoch


def test_a_finished_run_started_again_gives_its_best_weights_and_trains_no_more(
    data: Data, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run.pt"
    first, second = model(data), model(data, Recording, seed=9)
    expected = run(first, data, epochs=30, lr=0.1, seed=2, checkpoint=checkpoint)
    assert expected.best_epoch < 30
    assert run(second, data, epochs=30, lr=0.1, seed=2, checkpoint=checkpoint) == expected
    assert same(weights(second), weights(first))
    assert "betas" not in second.__dict__


@pytest.mark.parametrize("error", [RuntimeError("power cut"), KeyboardInterrupt()])
def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_bit_for_bit(
    data: Data, tmp_path: Path, error: BaseException
) -> None:
    calls = 0

    def fails(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3 * STEPS + 2:
            raise error
        return x

    checkpoint = tmp_path / "run.pt"
    whole = model(data)
    run(whole, data)
    with pytest.raises(type(error)):
        run(model(data), replace(data, batch=fails), checkpoint=checkpoint)
    assert len(load_checkpoint(checkpoint)["history"]["loss"]) == 3
    resumed = model(data)
    run(resumed, data, checkpoint=checkpoint)
    assert same(weights(resumed), weights(whole))


def test_a_checkpoint_leaves_nothing_beside_it(data: Data, tmp_path: Path) -> None:
    run(model(data), data, checkpoint=tmp_path / "run.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


# --- runs that are killed ---------------------------------------------------------------------

EPOCHS = 10


def train_digits(folder: Path, name: str) -> None:
    """A run with everything that a checkpoint must carry: noise a batch, Adam, warm-up, best."""
    data = load("digits")
    torch.manual_seed(0)
    vae = build("mixture", data, Sizes(latent=4, hidden=(32,), components=5))
    fit(vae, data, epochs=EPOCHS, warmup=3, lr=5e-3, checkpoint=folder / f"{name}.pt")
    bits = b"".join(value.numpy().tobytes() for value in vae.state_dict().values())
    (folder / f"{name}.digest").write_text(hashlib.sha256(bits).hexdigest())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_half_written(file: int) -> None:
    os.ftruncate(file, os.fstat(file).st_size // 2)
    die()


def nth(count: int, last: Callable[..., None], before: Callable[..., Any]) -> Callable[..., None]:
    """`before` for so many calls, then `last`."""
    calls = 0

    def call(*args: Any) -> None:
        nonlocal calls
        calls += 1
        (last if calls > count else before)(*args)

    return call


def replace_then_die(*paths: Path) -> None:
    Path(paths[0]).rename(paths[1])
    die()


MOMENTS: dict[str, tuple[Any, str, Callable[..., None]]] = {
    "half-written": (os, "fsync", die_half_written),
    "before the rename": (os, "replace", lambda *paths: die()),
    "after the rename": (os, "replace", replace_then_die),
}


def forked(task: Callable[[], None]) -> int:
    """Run a task in a child process, which starts at once: torch is imported already."""
    pid = os.fork()
    if pid == 0:
        try:
            task()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


def ended_well(pid: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def killed_runs(folder: Path, tries: int, seed: int) -> None:
    """Kill a run at each moment of writing and at `tries` random ones; resume each; report.

    Tasks are forked from a process that never computes, so nothing of torch's is forked amid work.
    """

    def report(name: str, moment: object) -> None:
        state = load_checkpoint(folder / f"{name}.pt") if (folder / f"{name}.pt").exists() else None
        done = len(state["history"]["loss"]) if state else 0
        parts = list(folder.glob("*.part"))
        resumed = ended_well(forked(lambda: train_digits(folder, name)))
        for part in parts:
            part.unlink()
        digest = (folder / f"{name}.digest").read_text() if resumed else "failed to resume"
        left = sorted(file.suffix for file in folder.glob(f"{name}.*"))
        print(json.dumps([name, moment, done, bool(parts), digest, left]))

    # Imported by the first training step otherwise, in each child anew and for seconds.
    importlib.import_module("torch._dynamo")
    load("digits")
    start = time.monotonic()
    assert ended_well(forked(lambda: train_digits(folder, "whole")))
    duration = time.monotonic() - start
    print((folder / "whole.digest").read_text())

    for after, (moment, (where, attribute, death)) in enumerate(MOMENTS.items(), start=2):

        def dies() -> None:
            # Runs in the child, so nobody else sees the replacement.
            setattr(where, attribute, nth(after, death, getattr(where, attribute)))  # noqa: B023
            train_digits(folder, f"write{after}")  # noqa: B023

        assert os.waitstatus_to_exitcode(os.waitpid(forked(dies), 0)[1]) == -signal.SIGKILL
        report(f"write{after}", moment)

    def killed_after(seconds: float, name: str) -> bool:
        (folder / f"{name}.pt").unlink(missing_ok=True)
        pid = forked(lambda: train_digits(folder, name))
        time.sleep(seconds)
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return False
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return True

    moments = random.Random(seed)
    for i in range(tries):
        moment = moments.uniform(0.05, 0.95) * duration
        # Where the machine has become quicker, the run may have ended first.
        while not killed_after(moment, f"random{i}"):
            moment *= 0.8
        report(f"random{i}", round(moment, 4))


def assert_killed_runs_end_alike(folder: Path, tries: int, seed: int) -> None:
    answer = subprocess.run(
        [sys.executable, __file__, str(folder), str(tries), str(seed)],
        capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    whole, *runs = answer.stdout.splitlines()
    print(f"seed {seed}: run, moment, epochs in its checkpoint, half-written file, weights", *runs,
          sep="\n")  # fmt: skip
    killed = [json.loads(run) for run in runs]
    assert [run[0] for run in killed[3:]] == [f"random{i}" for i in range(tries)]
    # The epochs that are safe at each of the three moments, and whether a half is left behind.
    assert [run[2:4] for run in killed[:3]] == [[2, True], [3, True], [5, False]]
    assert any(0 < run[2] < EPOCHS for run in killed[3:]), "no kill came in the middle of a run"
    assert {run[4] for run in killed} == {whole}
    assert all(run[5] == [".digest", ".pt"] for run in killed)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
def test_a_run_killed_while_it_writes_or_at_5_random_moments_resumes_bit_for_bit(
    tmp_path: Path,
) -> None:
    assert_killed_runs_end_alike(tmp_path, tries=5, seed=0)


@needs_fork
@pytest.mark.slow
def test_a_run_killed_at_50_random_moments_resumes_bit_for_bit(tmp_path: Path) -> None:
    assert_killed_runs_end_alike(tmp_path, tries=50, seed=1)


# --- checkpoints that cannot be used ----------------------------------------------------------


@pytest.fixture
def checkpoint(data: Data, tmp_path: Path) -> Path:
    """The checkpoint of two epochs."""
    path = tmp_path / "run.pt"
    run(model(data), data, epochs=2, checkpoint=path)
    return path


def assert_refused(
    checkpoint: Path, vae: VAE, data: Data, ours: bool = True, **settings: Any
) -> str:
    content, before = checkpoint.read_bytes(), weights(vae)
    with pytest.raises(InputError) as error:
        run(vae, data, checkpoint=checkpoint, **settings)
    assert checkpoint.read_bytes() == content, "the file is left as it was"
    assert same(weights(vae), before), "the model is left as it was"
    assert str(checkpoint) in str(error.value)
    assert ours == ("delete" in str(error.value)), "nobody is told to delete what is not ours"
    return one_line(error)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.7, 0.999])
def test_a_truncated_checkpoint_is_refused_in_one_line(
    data: Data, checkpoint: Path, share: float
) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    assert "damaged" in assert_refused(checkpoint, model(data), data, ours=share > 0.1)


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(3), {"run": None}, {"weight": torch.zeros(3)}, {}]
)
def test_a_file_of_torchs_that_is_no_checkpoint_is_refused_in_one_line(
    data: Data, checkpoint: Path, content: object
) -> None:
    torch.save(content, checkpoint)
    assert_refused(checkpoint, model(data), data, ours=False)


@pytest.mark.parametrize("lost", ["vae", "param_groups", "best", "history"])
def test_a_checkpoint_that_lacks_a_part_is_refused_in_one_line(
    data: Data, checkpoint: Path, lost: str
) -> None:
    kind, tensors, about = read_tensors(checkpoint)
    about.pop(lost, None)
    tensors = {name: x for name, x in tensors.items() if not name.startswith(f"{lost}.")}
    write_tensors(checkpoint, kind, tensors, about)
    assert "train again" in assert_refused(checkpoint, model(data), data, ours=False)


def test_garbage_is_refused_in_one_line(data: Data, checkpoint: Path) -> None:
    checkpoint.write_bytes(random.Random(0).randbytes(5000))
    assert "damaged" in assert_refused(checkpoint, model(data), data, ours=False)


@pytest.mark.parametrize(
    ("changed", "settings"),
    [("seed", {"seed": 1}), ("beta", {"beta": 2.0}), ("lr", {"lr": 0.01}),
     ("batch_size", {"batch_size": 100}), ("warmup", {"warmup": 3})],
)  # fmt: skip
def test_a_checkpoint_of_other_settings_is_refused_and_says_which(
    data: Data, checkpoint: Path, changed: str, settings: dict[str, Any]
) -> None:
    said = assert_refused(checkpoint, model(data), data, **settings)
    assert f"differs in {changed}:" in said


def test_a_checkpoint_of_another_model_or_data_set_is_refused(data: Data, checkpoint: Path) -> None:
    assert "parameters" in assert_refused(checkpoint, model(data, hidden=8), data)
    assert "data" in assert_refused(checkpoint, model(data), replace(data, name="other"))


class Malicious:
    """Pickled, it is a command to make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_that_carries_code_is_refused_and_the_code_not_run(
    data: Data, checkpoint: Path, tmp_path: Path
) -> None:
    state = load_checkpoint(checkpoint)
    torch.save(state | {"extra": Malicious(tmp_path / "ran")}, checkpoint)
    assert_refused(checkpoint, model(data), data, ours=False)
    assert not (tmp_path / "ran").exists()
    torch.load(checkpoint, weights_only=False)
    assert (tmp_path / "ran").exists(), "else the file was harmless and the test says nothing"


# --- a disk that is full, and numbers that are none -------------------------------------------


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint_of_the_epoch_before(
    data: Data, checkpoint: Path, tmp_path: Path, full_disk: Callable[[str | None], None]
) -> None:
    content = checkpoint.read_bytes()
    full_disk("run.pt")
    with pytest.raises(InputError, match="No space left") as error:
        run(model(data), data, checkpoint=checkpoint)
    assert str(checkpoint) in one_line(error)
    assert checkpoint.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    full_disk(None)
    whole, resumed = model(data), model(data)
    run(whole, data)
    run(resumed, data, checkpoint=checkpoint)
    assert same(weights(resumed), weights(whole)), "with room again, the run goes on"


def test_a_checkpoint_in_a_place_that_is_no_folder_is_one_line(data: Data, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError) as error:
        run(model(data), data, checkpoint=tmp_path / "file" / "new" / "run.pt")
    assert "run.pt" in one_line(error)


class Spoilt(VAE):
    """Its loss is multiplied by `factor` at step `at`, counted from 1."""

    at: int
    factor: float
    steps = 0

    def forward(self, x: Tensor, beta: float = 1.0) -> Tensor:
        self.steps += 1
        loss = super().forward(x, beta)
        return loss * self.factor if self.steps == self.at else loss


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_stops_with_epoch_and_step_and_keeps_the_epoch_before(
    data: Data, tmp_path: Path, factor: float
) -> None:
    checkpoint = tmp_path / "run.pt"
    vae = model(data, Spoilt)
    assert isinstance(vae, Spoilt)
    vae.at, vae.factor = 2 * STEPS + 3, factor
    with pytest.raises(NotFinite, match="epoch 3, step 3") as error:
        run(vae, data, checkpoint=checkpoint)
    one_line(error)
    assert len(load_checkpoint(checkpoint)["history"]["loss"]) == 2
    whole, resumed = model(data), model(data)
    run(whole, data)
    run(resumed, data, checkpoint=checkpoint)
    assert same(weights(resumed), weights(whole))


class BadGradient(Spoilt):
    """Its loss is a number, and the gradient of that loss is none."""

    def forward(self, x: Tensor, beta: float = 1.0) -> Tensor:
        loss = VAE.forward(self, x, beta)
        self.steps += 1
        nothing = sum(p.sum() * 0 for p in self.parameters())
        return loss + torch.as_tensor(nothing).sqrt() if self.steps == self.at else loss


def test_weights_that_the_last_step_of_an_epoch_spoils_never_reach_the_checkpoint(
    data: Data, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run.pt"
    vae = model(data, BadGradient)
    assert isinstance(vae, BadGradient)
    vae.at = 2 * STEPS
    with pytest.raises(NotFinite, match="epoch 2"):
        run(vae, data, checkpoint=checkpoint)
    state = load_checkpoint(checkpoint)
    assert all(value.isfinite().all() for value in state["vae"].values())
    assert len(state["history"]["loss"]) == 1


@pytest.mark.parametrize("error", [NotFinite, KeyboardInterrupt])
def test_a_run_that_ends_early_leaves_the_best_weights_so_far(
    data: Data, error: type[BaseException]
) -> None:
    vae, three = model(data, Spoilt), model(data)
    run(three, data, epochs=3)
    assert isinstance(vae, Spoilt)
    vae.at, vae.factor = 3 * STEPS + 3, math.nan
    if error is KeyboardInterrupt:

        def interrupted(x: Tensor) -> Tensor:
            if vae.steps == 3 * STEPS + 2:
                raise KeyboardInterrupt
            return batch(x)

        batch = data.batch
        data = replace(data, batch=interrupted)
    with pytest.raises(error):
        run(vae, data)
    assert not vae.training
    assert same(weights(vae), weights(three))


# --- arguments --------------------------------------------------------------------------------


def test_a_device_and_a_checkpoint_may_be_strings(data: Data, tmp_path: Path) -> None:
    path, vae = tmp_path / "run.pt", model(data)
    run(vae, data, epochs=1, device="cpu", checkpoint=str(path))
    assert len(load_checkpoint(path)["history"]["loss"]) == 1
    with pytest.raises(InputError, match="no device 'nonsense' here") as error:
        run(vae, data, epochs=1, device="nonsense")
    one_line(error)


@pytest.mark.parametrize(
    "bad",
    [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": -1e-3}, {"beta": -0.1}, {"warmup": -1},
     {"patience": 0}, {"lr": float("nan")}, {"beta": float("nan")}],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused_in_one_line(
    data: Data, bad: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as error:
        run(model(data), data, **bad)
    (name,) = bad
    assert one_line(error).startswith(f"{name} must be ")
    assert str(error.value).endswith(f"got {bad[name]}")


@pytest.mark.parametrize("part", ["train", "validation"])
def test_an_empty_data_set_is_refused_in_one_line(data: Data, part: str) -> None:
    empty = replace(data, **{part: getattr(data, part)[:0]})
    with pytest.raises(InputError, match=rf"data\.(batch\(data\.)?{part}\)? is empty") as error:
        run(model(data), empty)
    one_line(error)


def test_the_cpu_is_always_there_and_auto_takes_the_first_device_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert device_by_name("cpu") == torch.device("cpu")
    for cuda, mps, first in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert device_by_name() == torch.device(first)


@pytest.mark.parametrize("name", ["gpu", "mps", ""])
def test_a_device_that_is_not_there_is_refused_and_says_which_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="auto or one of cuda, cpu") as error:
        device_by_name(name)
    assert repr(name) in one_line(error)


def test_a_device_may_have_a_number_if_there_are_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_by_name("cuda:1") == torch.device("cuda:1")
    assert device_by_name(torch.device("cuda", 1)) == torch.device("cuda:1")
    assert device_by_name("cpu:0") == torch.device("cpu"), "of which a tensor says the same"
    assert device_by_name(torch.device("meta")) == torch.device("meta"), "not known here"
    for name in ("cuda:2", "cuda:", "cuda:-1", "cuda:x", "cuda:01", "cuda:1:1", "cpu:1"):
        with pytest.raises(InputError, match=r"cuda:0 to cuda:1|cpu:0 to cpu:0") as error:
            device_by_name(name)
        assert repr(name) in one_line(error)
    with pytest.raises(InputError, match="no device 'cuda:2' here"):
        device_by_name(torch.device("cuda:2"))
    with pytest.raises(InputError, match="got int"):
        device_by_name(0)  # type: ignore[arg-type]


def test_a_run_on_a_device_that_is_not_there_is_refused(data: Data) -> None:
    for device in ("cuda:7", torch.device("cuda:7"), "cpu:1"):
        with pytest.raises(InputError, match="no device") as error:
            run(model(data), data, device=device)
        one_line(error)


if __name__ == "__main__":
    killed_runs(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
