"""Which of a folder's files hold a network's weights.

People's folders hold them as one file or in parts, whole or as a variant (fp16, ema), as
safetensors or in torch's own format, and often in several of these ways at once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)"
    r"(\.(?P<variant>\w+))?(-\d+-of-\d+)?\.(?P<format>safetensors|bin)"
)
_PREFERRED = (None, "fp16")  # of variants; then by their names


@dataclass(frozen=True)
class WeightSet:
    """Files that hold all weights of a network; `variant` and `safetensors` are how to ask for
    them."""

    files: tuple[str, ...]
    variant: str | None
    safetensors: bool


def choose_weights(names: Iterable[str]) -> WeightSet | None:
    """One set of weights among a folder's files, None without any.

    Safetensors are preferred to torch's format, then whole weights to fp16, and that to others.
    """
    sets: dict[tuple[bool, str | None], list[str]] = {}
    for name in sorted(names):
        if match := _WEIGHTS.fullmatch(name):
            key = (match["format"] == "safetensors", match["variant"])
            sets.setdefault(key, []).append(name)
    if not sets:
        return None
    safe, variant = min(sets, key=lambda key: (not key[0], *_rank(key[1])))
    return WeightSet(tuple(sets[safe, variant]), variant, safe)


def _rank(variant: str | None) -> tuple[int, str]:
    known = variant in _PREFERRED
    return _PREFERRED.index(variant) if known else len(_PREFERRED), variant or ""
