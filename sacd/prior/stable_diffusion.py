"""Priors as Stable Diffusion's folders hold them: from disk or a model hub, prompt and all."""

import re
from pathlib import Path

import torch
from torch import Tensor

from sacd.errors import SacdError

TEXT_ENCODER, TOKENIZER = "text_encoder", "tokenizer"
PARTS = ("unet", "vae", "scheduler", TEXT_ENCODER, TOKENIZER)
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def local_folder(source: str) -> Path:
    """The folder of a prior: `source` itself, or a hub's name (`owner/model`) fetched to its cache.

    Raises `SacdError` for what is neither.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(source):
        raise SacdError(
            f"prior.source: {folder}: no such folder; give it, a hub's name or 'train'."
        )
    from huggingface_hub import snapshot_download

    patterns = [f"{part}/{files}" for part in PARTS for files in ("*.json", "*.txt")]
    patterns += [f"{part}/*.safetensors" for part in PARTS] + [f"{part}/*.bin" for part in PARTS]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # its own errors are of these kinds
        reason = str(error).strip().split("\n")[0]
        raise SacdError(
            f"prior.source: '{source}' is no folder, and could not be had from the hub ({reason}); "
            f"give a folder with {', '.join(PARTS)}."
        ) from error


@torch.no_grad()
def embed_nothing(folder: Path) -> Tensor:
    """The embedding (1, tokens, width) of the empty prompt, by the folder's own text encoder.

    Raises `SacdError` where transformers is not installed, or the folder has no text encoder.
    """
    for part in (TEXT_ENCODER, TOKENIZER):
        if not (folder / part).is_dir():
            raise SacdError(f"{folder}: has no embedding of the empty prompt, and no {part}/.")
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise SacdError(
            f"{folder}: transformers is needed, once, to embed the empty prompt: "
            f"pip install 'transformers>=5.24,<6'."
        ) from error
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(folder / TEXT_ENCODER, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise SacdError(f"{folder}: {TEXT_ENCODER}/ or {TOKENIZER}/ is broken: {error}") from error
    length = encoder.config.max_position_embeddings
    tokens = tokenizer("", padding="max_length", max_length=length, return_tensors="pt").input_ids
    return encoder.float()(tokens).last_hidden_state
