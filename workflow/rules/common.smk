# Shared by all rules; the settings of the experiment, and what decides when to run again.
import json
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))
os.environ.update(SACD_ROOT=str(ROOT))
# A prefix replaces Snakemake's own strict mode, without which a stage that fails before `| tee` is
# taken for one that went well. A scheduler's request to stop reaches every process of a job: the
# stage answers it (sacd/stopping.py), and shell and tee must outlive it. Nothing is imported from
# the experiment's folder.
shell.prefix(
    "set -euo pipefail; trap '' TERM USR1; "
    'export PYTHONPATH="$SACD_ROOT" PYTHONSAFEPATH=1; '
    'launch() {{ bash "$SACD_ROOT/workflow/launch.sh" "$@"; }}; '
)

from sacd.errors import SacdError
from sacd.files import digest
from pipeline.artefacts import PRIOR_FILES, SPLITS
from pipeline.report_figures import more_figures
from pipeline.settings.load import PLANNED, load_settings, plan_with, read_settings
from pipeline.settings.sources import require_sources
from pipeline.versions import parts, version_of
from sacd.prior.source import PARTS, imported_files

try:
    SETTINGS = load_settings()
except SacdError as error:
    raise WorkflowError(str(error))

PLANS = PLANNED not in os.environ  # and not a job of a run that another process planned
if PLANS:
    try:
        require_sources(SETTINGS)
    except SacdError as error:
        raise WorkflowError(str(error))
plan_with(SETTINGS)
COMPARE = SETTINGS.compare
SEGMENTERS = [
    f"models/segmenters/{name}/diffusion_pytorch_model.safetensors" for name in COMPARE.segmenters
]


wildcard_constraints:
    backbone="[a-z0-9_]+",
    adapter="[a-z0-9_]+",
    decoder="[a-z0-9_]+",
    method="[a-z0-9_]+",
    segmenter="[a-z0-9_]+",
    sweep="[a-z0-9_]+",
    disturbance="[a-z0-9_]+",
    layers="[a-z0-9_]+",
    concepts="[a-z0-9_]+",
    probe="[a-z0-9_]+",
    edit="[a-z0-9_]+",


def parameters_of(stage):
    """The parts of params.yaml behind a job's result, which is made again when they change.

    As sorted JSON: the order of keys means nothing, to DVC neither.
    """

    def of_job(wildcards):
        found = parts(stage, SETTINGS, **dict(wildcards.items()))
        return {path: json.dumps(value, sort_keys=True) for path, value in found.items()}

    return of_job


def still_planned():
    """Whether params.yaml still says what this run was planned with."""
    try:
        return read_settings() == SETTINGS
    except SacdError:
        return False


def shipped(source, *files):
    """Files of a folder (or the file) that a model is imported from, where it is a path.

    Those that are there: of others the stage itself says what is missing.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return [str(path / name) for name in files if (path / name).exists()]
    return [str(path)] if path.is_file() else []


def shipped_prior():
    """Files by which the prior is imported, where it is a folder."""
    source = SETTINGS.prior.source
    return [] if source == "train" else shipped_parts(source, *PARTS)


def shipped_autoencoder():
    """Files by which its autoencoder is."""
    source, chosen = SETTINGS.prior.source, SETTINGS.prior.autoencoder
    if source != "train":
        return shipped_parts(source, "vae")
    return shipped_parts(chosen.source, ".", "vae") if chosen.type == "imported" else []


def shipped_parts(source, *parts):
    folder = Path(source).expanduser()
    return [str(path) for path in imported_files(folder, parts)] if folder.is_dir() else []


def needed_by_method(wildcards):
    """What a method draws with, apart from the features."""
    backbone = wildcards.backbone
    method = SETTINGS.methods[wildcards.method]
    if method.type == "decoder":
        return [f"decoders/{backbone}/{method.decoder}/decoder.safetensors"]
    if method.type == "nearest":
        return [f"features/{backbone}/train/index.json", "data/images/train/index.json"]
    network = [f"models/backbones/{backbone}/model.safetensors"]
    if method.type == "pixels":
        return network
    if method.type == "guidance":
        return [*PRIOR, *network]
    return [f"adapters/{backbone}/{method.adapter}/adapter.safetensors", *PRIOR, *network]
