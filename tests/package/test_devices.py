"""What a GPU would refuse, on a stand-in for one: elsewhere.py says how."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from torch import nn

from elsewhere import Elsewhere, elsewhere
from flowvae_tutorial import InputError, build, evaluate, fit, plots
from flowvae_tutorial.data import DATA_SETS, Data, load
from flowvae_tutorial.evaluation import elbo_surgery
from flowvae_tutorial.experiments.refinement_records import fit_classifier, measure_refinement
from flowvae_tutorial.experiments.runs import record_of, train_run
from flowvae_tutorial.models import BOOK_MODELS, FIRST_STAGE

BOOK = Path(__file__).parents[2] / "book"


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    with elsewhere() as device:
        yield device


def small(name: str, count: int = 60) -> Data:
    data = load(name)
    return replace(
        data,
        train=data.train[:count], validation=data.validation[:20], test=data.test[:20],
        labels={"train": data.labels["train"][:count], "test": data.labels["test"][:20]},
    )  # fmt: skip


def test_the_stand_in_refuses_what_a_gpu_refuses(device: torch.device) -> None:
    there, here = torch.randn(3, 4, device=device), torch.randn(3, 4)
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    assert torch.equal((there + here.to(device)).cpu(), there.cpu() + here)
    assert (there * 2).device == device and there.cpu().device.type == "cpu"


def test_it_trains_as_the_cpu_does(device: torch.device) -> None:
    losses = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)
        data = small("rings").to(where)
        losses.append(fit(build("flow-prior", data), data, epochs=2).loss)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_a_model_is_built_trained_and_used_where_its_data_are(
    name: str, device: torch.device
) -> None:
    data = small("rings").to(device)
    first = build(FIRST_STAGE[name], data) if name in FIRST_STAGE else None
    vae = build(name, data, first=first)
    assert {p.device for p in vae.parameters()} == {device}
    fit(vae, data, epochs=1)
    result = evaluate(vae, data.test, num_samples=4, elbo_samples=2)
    assert isinstance(result.nll, Elsewhere)
    assert vae.sample(3, refine_steps=2).device == vae.reconstruct(data.test).device == device
    assert math.isfinite(elbo_surgery(vae, data.test).marginal_kl)


@pytest.mark.parametrize("model", ["vampprior", "two-stage-flow-prior"])
def test_a_run_is_trained_and_evaluated_on_the_device_that_was_asked_for(
    model: str, device: torch.device, tmp_path: Path
) -> None:
    data = small("rings")
    trained = train_run(
        model, data, seed=0, beta=1.0, device=device, checkpoint=tmp_path / "c.pt", epochs=1
    )
    assert {p.device for p in trained.vae.parameters()} == {device}
    record = record_of(trained, data, num_samples=5, commit="none")
    assert record["device"] == "meta" and record["num_test"] == 20


def test_refinement_is_measured_there(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.STEPS", (0, 2))
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.LATENTS", 50)
    data = small("digits").to(device)
    classifier, vae = fit_classifier(data, epochs=1), build("gaussian", data)
    record = measure_refinement(
        "gaussian", vae, data, classifier, seed=0, epochs=1, best_epoch=1, commit="none"
    )
    assert len(record["precision"][0]) == len(record["steps"])


def test_figures_are_drawn_from_there(device: torch.device) -> None:
    data = small("digits").to(device)
    vae = build("gaussian", data, None)
    z = torch.randn(20, 2, device=device)
    plots.plot_latents(z, data.labels["test"])
    plots.plot_images(vae.sample(10), (8, 8))


def test_a_model_and_data_on_two_devices_are_refused_in_one_line(device: torch.device) -> None:
    data = small("rings")
    vae = build("gaussian", data.to(device))
    with pytest.raises(InputError, match=r"x is on cpu, the model on meta: move one"):
        vae.log_marginal(data.test, 10)


@pytest.mark.parametrize("model", ["gaussian", "vampprior", "two-stage-flow-prior", "flow-both"])
def test_no_step_of_training_waits_for_the_device(
    model: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small("rings").to(device)
    first = build(FIRST_STAGE[model], data) if model in FIRST_STAGE else None
    vae = build(model, data, first=first)
    looks: list[object] = []
    compute = Elsewhere.__torch_dispatch__
    waits = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}

    def counted(func: object, *rest: object) -> object:
        looks.extend([func] if func in waits else [])
        return compute(func, *rest)

    monkeypatch.setattr(Elsewhere, "__torch_dispatch__", counted)
    vae(data.train).backward()
    assert looks == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_bad_values_are_found_before_the_first_step(
    part: str, value: float, device: torch.device
) -> None:
    data = small("rings")
    spoilt = getattr(data, part).clone()
    spoilt[-1, 0] = value
    data = replace(data, **{part: spoilt}).to(device)
    with pytest.raises(InputError, match="NaN or infinite"):
        fit(build("gaussian", data), data, epochs=1)


@pytest.mark.parametrize("name", [n for n in DATA_SETS if not n.endswith(("mnist", "fashion"))])
def test_loading_draws_from_no_global_random_state(name: str, device: torch.device) -> None:
    before = torch.get_rng_state()
    seeded: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "manual_seed", seeded.append)
        load(name)
    assert seeded == [], "it would seed a GPU, too, and nothing would set that back"
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_drops_in_training_and_not_in_validation() -> None:
    data = small("rings")
    vae = build("gaussian", data)
    seen: dict[bool, int] = {True: 0, False: 0}

    class Watch(nn.Module):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            seen[torch.is_grad_enabled()] += self.training == torch.is_grad_enabled()
            return h

    vae.posterior.net = nn.Sequential(vae.posterior.net, Watch())
    vae.eval()
    fit(vae, data, epochs=1)
    assert seen == {True: 1, False: 1}
    assert not vae.training


@pytest.mark.slow
@pytest.mark.parametrize("chapter", sorted(BOOK.glob("0[1-7]_*.ipynb")), ids=lambda path: path.stem)
def test_a_chapter_runs_there(
    chapter: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its numbers are nbval's business: models are hardly trained here and nothing is compared.
    def short_fit(*arguments: Any, **settings: Any) -> Any:
        return fit(*arguments, **settings | {"epochs": 2, "warmup": 1})

    monkeypatch.setattr("flowvae_tutorial.fit", short_fit)
    monkeypatch.setattr("flowvae_tutorial.training.fit", short_fit)
    monkeypatch.setattr("flowvae_tutorial.training.device_by_name", lambda: device)
    monkeypatch.setattr("flowvae_tutorial.notebook.expect", lambda value, *_, **__: float(value))
    monkeypatch.chdir(BOOK)
    names: dict[str, Any] = {}
    for cell in nbformat.read(chapter, as_version=4).cells:
        if cell.cell_type == "code":
            source = cell.source.replace("%pip", "pass  #")
            exec(compile(source, cell.id, "exec", optimize=1), names)
            plt.close("all")
