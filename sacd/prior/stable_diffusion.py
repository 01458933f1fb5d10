"""The null prompt of Stable Diffusion: what its text encoder makes of an empty prompt."""

from pathlib import Path

import torch
from torch import Tensor

from sacd.errors import SacdError
from sacd.prior.source import TEXT_ENCODER, TOKENIZER
from sacd.weight_files import choose_weights


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
        weights = choose_weights(path.name for path in (folder / TEXT_ENCODER).iterdir())
        encoder = CLIPTextModel.from_pretrained(
            folder / TEXT_ENCODER,
            local_files_only=True,
            variant=weights and weights.variant,
            use_safetensors=weights and weights.safetensors,
        )
    except (OSError, ValueError, TypeError) as error:
        raise SacdError(f"{folder}: {TEXT_ENCODER}/ or {TOKENIZER}/ is broken: {error}") from error
    length = encoder.config.max_position_embeddings
    tokens = tokenizer("", padding="max_length", max_length=length, return_tensors="pt").input_ids
    return encoder.float()(tokens).last_hidden_state
