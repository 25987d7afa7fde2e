"""Arguments of any kind: each works, or is refused in one line, and nothing is lost by it.

`FLOWVAE_EXAMPLES=50000` tries so many in each test, and others.
"""

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from flowvae_tutorial import (
    VAE,
    BernoulliLikelihood,
    CouplingFlow,
    FlowPosterior,
    GaussianLikelihood,
    GaussianMixture,
    GaussianPosterior,
    HierarchicalPosterior,
    InputError,
    StandardNormal,
    VampPrior,
    build,
    elbo_surgery,
    evaluate,
    fit,
    gated_mlp,
    mlp,
    precision_and_recall,
    prior_gap,
    pseudo_inputs_from,
    refine,
)
from flowvae_tutorial.arguments import (
    LARGEST,
    SIZE,
    interval,
    number,
    plain_name,
    text,
    whole,
    widths,
)
from flowvae_tutorial.data import Data
from flowvae_tutorial.models import Sizes
from flowvae_tutorial.networks import UNBOUNDED
from flowvae_tutorial.storage.checkpoints import load_checkpoint
from flowvae_tutorial.storage.schema import NAME, breach
from flowvae_tutorial.training import NotFinite, device_by_name

X = torch.linspace(0, 1, 32).reshape(16, 2)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 250
    return str(error.value)


def data(batch: Callable[[Tensor], Tensor] = torch.clone) -> Data:
    return Data("tiny", X[:8], X[8:12], X[12:], likelihood="gaussian", batch=batch)


def tiny() -> VAE:
    torch.manual_seed(0)
    return VAE(
        StandardNormal(1),
        GaussianPosterior(nn.Linear(2, 2)),
        GaussianLikelihood(nn.Linear(1, 2), features=2),
    )


# --- each kind by itself ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3).byte()]
)
def test_a_whole_number_of_any_kind_becomes_pythons_own(value: Any) -> None:
    assert type(whole(value, "n")) is int and whole(value, "n") == 3
    assert type(number(value, "n")) is float and number(value, "n") == 3.0
    assert widths([value, 4], "n") == (3, 4)


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.float16(0.5), np.longdouble(0.5), np.array(0.5), torch.tensor(0.5),
     Fraction(1, 2), nn.Parameter(torch.tensor(0.5))],
)  # fmt: skip
def test_a_number_of_any_kind_becomes_pythons_own(value: Any) -> None:
    assert type(number(value, "n")) is float and number(value, "n") == 0.5
    assert interval((value, 1), "n") == (0.5, 1.0)
    assert "n must be a whole number, got " in refusal(lambda: whole(value, "n"))


def test_text_of_numpys_becomes_pythons_own() -> None:
    assert type(text(np.str_("a"), "name")) is str
    assert refusal(lambda: text(b"a", "name")) == "name must be text, got b'a'"


@pytest.mark.parametrize(
    ("value", "says"),
    [(2.0, "a whole number, got 2.0"), (True, "a whole number, got True"),
     (np.bool_(1), "a whole number, got np.True_"), ("3", "a whole number, got '3'"),
     (torch.tensor(True), "a whole number, got tensor(True)"), (None, "a whole number, got None"),
     (np.array([3]), "a whole number, got array([3])"), (0, "from 1 to 2147483647, got 0"),
     (np.int8(-1), "from 1 to 2147483647, got -1"),
     (2**31, "from 1 to 2147483647, got 2147483648")],
)  # fmt: skip
def test_what_is_no_count_is_refused(value: Any, says: str) -> None:
    assert refusal(lambda: whole(value, "epochs")) == f"epochs must be {says}"


def test_a_number_that_python_does_not_write_out_is_told_by_its_length() -> None:
    message = refusal(lambda: whole(10**5000, "epochs"))
    assert message == "epochs must be from 1 to 2147483647, got a whole number of 16610 bits"


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, -1, "1", True, 1j, None, 10**400, [1.0], torch.ones(2),
     torch.tensor(1.0, device="meta"), Decimal(1)],
)  # fmt: skip
def test_what_is_no_number_is_refused(value: Any) -> None:
    message = refusal(lambda: number(value, "beta"))
    assert message.startswith("beta must be a number from 0 to 1e+30, got ")
    assert "bounds must be two numbers, the lower first" in refusal(
        lambda: interval((value, value), "bounds")
    )


def test_the_ends_of_a_number_are_where_they_are_said_to_be() -> None:
    assert number(0, "decay", most=1) == 0 and number(1, "decay", most=1) == 1
    assert "from 0 to 1, got 1.5" in refusal(lambda: number(1.5, "decay", most=1))
    assert number(math.inf, "clip", positive=True, most=math.inf) == math.inf
    assert "a number above 0, got nan" in refusal(
        lambda: number(math.nan, "clip", positive=True, most=math.inf)
    )
    assert "a number above 0 to 1e+30, got 0" in refusal(lambda: number(0, "lr", positive=True))
    assert whole(LARGEST, "n") == LARGEST and widths([SIZE], "hidden") == (SIZE,)
    assert "from 1 to 1000000" in refusal(lambda: widths([SIZE + 1], "hidden"))


@pytest.mark.parametrize("value", [UNBOUNDED, (-math.inf, 1), (1, 0), (0, 1, 2), 3, "01", None])
def test_no_interval_but_two_finite_numbers_in_order(value: Any) -> None:
    assert "; None sets none" in refusal(lambda: interval(value, "bounds"))
    if value == UNBOUNDED:
        assert interval(np.array(value), "bounds", unbounded=True) == UNBOUNDED
    else:
        assert "UNBOUNDED" in refusal(lambda: interval(value, "bounds", unbounded=True))


# --- where they are used ----------------------------------------------------------------------


def test_a_run_with_numpys_numbers_is_the_run_with_pythons_and_goes_on(tmp_path: Path) -> None:
    plain: dict[str, Any] = {
        "seed": 1, "beta": 0.5, "warmup": 2, "name": "a", "batch_size": 3, "decay": 0.0
    }  # fmt: skip
    others: dict[str, Any] = {
        "seed": np.int64(1), "beta": np.linspace(0, 1, 3)[1], "warmup": torch.tensor(2),
        "name": np.str_("a"), "batch_size": np.int32(3), "decay": torch.tensor(0.0),
    }  # fmt: skip
    path, whole_run = tmp_path / "run.pt", tiny()
    fit(whole_run, data(), epochs=4, **plain)
    fit(tiny(), data(), epochs=np.int64(2), checkpoint=path, **others)
    vae = tiny()
    history = fit(vae, data(), epochs=4, checkpoint=path, **plain)
    assert len(history.loss) == 4
    assert all(map(torch.equal, vae.state_dict().values(), whole_run.state_dict().values()))


@pytest.mark.parametrize("bad", ["a/b", "a\\b", "a\0", "/", "x" * 201])
def test_what_no_checkpoint_may_be_called_is_refused_before_the_first_epoch(
    bad: str, tmp_path: Path
) -> None:
    assert breach(NAME, bad) is not None, "so that a checkpoint would not be written"
    path = tmp_path / "run.pt"

    def batch(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("training began")

    plain, named = data(batch), replace(data(batch), name=bad)
    for said in (
        refusal(lambda: fit(tiny(), plain, epochs=1, name=bad, checkpoint=path)),
        refusal(lambda: fit(tiny(), plain, epochs=1, name=bad)),
        refusal(lambda: fit(tiny(), named, epochs=1, name="a", checkpoint=path)),
    ):
        assert "name must be no path and have at most 200 characters, got '" in said
    assert not path.exists()


@pytest.mark.parametrize("good", ["", "x" * 200, "ä:b c*", "a\nb"])
def test_what_a_checkpoint_may_be_called_is_taken(good: str) -> None:
    assert plain_name(good, "name") == good and breach(NAME, good) is None


def test_without_gradients_there_is_no_fit() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert "call it outside of no_grad" in refusal(lambda: fit(tiny(), data()))


def test_a_model_with_nothing_to_learn_is_refused() -> None:
    vae = tiny().requires_grad_(False)
    assert "all weights of the model are frozen" in refusal(lambda: fit(vae, data()))
    vae.likelihood.raw_scale.requires_grad_()
    before = vae.likelihood.raw_scale.clone()
    fit(vae, data(), epochs=1)
    assert not torch.equal(vae.likelihood.raw_scale, before)


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        vae = tiny()
    assert "made in inference_mode" in refusal(lambda: fit(vae, data()))


def test_arguments_in_the_wrong_order_are_refused() -> None:
    assert "trains a VAE, got Data" in refusal(lambda: fit(data(), tiny()))  # type: ignore[arg-type]


def test_a_name_of_so_many_components_that_no_machine_holds_them_is_refused() -> None:
    for name in ("mixture-k300000000", f"mixture-k{'9' * 5000}"):
        with pytest.raises(InputError, match=r"\A[^\n]*\Z"):
            build(name, data())


def test_samples_are_counted_before_the_long_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VAE, "log_marginal", None)
    assert "elbo_samples" in refusal(lambda: evaluate(tiny(), X, elbo_samples=0))


@pytest.mark.parametrize("net", [3, None, "mlp", X, nn.Linear, [nn.Linear(2, 2)]], ids=repr)
def test_what_is_no_network_is_refused_where_it_is_given(net: Any) -> None:
    flow, whole_net = CouplingFlow(2, 2), nn.Linear(2, 4)
    given: dict[str, Callable[[], object]] = {
        "net": lambda: GaussianPosterior(net), "net ": lambda: FlowPosterior(net, flow),
        "net  ": lambda: BernoulliLikelihood(net), "net   ": lambda: GaussianLikelihood(net, 2),
        "flow": lambda: FlowPosterior(whole_net, net),
        "top": lambda: HierarchicalPosterior(net, whole_net),
        "conditional": lambda: HierarchicalPosterior(whole_net, net),
    }  # fmt: skip
    for name, call in given.items():
        assert refusal(call).startswith(f"{name.strip()} must be a module")


@pytest.mark.parametrize("beta", ["a", None, [1.0], torch.ones(2), 10**400, 1j, -1], ids=repr)
def test_a_weight_that_is_no_number_is_refused(beta: Any) -> None:
    assert "beta must be a number" in refusal(lambda: tiny().loss(X, beta))


def test_a_weight_may_be_of_torch_and_learn() -> None:
    vae, weight = tiny(), nn.Parameter(torch.tensor(0.5))
    losses = []
    for beta in (0.5, np.float32(0.5), weight):
        torch.manual_seed(0)
        losses.append(vae.loss(X, beta))
    assert losses[0] == losses[1] == losses[2]
    losses[2].backward()
    torch.manual_seed(0)
    assert weight.grad == vae.elbo(X).kl.mean()
    whole_number = torch.compile(vae.loss, backend="eager", fullgraph=True)
    assert whole_number(X, 1).isfinite() and whole_number(X, 1.0).isfinite()


# --- mutations --------------------------------------------------------------------------------

MANY = int(os.environ.get("FLOWVAE_EXAMPLES", "0"))
ODD: list[Any] = [
    True, None, "3", "", "cpu:1", "é\n", b"3", 1j, math.nan, math.inf, -math.inf, 0, -1, 1, 2,
    0.0, -0.0, 0.5, 2.0, 1e3, 1e-320, 1e38, 1e308, 10**30, -(10**30), 10**5000, LARGEST, 2**31,
    2**63, 2**64, [], [3], (1, 2), (0, 1), {}, object(), Fraction(1, 2), Decimal(1), Path("x"),
    np.int64(2), np.int8(-1), np.uint64(2**63), np.float32(0.5), np.float64("nan"), np.float16(1),
    np.longdouble(1), np.bool_(True), np.str_("x"), np.array(2), np.array([2]), np.array("2"),
    np.datetime64("2020"), torch.tensor(2), torch.tensor(0.5), torch.tensor(math.nan),
    torch.tensor([1.0, 2.0]), torch.tensor(True), torch.tensor(2, dtype=torch.uint8),
    torch.tensor(1j), torch.zeros(0), torch.tensor(2.0, device="meta"), torch.zeros(3, 2),
    nn.Parameter(torch.tensor(0.5)), torch.device("cpu"), torch.device("cpu:0"),
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(ODD), st.integers(-3, 6), st.integers(), st.floats(), st.text(max_size=3)
)


class Enough(BaseException):
    """So many steps were done that the arguments work."""


def limited(steps: int) -> Callable[[Tensor], Tensor]:
    def batch(x: Tensor) -> Tensor:
        nonlocal steps
        steps -= 1
        if steps < 0:
            raise Enough
        return x.clone()

    return batch


def mutations(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=2)


some_examples = settings(
    max_examples=MANY or 250, derandomize=not MANY, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def works_or_refuses(call: Callable[[], object], *refusals: type[Exception]) -> bool:
    """Whether it works. Any other exception than these comes through."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            call()
    except Enough:
        return True
    except refusals as error:
        assert type(error) in refusals and "\n" not in str(error) and len(str(error)) < 400
        return False
    return True


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("fit") / "run.pt"
    fit(tiny(), data(), epochs=1, batch_size=4, warmup=1, checkpoint=path)
    return path, path.read_bytes()


@some_examples
@given(
    changed=mutations(
        ["epochs", "batch_size", "lr", "decay", "clip", "beta", "warmup", "patience", "seed",
         "device", "name"]
    ),
    there=st.booleans(),
    name=st.sampled_from(["tiny", np.str_("tiny"), 3, None]),
)  # fmt: skip
@example(changed={"seed": np.int64(1)}, there=False, name="tiny")
@example(changed={"warmup": math.nan}, there=False, name="tiny")
@example(changed={"epochs": 10**30}, there=True, name="tiny")
def test_fit_works_or_refuses_and_every_checkpoint_can_be_read(
    kept: tuple[Path, bytes], changed: dict[str, Any], there: bool, name: Any
) -> None:
    path, content = kept
    path.write_bytes(content) if there else path.unlink(missing_ok=True)
    arguments = {"epochs": 2, "batch_size": 4, "warmup": 1} | changed
    given_data = replace(data(limited(40)), name=name)
    # The check of the data takes one batch of all of them, and a step its own.
    vae = tiny()
    works = works_or_refuses(
        lambda: fit(vae, given_data, checkpoint=path, **arguments), InputError, NotFinite
    )
    assert all(value.isfinite().all() for value in vae.state_dict().values())
    if path.exists():
        load_checkpoint(path)
        # Whatever was said, what was there is still of its run.
        assert works or not there or path.read_bytes() == content or "epochs" in str(changed)
    else:
        assert not there


def below(x: Tensor, z: Tensor) -> Independent:
    return Independent(Normal(z + x.sum(-1, keepdim=True), 1), 1)


CALLS: dict[str, tuple[Callable[..., object], dict[str, Any]]] = {
    "StandardNormal": (StandardNormal, {"features": 2}),
    "GaussianMixture": (GaussianMixture, {"features": 2, "components": 3}),
    "CouplingFlow": (
        CouplingFlow,
        {"features": 2, "context": 0, "transforms": 2, "hidden": (4,), "kind": "affine"},
    ),
    "mlp": (mlp, {"in_features": 2, "hidden": (4,), "out_features": 2}),
    "gated_mlp": (gated_mlp, {"in_features": 2, "hidden": (4,), "out_features": 2}),
    "BernoulliLikelihood": (
        lambda **more: BernoulliLikelihood(**more)(torch.zeros(1, 1, 1)), {"net": nn.Linear(1, 2)}
    ),
    "GaussianLikelihood": (
        lambda **more: GaussianLikelihood(**more)(torch.zeros(1, 1, 1)),
        {"net": nn.Linear(1, 2), "features": 2, "min_scale": 0.01},
    ),
    "GaussianPosterior": (
        lambda **more: GaussianPosterior(**more)(X).rsample(),
        {"net": nn.Linear(2, 2), "log_scale_bounds": None},
    ),
    "FlowPosterior": (
        lambda **more: FlowPosterior(**more)(X).rsample(),
        {"net": nn.Linear(2, 4), "flow": CouplingFlow(2, 2), "log_scale_bounds": None},
    ),
    "HierarchicalPosterior": (
        lambda **more: HierarchicalPosterior(**more)(X).rsample(),
        {"top": GaussianPosterior(nn.Linear(2, 2)), "conditional": below},
    ),
    "VampPrior": (
        lambda **more: VampPrior(GaussianPosterior(nn.Linear(2, 2)), **more)().sample(),
        {"pseudo_inputs": X, "logits": None, "bounds": (0, 1)},
    ),
    "pseudo_inputs_from": (
        pseudo_inputs_from, {"x": X, "components": 3, "noise": 0.05, "bounds": (0, 1)}
    ),
    "build": (
        lambda model, **sizes: build(model, data(), Sizes(**sizes)),
        {"model": "vampprior-flow-posterior", "latent": 2, "hidden": (4,), "components": 3,
         "pseudo_inputs": 4, "transforms": 2, "flow_hidden": (4,)},
    ),
    "build levels": (
        lambda model, **sizes: build(model, data(), Sizes(**sizes)),
        {"model": "hvae", "latent": 2, "hidden": (4,), "components": 3},
    ),
    "elbo": (lambda **more: tiny().elbo(**more), {"x": X, "num_samples": 2}),
    "loss": (lambda **more: tiny().loss(**more), {"x": X, "beta": 0.5}),
    "log_marginal": (lambda **more: tiny().log_marginal(**more), {"x": X, "num_samples": 2}),
    "sample": (
        lambda **more: tiny().sample(**more),
        {"n": 2, "refine_steps": 1, "refine_lr": 0.1, "anchor": 0.1},
    ),
    "evaluate": (
        lambda **more: evaluate(tiny(), **more), {"x": X, "num_samples": 2, "elbo_samples": 2}
    ),
    "elbo_surgery": (lambda **more: elbo_surgery(tiny(), **more), {"x": X, "num_samples": 2}),
    "prior_gap": (lambda **more: prior_gap(tiny(), X, X, **more), {"components": 2}),
    "precision_and_recall": (lambda **more: precision_and_recall(X, X, **more), {"k": 2}),
    "refine": (
        lambda **more: refine(X, lambda z: -z.square().sum(-1), **more),
        {"steps": 1, "lr": 0.1, "anchor": 0.1, "temperature": 0.0},
    ),
    "device_by_name": (lambda **more: device_by_name(**more), {"name": "cpu"}),
}  # fmt: skip


def short(value: Any) -> Any:
    """No count that would be taken at its word and take minutes."""
    large = isinstance(value, int) and 1000 < value <= LARGEST
    return 3 if large else value


@some_examples
@given(
    which=st.sampled_from(sorted(CALLS)).flatmap(
        lambda name: st.tuples(st.just(name), mutations(list(CALLS[name][1])))
    )
)
def test_what_is_built_or_asked_works_or_is_refused(which: tuple[str, dict[str, Any]]) -> None:
    name, changed = which
    call, arguments = CALLS[name]
    arguments = arguments | {name: short(value) for name, value in changed.items()}
    works_or_refuses(lambda: call(**arguments), InputError)


def test_every_call_works_as_it_stands() -> None:
    for call, arguments in CALLS.values():
        assert works_or_refuses(lambda call=call, given=arguments: call(**given))
