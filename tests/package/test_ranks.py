"""Training in several processes is the training of one, in shares.

Run as a script by torchrun, this file is one of the processes: see `two_ranks`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from flowvae_tutorial import VAE, InputError, build, fit
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments.records import read_records
from flowvae_tutorial.storage.checkpoints import load_checkpoint
from flowvae_tutorial.storage.trained import load_trained
from flowvae_tutorial.training import loop as training
from flowvae_tutorial.training import ranks
from flowvae_tutorial.training.ranks import (
    first_before_others,
    joined,
    mean_over_ranks,
    rank_and_world,
    share_of,
)

CPU = torch.device("cpu")

# --- shares -----------------------------------------------------------------------------------


def shares(rows: Tensor, world: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, float]]:
    """What each of so many processes would be given."""
    found = []
    for rank in range(world):
        monkeypatch.setattr(ranks, "rank_and_world", lambda rank=rank: (rank, world))
        found.append(share_of(rows))
    return found


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [8, 9, 15, 63, 64, 100])
def test_shares_make_up_the_batch_and_their_weighted_means_its_mean(
    world: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = torch.randperm(1000)[:size]
    parts, weights = zip(*shares(batch, world, monkeypatch), strict=True)
    assert torch.equal(torch.cat(parts), batch)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1, "nobody waits for long"
    assert sum(weights) / world == pytest.approx(1)
    value = torch.rand(1000, dtype=torch.float64)
    means = [value[part].mean() * weight for part, weight in zip(parts, weights, strict=True)]
    torch.testing.assert_close(sum(means) / world, value[batch].mean())


@pytest.mark.parametrize("world", [2, 3, 8])
def test_a_batch_smaller_than_the_processes_is_everyones(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in range(1, world):
        for part, weight in shares(torch.arange(size), world, monkeypatch):
            assert torch.equal(part, torch.arange(size)) and weight == 1


@pytest.mark.parametrize(
    ("rank", "world", "expected"),
    [(0, 1, ["load"]), (0, 2, ["load", "wait"]), (1, 2, ["wait", "load"])],
)
def test_the_first_process_loads_before_the_others(
    rank: int, world: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(ranks, "rank_and_world", lambda: (rank, world))
    monkeypatch.setattr(dist, "barrier", lambda: seen.append("wait"))
    with first_before_others():
        seen.append("load")
    assert seen == expected


def test_outside_torchrun_there_is_one_process_and_nothing_to_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert rank_and_world() == (0, 1)
    with joined(CPU) as device:
        assert device == CPU and not dist.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined(CPU):
        assert not dist.is_initialized()
    assert mean_over_ranks(torch.tensor(2.5)).item() == 2.5


@pytest.mark.parametrize(
    ("given", "says"),
    [({"WORLD_SIZE": "2"}, "no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: unset it"),
     ({"WORLD_SIZE": ""}, "WORLD_SIZE='' and no RANK"),
     ({"WORLD_SIZE": "two", **dict.fromkeys(ranks.TOLD, "0")}, "WORLD_SIZE='two': unset it"),
     ({"WORLD_SIZE": "2", **dict.fromkeys(ranks.TOLD, "0"), "RANK": ""}, "and no RANK: unset it")],
)  # fmt: skip
def test_half_an_environment_of_torchruns_is_refused_in_one_line(
    given: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", *ranks.TOLD):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=rf"\A[^\n]*{says}[^\n]*\Z"), joined(CPU):
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", *ranks.TOLD):
        monkeypatch.setenv(name, "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="no device 'cuda:4' here"), joined(torch.device("cuda")):
        pass


# --- what two processes do, and one -----------------------------------------------------------

MODELS = ("vampprior", "hierarchical-vampprior")
# The second cannot be halved; the third asks for a gradient that is clipped.
STEPS = {"even": (64, float("inf")), "uneven": (63, float("inf")), "clipped": (63, 0.5)}
LR = 1.0


def one_step(model: str, size: int, clip: float) -> dict[str, Tensor]:
    """What a step of gradient descent subtracts from each parameter, in double precision.

    The noise of a row is the same whichever process draws it.
    """
    digits = load("digits")
    torch.manual_seed(0)
    vae = build(model, digits).double()
    x = digits.batch(digits.train[:size]).double()
    rank, world = rank_and_world()
    draws, randn = 0, torch.randn

    def draw(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        nonlocal draws
        draws += 1
        generator = torch.Generator().manual_seed(draws)
        whole = randn(*shape[:-2], size, shape[-1], dtype=dtype, generator=generator)
        return whole.tensor_split(world, dim=-2)[rank]

    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    network = DistributedDataParallel(vae) if world > 1 else vae
    optimizer = torch.optim.SGD(vae.parameters(), lr=LR)
    data = replace(digits, train=x, batch=lambda rows: rows)
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", draw)
        training._train_epoch(
            network, data, optimizer, batch_size=size, clip=clip, beta=0.7, epoch=1
        )
    assert draws == 1 + model.startswith("hierarchical")
    return {name: (before[name] - p.detach()) / LR for name, p in vae.named_parameters()}


def digits_model() -> VAE:
    torch.manual_seed(0)
    return build("vampprior", load("digits"))


def one_fit(vae: VAE, data: Data, checkpoint: Path | None, epochs: int) -> dict[str, Any]:
    history = fit(
        vae, data, epochs=epochs, decay=0.0, device=CPU, name="vampprior", checkpoint=checkpoint
    )
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    return {"state": state, "history": asdict(history) | {"seconds": 0.0}}


def one_rank(folder: Path) -> None:
    """What each of the processes does; it leaves what it has seen in a file."""
    with joined(CPU):
        rank, world = rank_and_world()
        seen: dict[str, Any] = {"rank": rank, "world": world}
        seen["mean"] = mean_over_ranks(torch.tensor(float(rank))).item()
        seen["steps"] = {
            f"{model} {name}": one_step(model, *step)
            for model in MODELS
            for name, step in STEPS.items()
        }
        rows, noise, saved = [], [], []
        digits, save = load("digits"), training.save_checkpoint

        def batch(levels: Tensor) -> Tensor:
            x = digits.batch(levels)
            # Before the first step `fit` looks at all of them at once.
            if len(levels) < len(digits.train):
                rows.append(levels)
                noise.append(17 * x - levels)
            return x

        def save_and_say(path: Path, state: dict[str, Any]) -> None:
            saved.append(path.name)
            save(path, state)

        training.save_checkpoint = save_and_say
        spied = replace(digits, batch=batch)
        seen["whole"] = one_fit(digits_model(), spied, folder / "whole.pt", epochs=2)
        seen |= {"rows": torch.cat(rows), "first noise": noise[0], "steps an epoch": len(rows) // 2}
        one_fit(digits_model(), digits, folder / "stopped.pt", epochs=1)
        dist.barrier()  # the checkpoint is written by now
        other = digits_model()
        with torch.no_grad():
            other.likelihood.raw_scale += 1  # what a resumed run begins with does not matter
        seen["resumed"] = one_fit(other, digits, folder / "stopped.pt", epochs=2)
        seen["saved"] = saved
        torch.save(seen, folder / f"rank{rank}.pt")


def torchrun(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Two processes."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


needs_gloo = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo"
)
Ranks = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> Ranks:
    """What both processes have seen, from one start of torchrun."""
    answer = torchrun(__file__, str(folder), folder=folder)
    assert answer.returncode == 0, answer.stderr
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1))
    assert [(seen["rank"], seen["world"]) for seen in (first, second)] == [(0, 2), (1, 2)]
    return first, second


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@needs_gloo
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("model", MODELS)
def test_a_step_of_two_processes_is_that_of_one_with_the_whole_batch(
    model: str, name: str, two_ranks: Ranks
) -> None:
    expected = one_step(model, *STEPS[name])
    first, second = (seen["steps"][f"{model} {name}"] for seen in two_ranks)
    assert_equal(first, second)
    assert first.keys() == expected.keys()
    assert all(step.any() for step in expected.values()), "every parameter learns"
    assert any(name.endswith("raw") for name in expected), "pseudo-inputs among them"
    norm = sum(step.square().sum() for step in expected.values()).sqrt()
    assert (norm < 0.5001) == (name == "clipped")
    for parameter, step in expected.items():
        torch.testing.assert_close(
            first[parameter], step, rtol=0, atol=1e-10, msg=lambda m, p=parameter: f"{p}: {m}"
        )


@needs_gloo
def test_a_mean_is_over_both_processes_and_the_same_on_both(two_ranks: Ranks) -> None:
    assert [seen["mean"] for seen in two_ranks] == [0.5, 0.5]


@needs_gloo
def test_processes_end_with_the_same_weights_bit_for_bit_and_the_same_history(
    two_ranks: Ranks,
) -> None:
    first, second = (seen["whole"] for seen in two_ranks)
    assert_equal(first["state"], second["state"])
    start = digits_model().state_dict()
    moved = {name for name, value in start.items() if not torch.equal(value, first["state"][name])}
    assert moved == {name for name, _ in digits_model().named_parameters()}
    assert "prior.raw" in moved
    assert first["history"] == second["history"]
    assert len(first["history"]["loss"]) == 2


def counted(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Different rows, and how often each is there."""
    found, counts = rows.unique(dim=0, return_counts=True)
    return found, counts


@needs_gloo
def test_processes_share_the_examples_and_draw_noise_of_their_own(two_ranks: Ranks) -> None:
    first, second = two_ranks
    rows = torch.cat([seen["rows"] for seen in two_ranks])
    twice = torch.cat([load("digits").train] * 2)
    for one, other in zip(counted(rows), counted(twice), strict=True):
        assert torch.equal(one, other), "every example once an epoch, in one process"
    assert [len(seen["first noise"]) for seen in two_ranks] == [32, 32]
    assert first["steps an epoch"] == second["steps an epoch"] == -(-1257 // 64)
    same = (first["first noise"] == second["first noise"]).double().mean()
    assert same < 0.01
    correlation = torch.corrcoef(
        torch.stack([seen["first noise"].flatten() for seen in two_ranks])
    )[0, 1]
    # Four standard errors of a correlation of 2,048 independent pairs.
    assert correlation.abs() < 4 / 2048**0.5


@needs_gloo
def test_only_the_first_process_writes_the_checkpoint(two_ranks: Ranks, folder: Path) -> None:
    first, second = two_ranks
    assert first["saved"] == ["whole.pt"] * 2 + ["stopped.pt"] * 2
    assert second["saved"] == []
    state = load_checkpoint(folder / "whole.pt")
    best = first["whole"]["history"]["best_epoch"]
    assert state["history"]["best_epoch"] == best
    assert_equal(state["best"], first["whole"]["state"])
    # Without torchrun it is read as any other.
    found = load_trained(folder / "whole.pt")
    assert_equal(dict(found.vae.state_dict()), first["whole"]["state"])


@needs_gloo
def test_a_run_of_two_processes_that_was_stopped_equals_one_that_never_was(
    two_ranks: Ranks,
) -> None:
    for seen in two_ranks:
        assert_equal(seen["resumed"]["state"], seen["whole"]["state"])
        assert seen["resumed"]["history"] == seen["whole"]["history"]


@pytest.fixture
def noise_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Choose the noise of the epochs that follow; the order of the examples stays as it is."""
    randperm = torch.randperm

    def choose(seed: int) -> None:
        def order(*args: Any, **kwargs: Any) -> Tensor:
            found = randperm(*args, **kwargs)
            # On the CPU only the last 32 bits of a seed count.
            torch.manual_seed(torch.initial_seed() + 777_767_777 * seed)
            return found

        monkeypatch.setattr(torch, "randperm", order)

    return choose


@needs_gloo
def test_two_processes_learn_as_much_as_one_with_the_same_batches(
    two_ranks: Ranks, noise_of: Callable[[int], None]
) -> None:
    def elbos(history: dict[str, Any]) -> Tensor:
        return torch.tensor(history["reconstruction"]) - torch.tensor(history["kl"])

    alone = []
    for seed in range(10):
        vae = digits_model()
        noise_of(seed)
        alone.append(elbos(one_fit(vae, load("digits"), None, epochs=2)["history"]))
    mean, spread = torch.stack(alone).mean(dim=0), torch.stack(alone).std(dim=0)
    found = elbos(two_ranks[0]["whole"]["history"])
    # Two processes draw noise of their own, so theirs is an eleventh draw. Once in a thousand times
    # it lies further out than 4.78, Student's with 9 degrees of freedom. (Of 40 seeds each, one
    # process had −8.59 ± 0.30 and −5.85 ± 0.14 after two epochs, two had −8.59 ± 0.28 and
    # −5.87 ± 0.16: mean and standard deviation.)
    margin = 4.78 * spread * (1 + 1 / 10) ** 0.5
    print(f"ELBO of two processes {found}, of one {mean} ± {spread}")
    assert ((found - mean).abs() < margin).all()
    assert mean[1] - mean[0] > 2 * margin[1], "else an epoch more or less would not be seen"


@needs_gloo
def test_the_command_trains_in_two_processes_and_prints_its_table_once(tmp_path: Path) -> None:
    line = "-m flowvae_tutorial train --data rings --epochs 1 --samples 5"
    answer = torchrun(*line.split(), folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(re.findall(r"NLL +-?\d+\.\d\d ± \d+\.\d\d  nats per example", answer.stdout)) == 1
    assert len(answer.stdout.splitlines()) == 8, answer.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        "checkpoint.pt", "rings-gaussian-seed0.json", "samples.png", "weights.safetensors"
    ]  # fmt: skip
    assert len(read_records(folder)[0]["history"]["loss"]) == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    one_rank(Path(sys.argv[1]))
