"""Clouds of points compared: samples with data, or with each other. No model takes part."""

import torch
from torch import Tensor

from .arguments import whole
from .errors import InputError


def energy_distance(x: Tensor, y: Tensor) -> float:
    """How far apart two sets of points are, by their energy distance (`eq-energy-distance`).

    Zero only for equal distributions. Székely and Rizzo (2013). The expectations run over
    different points, so the estimate has no bias and may fall below zero. Memory is O((N + M)²):
    0.8 GB for each matrix of distances between 10,000 points and 10,000.

    Args:
        x: `(N, X)`, N at least 2.
        y: `(M, X)`, M at least 2.

    Raises:
        InputError: one of the sets has fewer than two points.

    Example:
        >>> import torch
        >>> from flowvae_tutorial import energy_distance
        >>> x, y = torch.randn(2, 500, 2)
        >>> energy_distance(x, y) < 0.1 < energy_distance(x, y + 1)
        True
    """
    if min(len(x), len(y)) < 2:
        raise InputError(
            f"an energy distance needs at least 2 points a set, got {len(x)}, {len(y)}"
        )
    # In float64, which not every GPU has: three large numbers leave a small one.
    x, y = (points.cpu().double() for points in (x, y))
    within = (torch.cdist(each, each).sum() / (len(each) * (len(each) - 1)) for each in (x, y))
    return float(2 * torch.cdist(x, y).mean() - sum(within))


def precision_and_recall(samples: Tensor, points: Tensor, k: int = 5) -> tuple[float, float]:
    """How many samples lie among the points, and how many points among the samples.

    A set covers the balls around its members, each as wide as the distance to the k-th nearest
    other member. Precision is the share of samples that the points cover, recall the share of
    points that the samples cover. Kynkäänniemi et al. (2019). Both fall with more dimensions and
    change with the number of members: compare sets of the same size. O((N + M)²) memory.

    Args:
        samples: `(N, X)`, more than k.
        points: `(M, X)`, more than k, in the same space: pixels, or better a network's features.
        k: which neighbour bounds a ball.

    Raises:
        InputError: k is below 1, or one of the sets has no more than k members.
    """
    k = whole(k, "k", least=0)
    if k < 1 or min(len(samples), len(points)) <= k:
        raise InputError(
            f"precision and recall need k of at least 1 and more than k={k} points a set, got "
            f"{len(samples)}, {len(points)}"
        )
    samples, points = (members.cpu().double() for members in (samples, points))
    between = _distances(samples, points)
    # The nearest of all is the member itself.
    around_samples, around_points = (
        _distances(members, members).kthvalue(k + 1, dim=1).values for members in (samples, points)
    )
    precision = (between <= around_points).any(dim=1).double().mean()
    recall = (between.T <= around_samples).any(dim=1).double().mean()
    return precision.item(), recall.item()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Exact, so that a point is at distance 0 of itself: a matrix product would lose digits."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def modes_found(samples: Tensor, points: Tensor, labels: Tensor) -> int:
    """How many clusters of labelled points of the plane the samples reach.

    A cluster is found if at least a quarter of its fair share of the samples lies within three
    standard deviations of its centre.

    Args:
        samples: `(M, 2)`.
        points: `(N, 2)`, examples of the clusters.
        labels: `(N,)`, the cluster of each.

    Raises:
        InputError: not points of the plane.
    """
    if samples.shape[-1] != 2 or points.shape[-1] != 2:
        raise InputError(
            f"modes_found is for points of the plane, got {samples.shape[-1]} and "
            f"{points.shape[-1]} numbers each: with many, the examples themselves lie more than "
            "three standard deviations from their centre"
        )
    clusters = [points[labels == label] for label in labels.unique()]
    centres = torch.stack([cluster.mean(dim=0) for cluster in clusters])
    scales = torch.stack([cluster.std(dim=0).mean() for cluster in clusters])
    near = torch.cdist(samples, centres) < 3 * scales
    shares = samples.new_tensor([len(cluster) / len(points) for cluster in clusters])
    return int((near.to(samples).mean(dim=0) >= shares / 4).sum())
