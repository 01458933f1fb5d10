"""Whether what an experiment is made from is there: asked before anything is planned."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.artefacts import MANIFEST, PRIOR, backbone_folder, segmenter_folder
from pipeline.settings.sections import Settings
from sacd.errors import SacdError

MADE = {"train", "timm", "shapes"}  # and from nothing on disk


def require_sources(settings: Settings) -> None:
    """Raise `SacdError` by its key for each source that is not there, and still needed."""
    missing = [
        f"  {key}: '{source}': no such file or folder."
        for key, source, made in _sources(settings)
        if source not in MADE and not made.exists() and not _exists(source)
    ]
    if missing:
        raise SacdError("params.yaml:\n" + "\n".join(missing))


def _sources(settings: Settings) -> Iterator[tuple[str, str, Path]]:
    """Keys, what they name, and what is made of it."""
    compare, prior = settings.compare, settings.prior.source
    yield "images.source", settings.images.source, MANIFEST
    for name in compare.networks:
        yield f"backbones.{name}.source", settings.backbones[name].source, backbone_folder(name)
    for name in compare.segmenters:
        yield f"segmenters.{name}.source", settings.segmenters[name].source, segmenter_folder(name)
    if prior.startswith(("/", ".", "~")):  # else it may be a hub's name
        yield "prior.source", prior, PRIOR


def _exists(source: str) -> bool:
    try:
        return Path(source).expanduser().exists()
    except RuntimeError:  # of a user who is not known
        return False
