"""The live figures' JavaScript beside PyTorch and the package: the same numbers in float64."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from playwright.sync_api import Browser, Page
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from flowvae_tutorial import (
    VAE,
    CouplingFlow,
    FlowPosterior,
    GaussianLikelihood,
    GaussianMixture,
    GaussianPosterior,
    Mixture,
    StandardNormal,
    VampPrior,
    mlp,
)
from flowvae_tutorial.networks import LOG_SCALE_BOUNDS, soft_clamp
from test_browser import browser  # noqa: F401  (a fixture)

LIVE = Path(__file__).parents[2] / "book" / "live"
# In the order in which the page of the lab names them.
CORE = [
    "tensor", "random", "networks", "distributions", "splines", "flows", "vae", "data", "models",
    "training",
]  # fmt: skip
HIDDEN, K, N, STEPS = [32, 32], 7, 20, 200

# Of a module, the weights; of a flow, its permutations too.
FILL = """
const { Tensor } = FlowVAE;
const T = rows => Tensor.from(rows);
const P = rows => Tensor.parameter(rows.length, rows[0].length, T(rows).data);
const rows = t => Array.from({ length: t.rows }, (_, r) => [...t.row(r)]);
const random = new FlowVAE.Random(0);
const fill = (module, weights) => {
  if (module.parameters.length != weights.length) throw new Error('other parameters');
  module.parameters.forEach((p, i) => {
    if (p.data.length != weights[i].flat().length) throw new Error(`${i} of another size`);
    p.data.set(weights[i].flat());
  });
  return module;
};
const gradientOf = (inputs, f) => {
  inputs.forEach(t => t.grad.fill(0));
  FlowVAE.gradients(() => FlowVAE.mean(f()));
  return inputs.map(t => [...t.grad]);
};
"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:  # noqa: F811
    page = browser.new_page()
    page.set_default_timeout(120_000)
    for name in CORE:
        page.add_script_tag(path=LIVE / f"{name}.js")
    yield page
    page.close()


def lists(value: Any) -> Any:
    """Tensors as lists of rows, in dictionaries and lists too."""
    if isinstance(value, Tensor):
        return torch.atleast_2d(value.detach()).tolist()
    if isinstance(value, dict):
        return {key: lists(part) for key, part in value.items()}
    return [lists(part) for part in value] if isinstance(value, list | tuple) else value


def run(page: Page, script: str, **given: Any) -> Any:
    """What `script`, the body of a function, returns for what it is given, tensors as rows."""
    names = ", ".join(given)
    return page.evaluate(f"({{ {names} }}) => {{ {FILL} {script} }}", lists(given))


def same(found: Any, expected: Tensor) -> None:
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64).flatten(), expected.detach().flatten(),
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip


def weights(module: nn.Module) -> list[Tensor]:
    return list(module.parameters())


def orders(module: nn.Module) -> list[list[int]]:
    """Of each flow in a module, its permutations."""
    return [m.orders.tolist() for m in module.modules() if isinstance(m, CouplingFlow)]


def scatter(module: nn.Module) -> None:
    """Moves every parameter, since a flow and a mixture start as identities."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("function", ["exp", "log", "tanh", "square", "softplus", "silu"])
def test_functions_and_slopes_are_those_of_torch(page: Page, function: str) -> None:
    x = torch.linspace(0.01, 4, 50) if function == "log" else torch.linspace(-30, 30, 61)
    x.requires_grad_()
    named = getattr(torch, function, None) or getattr(nn.functional, function)
    y = named(x)
    (slope,) = torch.autograd.grad(y.mean(), x)
    found = run(
        page, "const x = P(X); const y = FlowVAE[f](x);"
        "return [rows(y), gradientOf([x], () => FlowVAE[f](x))]", X=x, f=function,
    )  # fmt: skip
    same(found[0], y)
    same(found[1], slope)


def test_the_soft_clamp_is_the_packages(page: Page) -> None:
    x = torch.tensor([-1e6, -40.0, -3.2, -2.9, -2.0, -1.0, 0.5, 0.9, 1.3, 60.0], requires_grad=True)
    y = soft_clamp(x, *LOG_SCALE_BOUNDS)
    (slope,) = torch.autograd.grad(y.mean(), x)
    found = run(
        page, "const x = P(X), f = () => FlowVAE.softClamp(x, FlowVAE.LOG_SCALE_BOUNDS);"
        "return [rows(f()), gradientOf([x], f)]", X=x,
    )  # fmt: skip
    same(found[0], y)
    same(found[1], slope)


def test_broadcasting_sums_gradients_over_what_was_repeated(page: Page) -> None:
    shapes = {"X": (N, 2), "row": (1, 2), "column": (N, 1), "one": (1, 1)}
    given = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    x, row, column, one = given.values()
    y = ((x - row) * column + one) * row - x
    expected = torch.autograd.grad(y.mean(), [x, row, column, one])
    found = run(
        page, "const [x, r, c, o] = [X, row, column, one].map(P), {add, sub, mul} = FlowVAE;"
        "return gradientOf([x, r, c, o],"
        "  () => sub(mul(add(mul(sub(x, r), c), o), r), x))", **given,
    )  # fmt: skip
    for one_found, one_expected in zip(found, expected, strict=True):
        same(one_found, one_expected)


def test_shapes_that_do_not_fit_are_refused(page: Page) -> None:
    script = "try { FlowVAE.add(T(X), T(Y)) } catch (error) { return error.message }"
    said = run(page, script, X=torch.zeros(3, 2), Y=torch.zeros(4, 2))
    assert said == "shapes (3, 2) and (4, 2) do not fit"


def test_a_perceptron_is_torchs(page: Page) -> None:
    net, x = mlp(2, HIDDEN, 4), torch.randn(N, 2)
    found = run(
        page, "return rows(fill(FlowVAE.mlp(2, [32, 32], 4, random), w).forward(T(X)))",
        w=weights(net), X=x,
    )  # fmt: skip
    same(found, net(x))


def test_a_mixture_is_the_packages_with_all_gradients(page: Page) -> None:
    z, loc, logits = torch.randn(N, 2), torch.randn(K, 2), torch.randn(K)
    log_scale = torch.randn(K, 2) - 1
    # So far from all components that each density is zero in float64.
    z[0] = 200.0
    inputs = [z, loc, log_scale, logits]
    for tensor in inputs:
        tensor.requires_grad_()
    p = Mixture(Independent(Normal(loc, log_scale.exp()), 1), logits)
    log_p = p.log_prob(z)
    found = run(
        page, "const inputs = [z, loc, logScale, logits].map(P);"
        "const f = () => FlowVAE.gaussianMixtureLogProb(...inputs);"
        "return [rows(f()), gradientOf(inputs, f)]",
        z=z, loc=loc, logScale=log_scale, logits=logits,
    )  # fmt: skip
    same(found[0], log_p)
    for one_found, expected in zip(
        found[1], torch.autograd.grad(log_p.mean(), inputs), strict=True
    ):
        same(one_found, expected)


@pytest.mark.parametrize("kind", ["affine", "spline"])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("features", [2, 5])
def test_a_flow_is_the_packages_both_ways(
    page: Page, kind: Literal["affine", "spline"], context: int, features: int
) -> None:
    flow = CouplingFlow(features, context=context, transforms=3, hidden=(8, 6), kind=kind)
    scatter(flow)
    # Some of them outside the box of a spline.
    u, c = 3 * torch.randn(N, features), torch.randn(N, context) if context else None
    f = flow.transform(c)
    z, ladj = f.call_and_ladj(u)
    found = run(
        page,
        "const flow = new FlowVAE.CouplingFlow("
        "  features, { context: C ? 2 : 0, transforms: 3, hidden: [8, 6], kind }, random);"
        "fill(flow, w); flow.orders = orders;"
        "const c = C && T(C), f = flow.transform(c), [z, ladj] = f.callAndLadj(T(U));"
        "const [u, same] = f.inverseAndLadj(z);"
        "return [z, ladj, u, same, flow.forward(c).logProb(z)].map(rows)",
        features=features, C=c, w=weights(flow), orders=flow.orders.tolist(), U=u, kind=kind,
    )  # fmt: skip
    for one_found, expected in zip(found, [z, ladj, u, ladj, flow(c).log_prob(z)], strict=True):
        same(one_found, expected)


def test_a_spline_flow_has_the_packages_gradients(page: Page) -> None:
    flow = CouplingFlow(2, transforms=3, hidden=(8, 6), kind="spline")
    scatter(flow)
    z = (2.5 * torch.randn(N, 2)).requires_grad_()
    log_p = flow().log_prob(z)
    expected = torch.autograd.grad(log_p.mean(), [z, *flow.parameters()])
    found = run(
        page,
        "const flow = new FlowVAE.CouplingFlow("
        "  2, { transforms: 3, hidden: [8, 6], kind: 'spline' }, random);"
        "fill(flow, w); flow.orders = orders; const z = P(Z);"
        "return gradientOf([z, ...flow.parameters], () => flow.forward().logProb(z))",
        w=weights(flow), orders=flow.orders.tolist(), Z=z,
    )  # fmt: skip
    for one_found, one_expected in zip(found, expected, strict=True):
        same(one_found, one_expected)


def test_a_flows_own_orders_change_the_halves_and_put_them_back(page: Page) -> None:
    # A flow starts as the identity, whatever the number of its couplings.
    u = torch.randn(N, 5)
    for transforms in (0, 1, 2, 3):
        found = run(
            page, "const flow = new FlowVAE.CouplingFlow(5, { transforms }, random);"
            "return [flow.orders.map(o => [...o].sort().join()),"
            "rows(flow.transform().callAndLadj(T(U))[0])]", U=u, transforms=transforms,
        )  # fmt: skip
        assert found[0] == ["0,1,2,3,4"] * (transforms + 1)
        same(found[1], u)


def vae_of(prior: str, posterior: str) -> VAE:
    net, decoder = mlp(2, HIDDEN, 4), mlp(2, HIDDEN, 2)
    flow = CouplingFlow(2, context=2, transforms=4, hidden=(32,))
    q = FlowPosterior(net, flow) if posterior == "flow" else GaussianPosterior(net)
    p = {
        "gaussian": lambda: StandardNormal(2),
        "mixture": lambda: GaussianMixture(2, K),
        "vampprior": lambda: VampPrior(q, torch.randn(K, 2), bounds=None),
        "flow": lambda: CouplingFlow(2, transforms=6, hidden=(32,)),
        "spline": lambda: CouplingFlow(2, transforms=4, hidden=(32,), kind="spline"),
    }[prior]()
    vae = VAE(p, q, GaussianLikelihood(decoder, 2))
    scatter(vae)
    return vae


# A VampPrior of flow posteriors is none of the lab's.
MODELS = [
    (p, q)
    for p in ("gaussian", "mixture", "vampprior", "flow", "spline")
    for q in ("gaussian", "flow")
    if (p, q) != ("vampprior", "flow")
]


@pytest.mark.parametrize(("prior", "posterior"), MODELS)
def test_loss_gradient_and_two_steps_of_adam_are_torchs(
    page: Page, monkeypatch: pytest.MonkeyPatch, prior: str, posterior: str
) -> None:
    vae, x, noise = vae_of(prior, posterior), torch.randn(N, 2), torch.randn(N, 2)
    # The package draws its noise itself: it is given this one.
    monkeypatch.setattr(torch, "randn", lambda shape, **_: noise.expand(shape))
    before = [parameter.detach().clone() for parameter in vae.parameters()]
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    losses, gradients = [], []
    for _ in range(2):
        optimizer.zero_grad()
        loss = vae.loss(x, beta=0.7)
        loss.backward()
        losses.append(loss)
        gradients.append([parameter.grad.clone() for parameter in vae.parameters()])
        optimizer.step()
    found = run(
        page,
        "const vae = FlowVAE.build({ prior, posterior, k }, T(X), 0); fill(vae, w);"
        "const flows = [vae.prior, vae.posterior.flow].filter(m => m && m.orders);"
        "flows.forEach((flow, i) => { flow.orders = orders[i] });"
        "const adam = new FlowVAE.Adam(vae.parameters, 0.01), losses = [], gradients = [];"
        "for (let i = 0; i < 2; i++) {"
        "  losses.push(FlowVAE.gradients(() => vae.loss(T(X), T(noise), 0.7)).data[0]);"
        "  gradients.push(vae.parameters.map(p => [...p.grad])); adam.step();"
        "}"
        "return { losses, gradients, weights: vae.parameters.map(p => [...p.data]) }",
        prior=prior, posterior=posterior, k=K, X=x, noise=noise, w=before, orders=orders(vae),
    )  # fmt: skip
    same(found["losses"], torch.stack(losses))
    for one_found, expected in zip(found["gradients"], gradients, strict=True):
        for found_part, expected_part in zip(one_found, expected, strict=True):
            same(found_part, expected_part)
    for one_found, expected in zip(found["weights"], vae.parameters(), strict=True):
        same(one_found, expected)


def test_the_data_sets_lie_in_the_plane_that_is_drawn(page: Page) -> None:
    found = run(
        page, "return Object.fromEntries(Object.entries(FlowVAE.DATA_SETS).map("
        "([name, draw]) => [name, rows(draw(1000, random))]))",
    )  # fmt: skip
    assert list(found) == ["rings", "moons", "spirals", "pinwheel", "checkerboard"]
    for name, points in found.items():
        x = torch.tensor(points)
        assert x.shape == (1000, 2), name
        assert (x.abs() < 3.2).double().mean() > 0.995, name
        assert (x.std(0) > 0.6).all(), name


def test_the_ring_is_that_of_the_book(page: Page) -> None:
    from flowvae_tutorial.data import load

    train = load("rings").train.double()
    log_p = run(page, "return rows(FlowVAE.DENSITIES.rings().logProb(T(X)))", X=train)
    entropy = -torch.tensor(log_p).mean()
    # Of eight distant Gaussians: log 8 + log 2πe 0.14².
    exact = (8 * 2 * torch.pi * torch.e * torch.tensor(0.14) ** 2).log()
    assert abs(entropy - exact) < 0.1
    drawn = run(page, "return rows(FlowVAE.DATA_SETS.rings(2000, random))")
    log_p = run(page, "return rows(FlowVAE.DENSITIES.rings().logProb(T(X)))", X=torch.tensor(drawn))
    assert abs(-torch.tensor(log_p).mean() - exact) < 0.1


def test_normal_numbers_are_normal_and_a_seed_repeats_them(page: Page) -> None:
    found = run(
        page, "const draw = seed => [...new FlowVAE.Random(seed).normals(20000, 1).data];"
        "return [draw(3), draw(3), draw(4)]",
    )  # fmt: skip
    first, again, other = (torch.tensor(numbers) for numbers in found)
    assert (first == again).all()
    assert (first != other).all()
    expected = torch.tensor([0.0, 1.0, 0.0, 3.0])
    moments = torch.stack([(first**power).mean() for power in (1, 2, 3, 4)])
    # Four standard errors.
    bounds = 4 * torch.tensor([1.0, 2.0, 15.0, 96.0]).sqrt() / 20000**0.5
    assert ((moments - expected).abs() < bounds).all()
    # A line of the plane that no two neighbours avoid: they are uncorrelated.
    assert abs((first[:-1] * first[1:]).mean()) < 4 / 20000**0.5


def test_mixtures_are_sampled_by_their_weights(page: Page) -> None:
    logits = torch.tensor([0.0, 2.0, -1.0])
    found = run(
        page, "const loc = T([[0, 0], [10, 0], [20, 0]]), s = T([[-9, -9], [-9, -9], [-9, -9]]);"
        "const p = new FlowVAE.Mixture(new FlowVAE.Normal(loc, s), T(logits));"
        "return rows(p.sample(random.normals(5000, 2), random.uniforms(5000)))", logits=logits,
    )  # fmt: skip
    nearest = (torch.tensor(found)[:, 0] / 10).round().long()
    shares = torch.bincount(nearest, minlength=3) / 5000
    assert ((shares - logits.softmax(0)).abs() < 0.03).all()


def test_the_vampprior_beats_the_standard_normal_on_the_ring_for_five_seeds(page: Page) -> None:
    gains = []
    for seed in range(5):
        a, b = run(
            page,
            "const all = FlowVAE.DATA_SETS.rings(2512, new FlowVAE.Random(1000 + seed));"
            "const data = { train: all.part(0, 2000), validation: all.part(2000) };"
            "return ['gaussian', 'vampprior'].map(prior => {"
            "  const settings = { prior, posterior: 'gaussian', k: 50 };"
            "  const vae = FlowVAE.build(settings, data.train, seed);"
            "  const training = new FlowVAE.Training(vae, data, { seed });"
            "  while (training.steps < steps) training.step();"
            "  return training.evaluate().elbo;"
            "})",
            seed=seed, steps=STEPS,
        )  # fmt: skip
        gains.append(b - a)
    assert min(gains) > 0.5, gains


def test_the_scripts_are_light() -> None:
    # Those that a page of a figure, and that of the lab, have in common.
    scripts = [LIVE / f"{name}.js" for name in [*CORE, "figure", "panel", "refinement", "weights"]]
    assert sum(file.stat().st_size for file in scripts) < 90_000
