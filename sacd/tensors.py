"""Files of named tensors and of what else belongs to them (safetensors with JSON metadata)."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sacd.errors import SacdError
from sacd.files import atomic
from sacd.provenance import require_intact


def halved(tensors: Mapping[str, Tensor], target: Path) -> dict[str, Tensor]:
    """Contiguous tensors, those of floats as fp16, to be written to `target`.

    Raises `SacdError` where fp16 cannot hold a value.
    """
    found = {
        name: (value.detach().half() if value.is_floating_point() else value).contiguous()
        for name, value in tensors.items()
    }
    overflowing = [name for name, value in found.items() if not bool(value.isfinite().all())]
    if overflowing:
        raise SacdError(f"{target}: not finite in half precision: {', '.join(overflowing[:3])}.")
    return found


def write_tensors(path: Path, tensors: dict[str, Tensor], **metadata: Any) -> None:
    """Write contiguous tensors, atomically, and JSON values beside them."""
    with atomic(path) as temporary:
        texts = {name: json.dumps(value) for name, value in metadata.items()}
        save_file(tensors, temporary, metadata=texts)


@contextmanager
def reading(path: Path, content: str) -> Iterator["TensorFile"]:
    """Open what `write_tensors` wrote.

    Raises `SacdError` ("not a file of `content`") where something is missing or broken, whether
    here or as the block reads it.
    """
    try:
        require_intact(path)
        with safe_open(path, framework="pt") as file:
            yield TensorFile(file)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SacdError(f"{path}: not a file of {content} ({error}).") from error


class TensorFile:
    """An open file, see `reading`."""

    def __init__(self, file: Any):
        self._file = file

    def metadata(self, name: str) -> Any:
        """A JSON value."""
        return json.loads(self._file.metadata()[name])

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(name)
