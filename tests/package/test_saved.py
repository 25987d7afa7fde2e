"""Models of data that the package does not know: saved, found again, and gone on with."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flowvae_tutorial import VAE, InputError, build, fit, load_model, own_data, save_model
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.models import BOOK_MODELS, Sizes, assemble, on_first_stage
from flowvae_tutorial.storage.checkpoints import load_checkpoint, save_checkpoint
from flowvae_tutorial.storage.trained import load_trained

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


def as_before(path: Path) -> None:
    """Make of a checkpoint one of the version before."""
    state = load_checkpoint(path)
    del state["built_from"], state["run"]["data_checksum"]
    save_checkpoint(path, state)


def test_a_run_of_the_version_before_is_read_and_goes_on(tmp_path: Path) -> None:
    data, path = load("rings"), tmp_path / "run.pt"
    whole = build("gaussian", data)
    state = {name: value.clone() for name, value in whole.state_dict().items()}
    fit(whole, data, epochs=2)
    vae = build("gaussian", data)
    vae.load_state_dict(state)
    fit(vae, data, epochs=1, checkpoint=path, name="gaussian")
    as_before(path)
    assert same(load_model(path), vae)
    fit(vae, data, epochs=2, checkpoint=path, name="gaussian")
    assert same(vae, whole)


def test_a_file_of_the_version_before_does_not_say_the_form_of_unknown_data(
    tmp_path: Path,
) -> None:
    data, path = pictures(), tmp_path / "run.pt"
    fit(build("gaussian", data, SIZES), data, epochs=1, checkpoint=path, name="gaussian")
    as_before(path)
    assert "'pictures'" in refusal(load_model, path)


def test_a_run_does_not_go_on_with_other_data_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    vae = build("gaussian", pictures(), SIZES)
    fit(vae, pictures(), epochs=1, checkpoint=path)
    fit(vae, pictures(), epochs=2, checkpoint=path)
    said = refusal(lambda: fit(vae, pictures(1), epochs=3, checkpoint=path))
    assert "differs in data_checksum" in said


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
    state = load_checkpoint(path)
    if isinstance(built_from, dict):
        built_from = {"data": data.form} | built_from
    save_checkpoint(path, state | {"built_from": built_from})
    assert str(path) in refusal(load_model, path)
