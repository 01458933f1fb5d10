"""Who looks at what was drawn from edited features."""

from pathlib import Path

from torch import Tensor

from pipeline.artefacts import feature_folder, probe_folder
from pipeline.edits import BACKBONE, JUDGE, Edited, Subjects
from pipeline.eyes import load_eyes, read_parts, see
from pipeline.inputs import stratified_rows
from pipeline.settings.sections import Settings
from sacd.concepts.directions import locations
from sacd.concepts.effects import Manifold
from sacd.concepts.probe import Probe
from sacd.metrics.features import feature_scores
from sacd.provenance import require_made_of
from sacd.shards import Shards

MANIFOLD_IMAGES, MANIFOLD_LOCATIONS = 512, 4096  # real features that edited ones are compared with

Scores = dict[str, Tensor | list[str]]  # by name, a value for each of N K images


class Observer:
    """The backbone, the judge, and the probes of the judge's features."""

    def __init__(self, settings: Settings, backbone: str):
        self._eyes = load_eyes(backbone, settings)
        self._probes = [_load_probe(probe) for probe in settings.compare.probes]
        train = Shards(feature_folder(backbone, "train"))
        real = train.read("features", stratified_rows(train, MANIFOLD_IMAGES))
        self._manifold = Manifold(locations(real, MANIFOLD_LOCATIONS, settings.seed))

    @property
    def factors(self) -> list[str]:
        """What the probes tell."""
        return [factor for probe in self._probes for factor in probe.kinds]

    def plausible(self, edited: Edited) -> Tensor:
        """`Manifold.percentile` of edited features, (N,)."""
        return self._manifold.percentile(edited.features, edited.region)

    def look(self, images: Tensor, subjects: Subjects, edited: Edited) -> tuple[Tensor, Scores]:
        """Features (N K, C, h, w) of images uint8 (N, K, 3, S, S), and the scores they give."""
        repeats, flat = images.shape[1], images.flatten(0, 1)
        seen = {
            BACKBONE: see(self._eyes.backbone, flat),
            JUDGE: see(self._eyes.judge, flat),
        }
        features = seen[BACKBONE][0]
        against = feature_scores(features, edited.features.repeat_interleave(repeats, 0))
        scores: Scores = {
            "cos_of_asked": against["cos_median"],
            "rel_l2_of_asked": against["rel_l2"],
        }
        for eye, (_, logits) in seen.items():
            if logits is None or eye not in subjects.logits:
                continue
            said = logits.float().softmax(1)
            own = subjects.logits[eye].argmax(1).repeat_interleave(repeats)
            scores[f"{eye}p_own"] = said.gather(1, own[:, None])[:, 0]
            if eye in edited.wanted:
                wanted = edited.wanted[eye].repeat_interleave(repeats, 0)
                scores[f"{eye}p_wanted"] = (said * wanted).sum(1)
        if self._probes:
            parts = read_parts(seen[JUDGE][0], flat, self._eyes.segmenter)
            for probe in self._probes:
                scores |= {f"kind_{factor}": kinds for factor, kinds in probe.read(parts).items()}
        return features, scores


def _load_probe(name: str) -> Probe:
    folder = probe_folder(name)
    require_made_of(folder, Path())
    return Probe.load(folder / "probe.safetensors")
