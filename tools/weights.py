"""Puts trained models into the package: python tools/weights.py runs/…/checkpoint.pt …

Each is packed, what that costs in nats is measured on the test images, and its card is written.
The record of the run has to be in book/results, or in mnist/ there: a card quotes it.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import torch

from flowvae_tutorial import VAE, mean_and_standard_error
from flowvae_tutorial.data import load
from flowvae_tutorial.experiments.record_files import book_results, curves, read, run_name
from flowvae_tutorial.experiments.records import RUNS
from flowvae_tutorial.models import FIRST_STAGE
from flowvae_tutorial.pretrained import FOLDER, pretrained_models
from flowvae_tutorial.storage.files import write_whole
from flowvae_tutorial.storage.trained import Trained, load_trained
from flowvae_tutorial.storage.weights import pack, write_weights

# Enough for a difference of two estimates that share their noise.
SAMPLES = 200
# Below this a matrix stays in half precision: it weighs little, and its steps can cost a lot.
LARGE = 100_000


def smaller(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights as they are shipped."""
    small = {
        name: value for name, value in state.items() if 1 < value.ndim and value.numel() < LARGE
    }
    large = {name: value for name, value in state.items() if name not in small}
    return pack(large) | {name: value.half() for name, value in small.items()}


def loss_of_packing(whole: VAE, packed: VAE, x: torch.Tensor) -> tuple[float, float]:
    """Nats per example that packing costs, and their standard error."""
    estimates = []
    for vae in (whole, packed):
        torch.manual_seed(0)
        estimates.append(torch.cat([vae.log_marginal(rows, SAMPLES) for rows in x.split(500)]))
    return mean_and_standard_error(estimates[0] - estimates[1])


def run_of(trained: Trained) -> str:
    """The record of this training, below book/results: the one with its curves."""
    name = run_name(trained.model, trained.data, trained.beta, trained.seed)
    for run in (name, f"mnist/{name}"):
        path = book_results() / f"{run}.json"
        if path.exists() and read(RUNS, path)["history"] == curves(trained.history):
            return run
    sys.exit(f"no record in book/results is of this training of {name}")


def card(trained: Trained, run: str, loss: tuple[float, float], size: int) -> str:
    """What a user should know of the weights before using them."""
    best, epochs = max(trained.history.elbo), len(trained.history.loss)
    record = read(RUNS, book_results() / f"{run}.json")
    nll = record["nll"]
    first = FIRST_STAGE.get(trained.model)
    held = f" Its encoder and\n  decoder are those of a trained `{first}`." if first else ""
    return f"""# {trained.model}, trained on {trained.data}

- **What it is.** The model `{trained.model}` of the book, seed {trained.seed}, with the weights of
  epoch {trained.history.best_epoch} of {epochs}, the best by validation ELBO.{held}
- **Data.** MNIST (Yann LeCun, Corinna Cortes, Christopher Burges), pixels drawn as 0 or 1 anew for
  each batch; 50,000 training and 10,000 validation images. MNIST is commonly listed as
  CC BY-SA 3.0.
- **Figures.** Test NLL {nll["mean"]:.2f} ± {nll["standard_error"]:.2f} nats per example, mean and
  standard error over {record["num_test"]:,} images, S = {record["num_samples"]:,}. Validation
  ELBO of that epoch: {best:.2f} nats. Both are of the weights in full precision, and the record is
  `book/results/{run}.json`.
- **Precision.** The file stores large matrices in 8 bits with one scale a row and the rest in
  half precision, {size / 1e6:.1f} MB in all. Test log-likelihood lost by that:
  {loss[0]:.4f} ± {loss[1]:.4f} nats (mean and standard error over 10,000 images, both estimated
  with S = {SAMPLES} and the same noise).
- **Licence.** MIT, as the code.
- **Intended use.** Teaching and experiments with the book. One seed: no ranking of models follows
  from it. The pictures are of handwritten digits and nothing else; the model knows no others.
"""


def add(path: Path) -> None:
    """Pack one checkpoint into the package."""
    trained = load_trained(path)
    name, run = trained.model, run_of(trained)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(
            Path(folder) / f"{name}.safetensors", smaller(trained.vae.state_dict()), trained.about
        )
        content = weights.read_bytes()
        loss = loss_of_packing(trained.vae, load_trained(weights).vae, load(trained.data).test)
    text = card(trained, run, loss, len(content))
    models = pretrained_models() | {
        name: {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "run": run,
            "loss": {"mean": round(loss[0], 4), "standard_error": round(loss[1], 4)},
        }
    }
    # All that can fail is done: the three belong together.
    index = json.dumps(models, indent=2, sort_keys=True) + "\n"
    write_whole(FOLDER / f"{name}.safetensors", content)
    write_whole(FOLDER / f"{name}.md", text.encode())
    write_whole(FOLDER / "index.json", index.encode())
    print(f"{name}: {len(content) / 1e6:.2f} MB, costs {loss[0]:.4f} ± {loss[1]:.4f} nats")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        add(Path(argument))
