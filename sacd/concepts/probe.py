"""Reading true factors off a network's features: linear classifiers (Alain & Bengio 2016)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sacd.concepts.labels import pooled
from sacd.errors import SacdError
from sacd.tensors import reading, write_tensors

FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """A softmax classifier of each factor.

    Attributes:
        kinds: of each factor, in the order of its classifier's outputs.
        layers: of each factor, weights (kinds, D) and biases (kinds,).
    """

    kinds: dict[str, tuple[str, ...]]
    layers: dict[str, tuple[Tensor, Tensor]]

    def __call__(self, values: Tensor) -> dict[str, Tensor]:
        """Probabilities (N, kinds) of each factor, from values (N, D)."""
        return {
            factor: (values.float() @ weights.T + biases).softmax(1)
            for factor, (weights, biases) in self.layers.items()
        }

    def read(self, values: Tensor) -> dict[str, list[str]]:
        """The likeliest kind of each factor, N of each."""
        return {
            factor: [self.kinds[factor][number] for number in found.argmax(1).tolist()]
            for factor, found in self(values).items()
        }

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {
            f"{factor}.{part}": tensor
            for factor, layer in self.layers.items()
            for part, tensor in zip(("weights", "biases"), layer, strict=True)
        }
        write_tensors(path, tensors, kinds=self.kinds)

    @classmethod
    def load(cls, path: Path) -> "Probe":
        """Read what `save` wrote; raises `SacdError`."""
        with reading(path, "a probe") as file:
            kinds = {factor: tuple(names) for factor, names in file.metadata("kinds").items()}
            layers = {f: (file[f"{f}.weights"], file[f"{f}.biases"]) for f in kinds}
        return cls(kinds, layers)


def pool_parts(features: Tensor, found: Tensor) -> Tensor:
    """Features (N, C, h, w) averaged over the found object and over the rest: (N, 2 C).

    found: (N, H, W), how surely each pixel shows the object, from 0 to 1.
    """
    return torch.cat([pooled(features, found, where) for where in ("object", "background")], 1)


def fit_factor(
    values: Tensor, kinds: dict[str, np.ndarray], seed: int
) -> tuple[Tensor, Tensor, float]:
    """A classifier of `kinds` (name: bool (N,), which rows are of it) from values (N, D).

    Rows of no kind are left out. Logistic regression on standardised values, which the returned
    weights (kinds, D) and biases (kinds,) undo. The third is the accuracy on held-out rows, by
    cross-validation, balanced over kinds. Raises `SacdError` where there are fewer than two
    kinds, or one of them has fewer than `FOLDS` rows.
    """
    from sklearn.linear_model import LogisticRegression  # seconds to import
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    members = np.stack(list(kinds.values()), 1)
    told = members.any(1)
    labels = members[told].argmax(1)
    if len(kinds) < 2 or np.bincount(labels, minlength=len(kinds)).min() < FOLDS:
        raise SacdError(
            f"a probe needs two kinds or more, and {FOLDS} images of each; there are "
            f"{ {name: int(rows.sum()) for name, rows in kinds.items()} }."
        )
    used = values[torch.from_numpy(told)].double()
    mean, deviation = used.mean(0), used.std(0).clamp(min=1e-6)
    standard = ((used - mean) / deviation).numpy()
    model = LogisticRegression(C=0.1, max_iter=2000)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    accuracy = cross_val_score(model, standard, labels, cv=folds, scoring="balanced_accuracy")
    model.fit(standard, labels)
    weights, biases = (torch.from_numpy(part) for part in (model.coef_, model.intercept_))
    if len(kinds) == 2:  # scikit-learn then keeps the second's logit alone
        weights = torch.cat([torch.zeros_like(weights), weights])
        biases = torch.cat([torch.zeros_like(biases), biases])
    weights = (weights / deviation).contiguous()  # else it cannot be saved
    return weights.float(), (biases - weights @ mean).float(), float(accuracy.mean())
