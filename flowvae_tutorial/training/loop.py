"""One training loop for every model: warm-up, decay, the best epoch kept, exact checkpoints."""

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..arguments import number, plain_name, text, whole
from ..data import Data
from ..errors import InputError, check_data
from ..history import History, Validation
from ..storage.checkpoints import load_checkpoint_of, save_checkpoint
from ..storage.files import only_writer
from ..vae import VAE
from .progress import progress_bar
from .ranks import device_by_name, mean_over_ranks, rank_and_world, share_of

# Posterior samples per validation example, and the seed they are drawn with at every epoch:
# epochs are then compared on the same noise.
VALIDATION_SAMPLES = 8
VALIDATION_SEED = 2**31 - 1


class NotFinite(RuntimeError):
    """The loss is NaN or infinite; the message names the epoch and step."""


def fit(
    vae: VAE,
    data: Data,
    *,
    epochs: int = 200,
    batch_size: int = 64,
    lr: float = 2e-3,
    decay: float = 0.5,
    clip: float = math.inf,
    beta: float = 1.0,
    warmup: int = 20,
    patience: int = 200,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: Path | str | None = None,
    name: str = "",
    progress: bool = False,
) -> History:
    """Train `vae` on `data.train` and leave it with the weights of its best epoch.

    A run that fails or is interrupted leaves it so, too. Best is the highest validation ELBO, at
    β = 1 whatever `beta` is. The caller's random state is left as it was: epoch e draws everything
    from a seed made of `seed` and e, which is also what makes a resumed run equal to an
    uninterrupted one. Under torchrun every process calls this with the same arguments: each takes
    its share of every batch, and the first one writes the checkpoint.

    Args:
        vae: the model; it is moved to `device`, and left in evaluation mode.
        data: what to train on.
        epochs: at most so many passes over the training images.
        batch_size: examples a step.
        lr: Adam's step size.
        decay: the last part of `epochs`, from 0 to 1, over which `lr` falls linearly to zero. At 0
            it stays, and a checkpoint may be continued with more `epochs`.
        clip: the largest norm of a step's gradient; a longer one is scaled down to it.
        beta: the weight of the KL term after warm-up.
        warmup: epochs over which that weight rises linearly from 0.
        patience: stop after so many epochs without a better validation ELBO, warm-up excluded; at
            `epochs` or more, never. With a decay an early stop would miss the small steps.
        seed: of the batches' order, their noise and the posterior samples.
        device: where to train, a name as `device_by_name` takes it too; by default where the data
            are.
        checkpoint: a file written after each epoch. If it exists, the run goes on from it.
        name: the model's, for the checkpoint to say what it is of; no path.
        progress: show a progress bar.

    Raises:
        InputError: an argument makes no sense, the checkpoint is damaged, of another run or written
            by another process, or the device has too little memory for a batch.
        NotFinite: the loss is NaN or infinite. The checkpoint keeps the last good epoch.

    Warns:
        UserWarning: once, if after the warm-up a few validation examples have so low an ELBO that
            the mean is worse than nine examples in ten.

    Example:
        >>> from flowvae_tutorial import build, fit
        >>> from flowvae_tutorial.data import load
        >>> data = load("rings")
        >>> vae = build("gaussian", data)
        >>> history = fit(vae, data, epochs=2)
        >>> len(history.loss), 1 <= history.best_epoch <= 2
        (2, True)
    """
    # A checkpoint holds these: of any other kind, it could not be read again.
    epochs, batch_size = whole(epochs, "epochs"), whole(batch_size, "batch_size")
    warmup, patience = whole(warmup, "warmup", least=0), whole(patience, "patience")
    seed, name = whole(seed, "seed", least=0), plain_name(name, "name")
    lr, clip = number(lr, "lr", positive=True), number(clip, "clip", positive=True, most=math.inf)
    beta, decay = number(beta, "beta"), number(decay, "decay", most=1)
    _check_trainable(vae, data)
    of = plain_name(data.name, "data.name")
    device = data.train.device if device is None else device_by_name(device)
    if checkpoint is not None:
        given = checkpoint if isinstance(checkpoint, Path) else text(checkpoint, "checkpoint")
        checkpoint = Path(given)
    data = _looked_at(vae.to(device), data, device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=lr, fused=True)
    history, warned = History(), False
    best = _copy(vae)
    # What must be equal for a checkpoint to belong to this run; `epochs` may be raised, unless
    # the step size depends on them.
    run = {
        "model": name, "data": of, "batch_size": batch_size,
        "lr": lr, "clip": clip, "beta": beta, "warmup": warmup, "patience": patience, "seed": seed,
        "decay": (decay, epochs) if decay else None,
        "data_checksum": data.checksum,
        "parameters": [f"{part} {tuple(p.shape)}" for part, p in vae.named_parameters()],
        "log_scale_bounds": (vae.built_from or {}).get("log_scale_bounds"),
    }  # fmt: skip
    if checkpoint is not None and checkpoint.exists():
        history, best = _resume(checkpoint, run, vae, optimizer)
    rank, world = rank_and_world()
    model = DistributedDataParallel(vae) if world > 1 else vae
    bar = progress_bar(
        desc=name or None, total=epochs, initial=len(history.loss), unit="epoch",
        disable=not progress or rank > 0,
    )  # fmt: skip
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    writing = nullcontext() if checkpoint is None or rank else only_writer(checkpoint)
    with bar, forked, _leave_with(vae, best), writing:
        for epoch in range(len(history.loss) + 1, epochs + 1):
            if epoch - 1 - max(history.best_epoch, warmup) >= patience:
                break
            start = time.perf_counter()
            torch.manual_seed(1_000_003 * seed + epoch)
            left = (epochs + 1 - epoch) / epochs
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, left / decay if decay else 1.0)
            weight = beta * min(1.0, epoch / max(1, warmup))
            with _enough_memory(device, batch_size):
                loss = _train_epoch(model, data, optimizer, batch_size, clip, weight, epoch)
                validation = _validate(vae, data.validation)
            # The last step may have spoilt the weights without any loss showing it.
            if not math.isfinite(validation.elbo):
                raise NotFinite(
                    f"the validation ELBO is {validation.elbo} after epoch {epoch}: lower the "
                    "learning rate or look at the data"
                )
            # In the warm-up the KL term weighs little and may be large for a few.
            if validation.hangs_on_few and epoch > warmup and rank == 0 and not warned:
                warned = True
                warnings.warn(
                    f"after epoch {epoch} the mean validation ELBO, {validation.elbo:.1f} nats, is "
                    f"worse than that of nine examples in ten (median {validation.median:.1f}): "
                    "the best epoch hangs on a few; look at them, or bound the posterior's scale",
                    stacklevel=2,
                )
            if history.add(loss, validation):
                best.update(_copy(vae))
            history.seconds += time.perf_counter() - start
            if checkpoint is not None and rank == 0:
                state = {
                    "run": run, "epochs": epochs, "history": asdict(history), "best": best,
                    "vae": vae.state_dict(), "optimizer": optimizer.state_dict(),
                    "built_from": vae.built_from,
                }  # fmt: skip
                save_checkpoint(checkpoint, state)
            bar.update()
            bar.set_postfix_str(f"validation ELBO {history.elbo[-1]:.2f} nats")
    return history


@contextmanager
def _leave_with(vae: VAE, best: dict[str, Tensor]) -> Iterator[None]:
    try:
        yield
    finally:
        vae.load_state_dict(best)
        vae.eval()


@contextmanager
def _enough_memory(device: torch.device, batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = batch_size // 2 or "another device or a smaller model"
        raise InputError(
            f"{device} has too little memory for batches of {batch_size}: try {smaller}"
        ) from error


def _check_trainable(vae: VAE, data: Data) -> None:
    """Refuse a model of which nothing, or not all, would learn, and data that are no tensors."""
    if not isinstance(vae, nn.Module):
        raise InputError(f"fit trains a VAE, got {type(vae).__name__}")
    if not isinstance(data, Data):
        raise InputError(f"fit trains on a Data, got {type(data).__name__}: own_data(x) makes one")
    if not torch.is_grad_enabled():
        raise InputError("fit needs gradients: call it outside of no_grad and inference_mode")
    if any(weight.is_inference() for weight in vae.state_dict(keep_vars=True).values()):
        raise InputError(
            "the model was made in inference_mode, where nothing can be trained: make it outside"
        )
    if not any(weight.requires_grad for weight in vae.parameters()):
        raise InputError(
            "all weights of the model are frozen: set requires_grad_(True) for what is to learn"
        )
    # A module that is borrowed by its method would stay as it is.
    for part in ("prior", "posterior", "likelihood"):
        owner = getattr(getattr(vae, part), "__self__", None)
        if isinstance(owner, nn.Module) and owner not in set(vae.modules()):
            raise InputError(
                f"the {part} is a method of a module that the VAE does not hold and fit would not "
                "train: give VAE a module"
            )
    for name, x in {"train": data.train, "validation": data.validation, "test": data.test}.items():
        if not isinstance(x, Tensor):
            given = type(x).__name__
            raise InputError(f"data.{name} must be a tensor, got {given}: use torch.as_tensor")


@torch.no_grad()
def _looked_at(vae: VAE, data: Data, device: torch.device) -> Data:
    """The data on this device, if all of them can be trained on: steps may not look at values."""
    data = data.to(device)
    try:
        with torch.random.fork_rng(devices=[]):
            batch = data.batch(data.train)
    except RuntimeError as error:
        raise InputError(
            f"data.batch does not take data.train, {data.train.dtype} of shape "
            f"{tuple(data.train.shape)}: {str(error).splitlines()[0]}"
        ) from error
    like = next(vae.parameters(), None)
    for name, x in {"data.batch(data.train)": batch, "data.validation": data.validation}.items():
        check_data(x, vae.features, like=like, support=vae._support, name=name)
    return data


def _train_epoch(
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    clip: float,
    beta: float,
    epoch: int,
) -> float:
    losses = []
    model.train()
    rank, world = rank_and_world()
    order = torch.randperm(len(data.train), device=data.train.device)
    if world > 1:
        # One order for all processes, and noise of its own for each; no seed that another epoch
        # or run has, up to 7,918 epochs on 125 devices.
        torch.manual_seed(torch.initial_seed() + 7_919 * (1 + rank))
    for batch in order.split(batch_size):
        rows, weight = share_of(batch)
        loss = model(data.batch(data.train[rows]), beta)
        optimizer.zero_grad()
        (loss * weight if world > 1 else loss).backward()
        if clip < math.inf:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.detach())
    # One look an epoch: a look a step would stall a GPU.
    every = torch.stack(losses)
    if not every.isfinite().all():
        step = int((~every.isfinite()).nonzero()[0]) + 1
        raise NotFinite(
            f"the loss is {every[step - 1].item()} at epoch {epoch}, step {step}: lower the "
            "learning rate or look at the data"
        )
    return mean_over_ranks(every.mean()).item()


@torch.no_grad()
def _validate(vae: VAE, x: Tensor) -> Validation:
    torch.manual_seed(VALIDATION_SEED)
    vae.eval()
    try:
        parts = [vae.elbo(rows, VALIDATION_SAMPLES) for rows in x.split(1000)]
    except InputError:
        vae._check(x)
        # The data are fine: a flow was given what spoilt weights made of them.
        return Validation(math.nan, math.nan, math.nan, math.nan)
    reconstruction = torch.cat([part.reconstruction for part in parts], dim=1)
    kl = torch.cat([part.kl for part in parts], dim=1)
    elbo = (reconstruction - kl).mean(dim=0)
    figures = reconstruction.mean(), kl.mean(), elbo.quantile(0.5), elbo.quantile(0.1)
    return Validation(*(mean_over_ranks(figure).item() for figure in figures))


def _copy(vae: VAE) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in vae.state_dict().items()}


def _resume(
    path: Path, run: dict[str, Any], vae: VAE, optimizer: torch.optim.Optimizer
) -> tuple[History, dict[str, Tensor]]:
    state = load_checkpoint_of(run, path, vae.state_dict())
    vae.load_state_dict(state["vae"])
    optimizer.load_state_dict(state["optimizer"])
    best = {name: value.to(next(vae.parameters()).device) for name, value in state["best"].items()}
    history = History(**state["history"])
    history.median[:0] = [math.nan] * (len(history.loss) - len(history.median))
    return history, best
