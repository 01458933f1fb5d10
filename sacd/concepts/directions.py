"""Directions in a backbone's feature space that may stand for concepts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sacd.backbones.backbone import Backbone
from sacd.errors import SacdError, unknown_name
from sacd.tensors import reading, write_tensors

TENSORS = ("vectors", "means", "scales", "explained")  # of a file, in the order of the fields


@dataclass(frozen=True)
class Directions:
    """K named directions for features of C channels.

    Attributes:
        names: of the directions.
        vectors: (K, C), of length one.
        means: (K,), where real features lie along each, on average.
        scales: (K,), the natural unit of an edit: how far examples with the concept lie from those
            without it, where there are examples; else the deviation of real features.
        explained: (K,), the share of real features' variance that lies along each.
    """

    names: tuple[str, ...]
    vectors: Tensor
    means: Tensor
    scales: Tensor
    explained: Tensor

    @classmethod
    def measured(
        cls,
        names: Sequence[str],
        vectors: Tensor,
        values: Tensor,
        scales: Tensor | None = None,
    ) -> "Directions":
        """Directions (K, C) of any length, measured on real features `values` (M, C).

        scales: (K,), where examples gave them.
        """
        units = F.normalize(vectors.float(), dim=1).contiguous()  # else it cannot be saved
        along = values.float() @ units.T
        variance, total = along.var(0, correction=0), values.float().var(0, correction=0).sum()
        steps = variance.sqrt() if scales is None else scales
        return cls(tuple(names), units, along.mean(0), steps, variance / total)

    def row(self, name: str) -> int:
        """Where a direction stands; raises `SacdError` with the nearest name."""
        if name not in self.names:
            raise unknown_name("concept", name, self.names)
        return self.names.index(name)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        write_tensors(path, tensors, names=self.names)

    @classmethod
    def load(cls, path: Path) -> "Directions":
        """Read what `save` wrote; raises `SacdError`."""
        with reading(path, "concepts") as file:
            return cls(tuple(file.metadata("names")), *(file[name] for name in TENSORS))


def locations(features: Tensor, count: int, seed: int) -> Tensor:
    """`count` of the channel vectors in features (N, C, h, w), drawn at random: (count, C)."""
    values = features.float().movedim(1, -1).flatten(0, 2)
    generator = torch.Generator().manual_seed(seed)
    return values[torch.randperm(len(values), generator=generator)[:count]]


def principal_components(values: Tensor, count: int) -> Tensor:
    """The `count` directions (count, C) along which `values` (M, C) vary most, by PCA.

    A component's sign is free; here its largest entry is positive.
    """
    covariance = torch.cov(values.double().T, correction=0)
    vectors = torch.linalg.eigh(covariance).eigenvectors.T.flip(0)[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign()).float()


def nonnegative_factors(values: Tensor, count: int, seed: int) -> Tensor:
    """Parts (count, C) that add up to `values` (M, C), by non-negative matrix factorisation.

    As CRAFT finds concepts (Fel et al. 2023, arXiv 2211.10154). What is negative in the values is
    left out: not every backbone ends in a ReLU.
    """
    from sklearn.decomposition import NMF  # seconds to import

    found = NMF(count, init="nndsvda", random_state=seed, max_iter=400, tol=1e-3)
    return torch.from_numpy(found.fit(values.clamp(min=0).numpy()).components_).float()


def sparse_atoms(values: Tensor, count: int, seed: int) -> Tensor:
    """Atoms (count, C) few of which make up each of `values` (M, C), by dictionary learning.

    After Mairal et al. (2009), with codes that are not negative, so that an atom has a sense.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning  # seconds to import

    centred = values - values.mean(0)
    typical = float(centred.norm(dim=1).mean())  # a code's price shall mean the same for all
    found = MiniBatchDictionaryLearning(
        count, alpha=0.1, positive_code=True, fit_algorithm="cd", batch_size=256, max_iter=20,
        random_state=seed,
    )  # fmt: skip
    return torch.from_numpy(found.fit((centred / typical).double().numpy()).components_).float()


def class_directions(backbone: Backbone, features: Tensor) -> Tensor:
    """Where features (N, C, h, w) must go for a class's logit to rise above the others': (K, C).

    The gradient summed over locations, mean over images. For a head that is linear in the spatial
    average, these are the rows of its weights, less their mean. Raises `SacdError` where no head
    follows the layer.
    """
    given = features.detach().float().requires_grad_()
    with torch.enable_grad():
        logits = backbone.classify(given)
        if logits is None:
            raise SacdError("Class directions need a head that follows the backbone's layer.")
        relative = logits - logits.mean(1, keepdim=True)
        gradients = (
            torch.autograd.grad(relative[:, number].sum(), given, retain_graph=True)[0]
            for number in range(logits.shape[1])
        )
        return torch.stack([gradient.sum((2, 3)).mean(0) for gradient in gradients])


def activation_vector(
    values: Tensor, positive: Tensor, kind: str, seed: int
) -> tuple[Tensor, float, float]:
    """The direction (C,) from examples without a concept to those with it, how far, and how sure.

    values: (M, C), one an example; positive: bool (M,). `kind` is

    - "boundary": the normal of a logistic regression's boundary, a concept activation vector (Kim
      et al. 2018, arXiv 1711.11279). It tells the concept best, for it points away from whatever
      else examples differ by, and so leads to where no features are.
    - "pattern": from the mean of the examples without it to the mean of those with it, which is how
      features change with the concept (Haufe et al. 2014; Pahde et al. 2022, arXiv 2202.03482).

    With it come how far the means of both lie apart along it, and the accuracy on held-out examples
    of such a direction with a threshold, balanced over both kinds (0.5 is chance), by
    cross-validation.
    """
    from sklearn.linear_model import LogisticRegression  # seconds to import
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import NearestCentroid

    labels = positive.numpy()
    fewest = int(min(labels.sum(), (~labels).sum()))
    if fewest < 2:
        raise SacdError("A concept needs at least two examples with it and two without it.")
    folds = StratifiedKFold(min(5, fewest), shuffle=True, random_state=seed)
    difference = values[positive].mean(0) - values[~positive].mean(0)
    if kind == "pattern":
        model, used, vector = NearestCentroid(), values.numpy().astype(np.float64), difference
    else:
        model = LogisticRegression(class_weight="balanced", max_iter=1000)
        mean, deviation = values.mean(0), values.std(0).clamp(min=1e-6)
        used = ((values - mean) / deviation).numpy().astype(np.float64)
        vector = torch.from_numpy(model.fit(used, labels).coef_[0]).float() / deviation
    accuracy = cross_val_score(model, used, labels, cv=folds, scoring="balanced_accuracy")
    unit = F.normalize(vector, dim=0)
    return unit, float(difference @ unit), float(accuracy.mean())
