"""Short runs that each change little: python tools/trials.py [NAME …]

Thirty epochs of dynamic MNIST, or as many as the book's models have, judged on the validation
pictures alone; the test pictures are not looked at. Each trial writes
book/results/trials/NAME.json, and one that is there is not run again.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.optim.swa_utils import AveragedModel

from flowvae_tutorial import VAE, active_units, build, fit
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.history import History
from flowvae_tutorial.models import MNIST, Sizes, training_settings
from flowvae_tutorial.storage.checkpoints import load_checkpoint
from flowvae_tutorial.training.loop import _validate
from schedule import PlainGradient

SHORT, MIDDLE, LONG = 30, 60, 150
# Nats that a unit may cost for nothing.
FREE = 0.1
RUNS = Path("runs/trials")
_FORM = files.form(
    files.TRAINED | files.CODE | {
        "trial": files.TEXT, "change": files.TEXT, "settings": files.OBJECT, "sizes": files.OBJECT,
        "num_validation": files.POSITIVE, "elbo": files.NUMBER, "reconstruction": files.NUMBER,
        "kl": files.NUMBER, "active_units": files.COUNT, "history": files.CURVES,
        "seconds": files.NUMBER,
    },
    files.DAY,
)  # fmt: skip
KIND = files.Kind("trials", "python tools/trials.py", _FORM, lambda record: record["trial"])


class FreeBits(VAE):
    """A Gaussian VAE in which the first `FREE` nats of each unit cost nothing (Kingma, 2016)."""

    def loss(self, x: Tensor, beta: float = 1.0) -> Tensor:
        q_z = self.posterior(x).base_dist
        z = q_z.rsample((1,))
        kl = (q_z.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).mean((0, 1))
        reconstruction: Tensor = self.likelihood(z).log_prob(x)
        return beta * kl.clamp(min=FREE).sum() - reconstruction.mean()


def free_bits(vae: VAE) -> VAE:
    return FreeBits(vae.prior, vae.posterior, vae.likelihood)


def plain_gradient(vae: VAE) -> VAE:
    """The book's runs on MNIST are from before the path gradient, so it is a trial of its own."""
    return PlainGradient(vae.prior, vae.posterior, vae.likelihood)


def path_gradient(vae: VAE) -> VAE:
    return vae


@dataclass
class Trial:
    model: str = "gaussian"
    change: str = "none"
    settings: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int | tuple[int, ...]] = field(default_factory=dict)
    wrap: Callable[[VAE], VAE] = plain_gradient
    epochs: int = SHORT
    average: int = 0
    """The last so many epochs, the mean of whose weights is the model."""

    def all_settings(self, data: Data) -> dict[str, Any]:
        return training_settings(data) | {"epochs": self.epochs} | self.settings

    def all_sizes(self) -> Sizes:
        return MNIST._replace(**self.sizes)


def two_levels(change: str, **settings: float) -> Trial:
    """Sixty epochs: of thirty, twenty would be warm-up."""
    settings = {"batch_size": 200, "lr": 3e-3} | settings
    return Trial("hvae", change, settings, wrap=path_gradient, epochs=MIDDLE)


TRIALS = {
    "gaussian": Trial(),
    "step": Trial(change="step size 2e-3", settings={"lr": 2e-3}),
    "step-long": Trial(change="step size 2e-3", settings={"lr": 2e-3}, epochs=LONG),
    "decay": Trial(change="decay over the whole run", settings={"decay": 1.0}),
    "batch": Trial(
        change="batches of 200, step size 3e-3", settings={"batch_size": 200, "lr": 3e-3}
    ),
    "constant": Trial(change="no decay", settings={"decay": 0.0}),
    "constant-long": Trial(change="no decay", settings={"decay": 0.0}, epochs=LONG),
    "half-step": Trial(change="no decay, step size 5e-4", settings={"decay": 0.0, "lr": 5e-4}),
    "half-step-long": Trial(
        change="no decay, step size 5e-4", settings={"decay": 0.0, "lr": 5e-4}, epochs=LONG
    ),
    "warmup-long": Trial(change="warm-up of 100 epochs", settings={"warmup": 100}, epochs=LONG),
    "average": Trial(
        change="no decay, weights averaged over 15 epochs", settings={"decay": 0.0}, average=15
    ),
    "free-bits": Trial(change=f"{FREE} nats a unit free", wrap=free_bits),
    "path": Trial(change="path gradient", wrap=path_gradient),
    "path-batch": Trial(
        change="path gradient, batches of 200, step size 3e-3",
        settings={"batch_size": 200, "lr": 3e-3},
        wrap=path_gradient,
    ),
    "flow-prior": Trial(model="flow-prior"),
    "flow-path": Trial(model="flow-prior", change="path gradient", wrap=path_gradient),
    "flow-step": Trial(model="flow-prior", change="step size 2e-3", settings={"lr": 2e-3}),
    "width": Trial(
        model="flow-prior",
        change="networks of the flow 512 wide, not 256",
        sizes={"flow_hidden": (512, 512)},
    ),
    "couplings": Trial(model="flow-prior", change="12 couplings, not 6", sizes={"transforms": 12}),
    "hvae": two_levels("none: path gradient, batches of 200, step size 3e-3"),
    "hvae-step": two_levels("step size 1e-3", lr=1e-3),
    "hvae-clip": two_levels("gradients cut to length 10", clip=10.0),
}


def train(name: str, trial: Trial, data: Data) -> tuple[VAE, History]:
    """The model that the trial would keep."""
    torch.manual_seed(0)
    vae = trial.wrap(build(trial.model, data, trial.all_sizes()))
    file = RUNS / f"{name}.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    if trial.average:
        # What a killed run had summed up is lost.
        file.unlink(missing_ok=True)
    averaged = AveragedModel(vae)
    for epochs in range(trial.epochs + 1 - (trial.average or 1), trial.epochs + 1):
        settings = trial.all_settings(data) | {"epochs": epochs}
        history = fit(vae, data, **settings, checkpoint=file, name=name, progress=True)
        if trial.average:
            # `fit` leaves the weights of the best epoch; those of the last are in its checkpoint.
            vae.load_state_dict(load_checkpoint(file)["vae"])
            averaged.update_parameters(vae)
    return averaged.module if trial.average else vae, history


def run(name: str, trial: Trial, data: Data) -> files.Record:
    """Train, and measure the ELBO as `fit` validates, which for averaged weights it has not."""
    vae, history = train(name, trial, data)
    device = next(vae.parameters()).device
    x = data.validation.to(device)
    reconstruction, kl, *_ = _validate(vae, x)
    return files.describe(
        device,
        files.current_commit(),
        trial=name,
        model=trial.model,
        change=trial.change,
        data=data.name,
        seed=0,
        epochs=trial.epochs,
        settings=trial.all_settings(data),
        sizes=trial.all_sizes()._asdict(),
        num_validation=len(x),
        elbo=round(reconstruction - kl, 4),
        reconstruction=round(reconstruction, 4),
        kl=round(kl, 4),
        active_units=int(active_units(vae, x).sum()),
        history=files.curves(history),
        seconds=round(history.seconds, 1),
    )


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in TRIALS]
    if unknown:
        sys.exit(f"no trial {unknown[0]!r}: choose from {', '.join(TRIALS)}")
    folder = files.book_results() / "trials"
    data = load("dynamic-mnist")
    for name in names or TRIALS:
        if not (folder / f"{name}.json").exists():
            files.write(KIND, run(name, TRIALS[name], data), folder)
            # A changed trial of the same name must not go on from it.
            (RUNS / f"{name}.pt").unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
