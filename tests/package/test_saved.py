"""Models of data that the package does not know: saved, found again, and gone on with."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from flowvae_tutorial import VAE, History, InputError, build, fit, load_model, own_data, save_model
from flowvae_tutorial.data import Data, blank, load, outline
from flowvae_tutorial.models import (
    BOOK_MODELS,
    Sizes,
    assemble,
    default_sizes,
    on_first_stage,
    resolve,
)
from flowvae_tutorial.networks import UNBOUNDED
from flowvae_tutorial.storage.trained import least_numbers, load_trained, unbounded
from flowvae_tutorial.storage.weights import read_tensors, write_tensors

SIZES = Sizes(3, (8,), components=4, pseudo_inputs=5, transforms=2, flow_hidden=(8,))


def pictures(seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    return own_data(torch.rand(60, 5, 4, generator=generator) < 0.3, "pictures")


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(InputError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(one: VAE, other: VAE) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_a_model_of_any_data_and_sizes_is_found_in_its_file(name: str, tmp_path: Path) -> None:
    data = pictures()
    vae = assemble(name, data, SIZES).eval()
    found = load_model(save_model(vae, tmp_path / "model.safetensors"))
    assert same(found, vae) and found.built_from == vae.built_from
    assert not found.training
    estimates = []
    for model in (vae, found):
        torch.manual_seed(0)
        estimates.append(model.log_marginal(data.test, 3))
    assert torch.equal(*estimates)


@pytest.mark.parametrize("shape", [(28, 28), None])
def test_the_form_of_the_data_decides_the_layers_again(
    shape: tuple[int, int] | None, tmp_path: Path
) -> None:
    data = own_data(torch.rand(20, 784), image_shape=shape)
    vae = build("gaussian", data, SIZES)
    found = load_model(save_model(vae, tmp_path / "model.safetensors"))
    assert same(found, vae)
    assert load_trained(tmp_path / "model.safetensors").outline.form == data.form


def test_a_checkpoint_alone_is_enough_and_needs_no_name(tmp_path: Path) -> None:
    data, path = pictures(), tmp_path / "model.pt"
    vae = build("gaussian", data, SIZES)
    history = fit(vae, data, epochs=2, seed=4, beta=0.5, checkpoint=path)
    assert same(load_model(path), vae)
    found = load_trained(path)
    assert (found.model, found.data, found.seed, found.beta) == ("gaussian", "pictures", 4, 0.5)
    save_model(vae, tmp_path / "model.safetensors", history, seed=4, beta=0.5)
    saved = load_trained(tmp_path / "model.safetensors")
    assert saved._replace(vae=vae, settings={}) == found._replace(vae=vae, settings={})


def test_a_model_in_two_stages_is_found_again(tmp_path: Path) -> None:
    data = pictures()
    first, second = (assemble(name, data, SIZES) for name in ("gaussian", "two-stage-flow-prior"))
    vae = on_first_stage(second, first)
    assert same(load_model(save_model(vae, tmp_path / "model.safetensors")), vae)


def test_what_cannot_be_found_again_is_not_saved(tmp_path: Path) -> None:
    vae = build("gaussian", pictures(), SIZES)
    assert "name it so" in refusal(save_model, vae, tmp_path / "model.pt")
    by_hand = VAE(vae.prior, vae.posterior, vae.likelihood)
    said = refusal(save_model, by_hand, tmp_path / "model.safetensors")
    assert "vae.state_dict()" in said
    assert not list(tmp_path.iterdir())


def test_weights_of_the_version_before_are_read_if_their_data_are_of_the_book(
    tmp_path: Path,
) -> None:
    for data in (outline("dynamic-mnist"), load("rings"), pictures()):
        vae = build("gaussian", data)
        path = save_model(vae, tmp_path / "w.safetensors", History([1.0], [1.0], [0.5], 1))
        _, state, about = read_tensors(path)
        del about["built_from"], about["sha256"], about["kind"], about["history"]["median"]
        about |= {"format": 1, "model": "gaussian"}
        path.write_bytes(save(state, {"flowvae_tutorial": json.dumps(about)}))
        if data.name == "pictures":
            assert "'pictures'" in refusal(load_model, path)
        else:
            assert same(load_model(path), unbounded(vae))


def test_a_run_does_not_go_on_with_other_data_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    vae = build("gaussian", pictures(), SIZES)
    fit(vae, pictures(), epochs=1, decay=0.0, checkpoint=path)
    fit(vae, pictures(), epochs=2, decay=0.0, checkpoint=path)
    said = refusal(lambda: fit(vae, pictures(1), epochs=3, decay=0.0, checkpoint=path))
    assert "differs in data_checksum" in said


def test_weights_from_before_the_bounds_of_log_scale_are_without_them(tmp_path: Path) -> None:
    # With the same numbers a bounded model would be another: σ beyond the bounds is bent back.
    data = load("rings")
    vae = build("gaussian", data)
    torch.nn.init.constant_(list(vae.posterior.parameters())[-1], 2.0)  # log σ far outside
    x = data.test[:3]
    was = vae.posterior(x).base_dist.scale.max()
    kind, state, about = read_tensors(save_model(vae, tmp_path / "w.safetensors"))
    about["built_from"]["log_scale_bounds"] = None
    write_tensors(tmp_path / "w.safetensors", kind, state, about)
    loaded = load_model(tmp_path / "w.safetensors")
    assert loaded.posterior(x).base_dist.scale.max() > math.e > was
    again = load_model(save_model(loaded, tmp_path / "again.safetensors"))
    assert same(again, loaded)
    first = build("two-stage-flow-prior", data, first=again)
    assert same(load_model(save_model(first, tmp_path / "two.safetensors")), first)
    about["built_from"]["log_scale_bounds"] = [-2.0, 1.0]
    write_tensors(tmp_path / "w.safetensors", kind, state, about)
    assert "log σ were [-2.0, 1.0] and are [-3.0, 1.0]" in refusal(
        load_model, tmp_path / "w.safetensors"
    )


def test_two_levels_without_a_bound_between_them_are_not_taken_for_bounded_ones(
    tmp_path: Path,
) -> None:
    # Version 0.2 bounded the posterior alone, and said so.
    path = save_model(build("hvae", load("rings")), tmp_path / "w.safetensors")
    kind, state, about = read_tensors(path)
    about["built_from"]["log_scale_bounds"] = [-3.0, 1.0]
    write_tensors(path, kind, state, about)
    assert "the bounds of log σ were [-3.0, 1.0] and are [-3.0, 1.0, " in refusal(load_model, path)
    about["built_from"]["log_scale_bounds"] = None
    write_tensors(path, kind, state, about)
    conditional = load_model(path).get_submodule("prior.conditional")
    assert vars(conditional)["log_scale_bounds"] == UNBOUNDED


def test_a_run_from_before_the_bounds_of_log_scale_does_not_go_on(tmp_path: Path) -> None:
    data, path = load("rings"), tmp_path / "run.pt"
    vae = build("gaussian", data)
    fit(vae, data, epochs=1, decay=0.0, checkpoint=path)
    kind, state, about = read_tensors(path)
    del about["built_from"]["log_scale_bounds"], about["run"]["log_scale_bounds"]
    write_tensors(path, kind, state, about)
    said = refusal(lambda: fit(vae, data, epochs=2, decay=0.0, checkpoint=path))
    assert "differs in log_scale_bounds" in said


@pytest.mark.parametrize(
    "built_from",
    [
        {"model": "diffusion", "sizes": {"latent": 3, "hidden": [8]}},
        {"model": "gaussian", "sizes": {"latent": 4, "hidden": [8]}},
        {"model": "gaussian", "sizes": {"latent": 3, "hidden": [8], "depth": 2}},
        {"model": "gaussian", "sizes": {"latent": 3}},
        {"model": "gaussian"},
        {"model": "gaussian", "sizes": {"latent": 3, "hidden": [8]}, "data": {"name": "x"}},
        {"model": "gaussian", "sizes": [3, 8]},
        ["gaussian"],
    ],
)
def test_a_file_of_what_this_version_does_not_build_is_one_line(
    built_from: Any, tmp_path: Path
) -> None:
    data, path = pictures(), tmp_path / "run.pt"
    fit(build("gaussian", data, SIZES), data, epochs=1, checkpoint=path, name="gaussian")
    kind, state, about = read_tensors(path)
    if isinstance(built_from, dict):
        built_from = {"data": data.form} | built_from
    write_tensors(path, kind, state, about | {"built_from": built_from})
    assert str(path) in refusal(load_model, path)


# --- files that are whole, and wrong ----------------------------------------------------------


def crafted(path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """What is said of a file with a right sum that says something else."""
    kind, state, about = read_tensors(path)
    change(about)
    write_tensors(path, kind, state, about)
    return refusal(load_model, path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    vae = build("mixture", pictures(), SIZES)
    return save_model(
        vae, tmp_path / "w.safetensors", History([1.0], [1.0], [0.5], 1, median=[0.5])
    )


@pytest.mark.parametrize(
    "change",
    [{"seed": "3"}, {"seed": 2**63}, {"beta": -1}, {"beta": math.nan}, {"beta": [1]}, {"model": 3},
     {"model": "x" * 300}, {"data": None}, {"settings": []}, {"settings": {"lr": "high"}},
     {"history": {}}, {"history": None}, {"more": 1}, {"seed": 10**400}],
)  # fmt: skip
def test_each_field_of_a_weights_file_has_its_kind_and_its_range(
    change: dict[str, Any], weights: Path
) -> None:
    assert "train again: see " in crafted(weights, lambda about: about.update(change))


@pytest.mark.parametrize(
    "change",
    [{"loss": [1.0, 2.0]}, {"kl": []}, {"best_epoch": 2}, {"median": [1.0, 2.0]}, {"kl": [None]},
     {"loss": [math.nan]}, {"seconds": -1.0}],
)  # fmt: skip
def test_a_history_that_contradicts_itself_is_refused(
    change: dict[str, Any], weights: Path
) -> None:
    said = crafted(weights, lambda about: about["history"].update(change))
    assert "train again: see history/" in said


def test_weights_that_are_no_numbers_are_refused_by_name(weights: Path) -> None:
    for wrong in (math.nan, math.inf):
        kind, state, about = read_tensors(weights)
        name = sorted(state)[3]
        state[name].view(-1)[-1] = wrong
        write_tensors(weights, kind, state, about)
        assert repr(name) in (said := refusal(load_model, weights)) and "NaN" in said


def test_what_could_not_be_read_again_is_not_saved(weights: Path) -> None:
    content, vae = weights.read_bytes(), load_model(weights)
    for seed, beta in ((0.5, 1.0), (0, math.nan), (0, -1.0)):
        said = refusal(lambda s=seed, b=beta: save_model(vae, weights, seed=s, beta=b))  # type: ignore
        assert "was not written" in said
    assert weights.read_bytes() == content


# --- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_no_model_falls_short_of_its_least_or_exceeds_it_a_thousandfold(name: str) -> None:
    flat = Sizes(2, (1, 1), components=1, pseudo_inputs=1, transforms=1, flow_hidden=(1,))
    deep = Sizes(2, (2, 2), transforms=40, flow_hidden=(2, 2))
    wide = Sizes(4, (300, 20), components=900, pseudo_inputs=40, flow_hidden=(3, 200))
    for data in (blank("x", 20, likelihood="bernoulli"), load("rings"), outline("fixed-mnist")):
        for sizes in (SIZES, flat, deep, wide, default_sizes(data)):
            state = assemble(name, data, sizes).state_dict()
            numbers = sum(x.numel() for x in state.values())
            least = least_numbers(name, sizes, data.features)
            assert least <= numbers <= 1000 * least, (data.name, sizes)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [("mixture", {"components": 2**31}), ("gaussian", {"hidden": [2**31, 2**31]}),
     ("vampprior", {"pseudo_inputs": 50_000}), ("flow-prior", {"flow_hidden": [30_000, 30_000]}),
     ("spline-flow-both", {"transforms": 1000}), ("hvae", {"latent": 2**31})],
)  # fmt: skip
def test_a_small_file_of_a_huge_model_is_refused_before_anything_is_built(
    model: str, sizes: dict[str, Any], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(about: dict[str, Any]) -> None:
        about["model"] = about["built_from"]["model"] = model
        about["built_from"]["sizes"] |= sizes

    monkeypatch.setattr("flowvae_tutorial.storage.trained.assemble", None)
    monkeypatch.setattr("flowvae_tutorial.storage.trained.blank", None)
    assert "numbers, and the file" in crafted(weights, change)


@pytest.mark.parametrize("count", ["300000000", "100000", "9" * 5000])
def test_a_name_with_a_huge_count_is_refused_before_anything_is_built(
    count: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowvae_tutorial.storage.trained.assemble", None)
    named = {"model": f"mixture-k{count}"[:200], "data": "rings", "built_from": None}
    said = crafted(weights, lambda about: about.update(named))
    assert ("numbers, and the file" if count == "100000" else "100000 are the most") in said


@pytest.mark.parametrize("count", ["100001", "300000000", "9" * 5000, "0500000"])
def test_more_components_than_any_data_have_examples_are_refused(count: str) -> None:
    for model in ("mixture", "vampprior"):
        assert "100000 are the most" in refusal(build, f"{model}-k{count}", load("rings"))
    assert resolve("mixture-k100000", load("rings"))[1].components == 100_000


@pytest.mark.parametrize("name", ["../up", "/up", "..\\up", "a\0"])
@pytest.mark.parametrize("key", ["model", "data"])
@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_a_file_whose_names_are_paths_is_refused(
    kind: str, key: str, name: str, tmp_path: Path
) -> None:
    """What is written of a run is named after it."""
    path = tmp_path / "model.safetensors"
    if kind == "weights":
        save_model(build("gaussian", pictures()), path)
    else:
        fit(build("gaussian", pictures()), pictures(), epochs=1, checkpoint=path, name="gaussian")
    said, tensors, about = read_tensors(path)
    (about if kind == "weights" else about["run"])[key] = name
    write_tensors(path, said, tensors, about)
    assert f"{key}: {name!r} does not match" in refusal(load_trained, path)
