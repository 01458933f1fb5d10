"""Where every artefact lies in an experiment's folder, and what is shown of the results."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the repository: code, rules, versions

SPLITS = ("train", "val", "test")

# The folders of all that an experiment makes.
PLACES = (
    "data", "latents", "features", "models", "adapters", "decoders", "samples", "scores",
    "concepts", "edits", "robustness", "results",
)  # fmt: skip

MANIFEST = Path("data/manifest.parquet")
SKIPPED = Path("data/skipped.csv")
AUTOENCODER = Path("models/autoencoder")
PRIOR = Path("models/prior")
ROUND_TRIP = Path("latents/round_trip")  # the test images, encoded and decoded again
TABLES = Path("results/tables")
FIGURES = Path("results/figures")
REPORT = Path("results/report.html")
LOGS = Path("logs")  # and benchmark files of jobs: logs/<rule>[/<job>].benchmark.tsv

VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"
PRIOR_PARTS = (  # all that decides what a prior draws
    "unet/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "null_prompt.safetensors",
)
PRIOR_FILES = [PRIOR / part for part in PRIOR_PARTS]
SEGMENTER_WEIGHTS = "diffusion_pytorch_model.safetensors"

# What stages.score_references scores, and how it stands to a method's samples.
REFERENCES = {
    "original": "ceiling",
    "autoencoder": "ceiling",
    "same_class": "reference",
    "shuffled": "floor",
    "random_image": "floor",
}
REFERENCE_SCORES = "references"  # all of them stand in one file of scores, under this name
# Shown beside methods: an image as it was disturbed, and the one that an edit borrows from.
INPUT, OTHER = "input", "other"
# Metrics that make the point, in the tables people read.
SHOWN = ("cos_median", "top1_match", "judge_top1_match", "object_iou", "psnr_db", "spread_image")


def image_folder(split: str) -> Path:
    """Prepared images."""
    return Path("data/images") / split


def backbone_folder(backbone: str) -> Path:
    """A backbone's weights and configuration."""
    return Path("models/backbones") / backbone


def segmenter_folder(segmenter: str) -> Path:
    """A segmenter's weights and configuration."""
    return Path("models/segmenters") / segmenter


def latent_folder(split: str) -> Path:
    """Cached latents."""
    return Path("latents") / split


def feature_folder(backbone: str, split: str) -> Path:
    """Cached features."""
    return Path("features") / backbone / split


def adapter_folder(backbone: str, adapter: str) -> Path:
    """A trained adapter."""
    return Path("adapters") / backbone / adapter


def decoder_folder(backbone: str, decoder: str) -> Path:
    """A trained feed-forward decoder."""
    return Path("decoders") / backbone / decoder


def sample_folder(backbone: str, method: str) -> Path:
    """Samples drawn by a method."""
    return Path("samples") / backbone / method


def sweep_file(sweep: str) -> Path:
    """What a sweep found; its figure and record lie beside it."""
    return Path("results/sweeps") / f"{sweep}.csv"


def robustness_folder(backbone: str, disturbance: str) -> Path:
    """Scores and examples of reconstructions from disturbed inputs."""
    return Path("robustness") / backbone / disturbance


def robustness_file(disturbance: str) -> Path:
    """The table of a disturbance; its figures and record lie beside it."""
    return Path("results/robustness") / f"{disturbance}.csv"


def concept_folder(backbone: str, concepts: str) -> Path:
    """Directions in a backbone's feature space, and the patches that go furthest along each."""
    return Path("concepts") / backbone / concepts


def concept_file(concepts: str) -> Path:
    """The table of a set of concepts; its figure and record lie beside it."""
    return Path("results/concepts") / f"{concepts}.csv"


def probe_folder(probe: str) -> Path:
    """Linear classifiers of true factors from the judge's features."""
    return Path("models/probes") / probe


def edit_folder(backbone: str, edit: str) -> Path:
    """Scores and examples of what was drawn from edited features."""
    return Path("edits") / backbone / edit


def edit_file(edit: str) -> Path:
    """The table of an edit; its figures and record lie beside it."""
    return Path("results/edits") / f"{edit}.csv"


def disentanglement_file(edit: str) -> Path:
    """What else an edit changed; its figure and record lie beside it."""
    return Path("results/disentanglement") / f"{edit}.csv"


def layers_file(layers: str) -> Path:
    """The figure of a comparison of layers; its record lies beside it."""
    return Path("results/layers") / f"{layers}.png"


def score_file(backbone: str, method: str) -> Path:
    """Scores of a method's samples, or `REFERENCE_SCORES`."""
    return Path("scores") / backbone / f"{method}.parquet"
