"""Where a prior is imported from: a folder or a model hub, and which of its files are read."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from sacd.errors import SacdError
from sacd.weight_files import choose_weights

NULL_PROMPT = "null_prompt.safetensors"
TEXT_ENCODER, TOKENIZER = "text_encoder", "tokenizer"
PARTS = ("unet", "vae", "scheduler", TEXT_ENCODER, TOKENIZER)
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def files_to_read(names: Iterable[str], parts: Sequence[str] = PARTS) -> list[str]:
    """Of the files of a prior (paths below its folder) those by which its `parts` are imported.

    Configurations and vocabularies, one set of weights of each part, and the null prompt; where
    there is one, the text encoder has nothing to say.
    """
    names = set(names)
    if NULL_PROMPT in names:
        parts = [part for part in parts if part not in (TEXT_ENCODER, TOKENIZER)]
    chosen = [NULL_PROMPT] if NULL_PROMPT in names and "unet" in parts else []
    for part in parts:
        inside = [PurePosixPath(name) for name in names if str(PurePosixPath(name).parent) == part]
        chosen += [
            str(path)
            for path in inside
            if path.suffix in (".json", ".txt") and path.name != "record.json"
        ]
        if weights := choose_weights(path.name for path in inside):
            chosen += [str(PurePosixPath(part, name)) for name in weights.files]
    return sorted(set(chosen))


def imported_files(folder: Path, parts: Sequence[str] = PARTS) -> list[Path]:
    """`files_to_read` of a folder on this machine."""
    names = [path.relative_to(folder).as_posix() for path in folder.glob("*")]
    names += [f"{part}/{path.name}" for part in parts for path in (folder / part).glob("*")]
    return [folder / name for name in files_to_read(names, parts)]


def local_autoencoder(source: str) -> Path:
    """The folder of an autoencoder by itself, or that of a whole prior's; see `local_folder`."""
    folder = local_folder(source, "prior.autoencoder.source", (".", "vae"))
    return folder / "vae" if (folder / "vae").is_dir() else folder


def local_folder(source: str, key: str = "prior.source", parts: Sequence[str] = PARTS) -> Path:
    """The folder of a prior: `source` itself, or a hub's name (`owner/model`) fetched to its cache.

    `parts` are the folders of it that are wanted ("." for what lies in none); of each one set of
    weights is fetched. Raises `SacdError`, which names the `key` of params.yaml, for what is
    neither.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(source):
        raise SacdError(f"{key}: {folder}: no such folder; give it, or a hub's name.")
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        try:
            names = list_repo_files(source)
        except Exception:  # its HTTP library's too: no hub in reach, what was fetched will do
            return Path(snapshot_download(source, local_files_only=True))
        return Path(snapshot_download(source, allow_patterns=files_to_read(names, parts)))
    except (OSError, ValueError) as error:  # its own errors are of these kinds
        reason = str(error).strip().split("\n")[0]
        raise SacdError(
            f"{key}: '{source}' is no folder, and could not be had from the hub ({reason}); "
            f"give a folder in the diffusers layout."
        ) from error
