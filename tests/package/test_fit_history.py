"""What `fit` keeps of a run, what it warns of, and what it says of data that it cannot take."""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from flowvae_tutorial import (
    VAE,
    GaussianLikelihood,
    History,
    InputError,
    StandardNormal,
    build,
    fit,
)
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.history import Validation
from flowvae_tutorial.models import Sizes
from flowvae_tutorial.storage.checkpoints import load_checkpoint, save_checkpoint
from flowvae_tutorial.storage.trained import Trained, load_trained, save_trained
from flowvae_tutorial.training import loop as training


@pytest.fixture
def data() -> Data:
    rings = load("rings")
    return replace(
        rings, train=rings.train[:100], validation=rings.validation[:51], test=rings.test[:5]
    )


def model(data: Data) -> VAE:
    torch.manual_seed(0)
    return build("gaussian", data, Sizes(latent=2, hidden=(8,)))


class Far(nn.Module):
    """A posterior whose scale is e⁹ at points beyond 100 and 1 elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Distribution:
        log_scale = 9.0 * (x.abs() > 100).any(dim=-1, keepdim=True)
        return Independent(Normal(self.loc.expand_as(x), log_scale.expand_as(x).exp()), 1)


def far(data: Data) -> VAE:
    # A decoder that looks at nothing: the KL term alone runs away.
    decoder = nn.Linear(2, 2)
    nn.init.zeros_(decoder.weight)
    decoder.requires_grad_(False)
    return VAE(StandardNormal(2), Far(), GaussianLikelihood(decoder, 2))


def with_a_far_one(data: Data) -> Data:
    validation = data.validation.clone()
    validation[7] = 101.0
    return replace(data, validation=validation)


# --- mean and median --------------------------------------------------------------------------


def test_the_median_is_that_of_the_elbo_per_example(data: Data) -> None:
    vae = model(data)
    history = fit(vae, data, epochs=3)
    assert len(history.median) == 3
    torch.manual_seed(training.VALIDATION_SEED)
    with torch.no_grad():
        each = vae.elbo(data.validation, training.VALIDATION_SAMPLES).value.mean(dim=0)
    best = history.best_epoch - 1
    assert history.median[best] == pytest.approx(each.sort().values[25].item(), abs=1e-5)
    assert history.elbo[best] == pytest.approx(each.mean().item(), abs=1e-5)
    assert abs(history.median[best] - history.elbo[best]) > 1e-3, "else either would pass"


def test_one_example_that_outweighs_all_others_is_told_once_a_run(data: Data) -> None:
    for _ in range(2):
        says = r"\Aafter epoch 1 the mean validation ELBO, -[^\n]*of nine examples in ten[^\n]*\Z"
        with pytest.warns(UserWarning, match=says) as told:
            history = fit(far(data), with_a_far_one(data), epochs=3, warmup=0)
        assert len(told) == 1
        assert history.elbo[-1] < -1e6 < -1e3 < history.median[-1]


def test_nothing_is_told_without_such_an_example_or_in_the_warm_up(data: Data) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(far(data), data, epochs=3, warmup=0)
        fit(far(data), with_a_far_one(data), epochs=3, warmup=3)
    with pytest.warns(UserWarning, match="after epoch 4 the mean"):
        fit(far(data), with_a_far_one(data), epochs=4, warmup=3)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 3.0, 4.0])
def test_the_threshold_is_where_its_docstring_says(sigma: float) -> None:
    """Of a log-normal tail with σ, mean exp(σ²/2) and upper tenth exp(1.2816 σ)."""
    mean, tenth = math.exp(sigma**2 / 2), math.exp(1.2816 * sigma)
    assert Validation(-mean, 0.0, -1.0, -tenth).hangs_on_few == (sigma > 2.6)
    exponential = Validation(-1.0, 0.0, -math.log(2), -math.log(10))
    assert not exponential.hangs_on_few
    share = (1 - math.log(2)) / (math.log(10) - math.log(2))
    assert share == pytest.approx(0.2, abs=0.02), "a fifth of the way"


# --- files that do not keep it ----------------------------------------------------------------


def test_a_checkpoint_that_keeps_no_medians_is_read_and_continued(
    data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    whole, resumed = model(data), model(data)
    expected = fit(whole, data, epochs=4, decay=0.0, name="gaussian")
    fit(model(data), data, epochs=2, decay=0.0, name="gaussian", checkpoint=path)
    state = load_checkpoint(path)
    del state["history"]["median"]
    save_checkpoint(path, state)
    history = fit(resumed, data, epochs=4, decay=0.0, name="gaussian", checkpoint=path)
    assert history.elbo == expected.elbo and history.median[2:] == expected.median[2:]
    assert len(history.median) == 4 and all(math.isnan(value) for value in history.median[:2])


def test_weights_that_keep_no_medians_are_read(data: Data, tmp_path: Path) -> None:
    vae = build("gaussian", data)
    old = asdict(fit(vae, data, epochs=1))
    del old["median"]
    history = History(**old)
    trained = Trained(vae, "gaussian", "rings", 0, 1.0, {}, history)
    assert load_trained(save_trained(trained, tmp_path / "w.safetensors")).history == history
    assert history.median == []


# --- data that it cannot take -----------------------------------------------------------------


BAD: dict[str, tuple[Callable[[Data], Data], str]] = {
    "NumPy, training": (
        lambda data: replace(data, train=data.train.numpy()),
        r"train must be a floating-point tensor \(N, X\), got ndarray: `own_data` takes",
    ),
    "NumPy, test": (
        lambda data: replace(data, test=data.test.numpy()),
        r"test must be a floating-point tensor \(N, X\), got ndarray",
    ),
    "float64": (
        lambda data: replace(data, train=data.train.double(), validation=data.validation.double()),
        r"is torch\.float64, the model torch\.float32: convert one",
    ),
    "float64, validation": (
        lambda data: replace(data, validation=data.validation.double()),
        r"data\.validation is torch\.float64, the model torch\.float32",
    ),
    "uint8": (
        lambda data: replace(data, train=(data.train > 0).to(torch.uint8)),
        r"train must be a floating-point tensor \(N, X\), got torch\.uint8 \(100, 2\)",
    ),
    "no probabilities": (
        lambda data: replace(data, batch=torch.bernoulli),
        r"data\.batch does not take data\.train, torch\.float32 of shape \(100, 2\): ",
    ),
    "not flat": (
        lambda data: replace(data, validation=data.validation[:, None]),
        r"validation must be a floating-point tensor \(N, X\), got torch\.float32 \(51, 1, 2\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_fit_cannot_take_are_named_in_one_line(name: str, data: Data) -> None:
    change, says = BAD[name]
    vae, state = model(data), torch.get_rng_state()
    with pytest.raises(InputError, match=rf"\A[^\n]*{says}[^\n]*\Z"):
        fit(vae, change(data), epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
