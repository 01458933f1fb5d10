"""What the scoring stages share: the truth, and the table of scores."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.artefacts import SEGMENTER_WEIGHTS, feature_folder, image_folder, segmenter_folder
from pipeline.inputs import load_masks, stratified_rows
from pipeline.program import device, progress
from pipeline.settings.sections import Settings
from pipeline.work_folder import content, work_folder
from sacd import parallel
from sacd.files import atomic, write_json
from sacd.metrics.scoring import Eyes, Truth, score_batch
from sacd.metrics.sets import frechet_distance, inception_distances
from sacd.shards import INDEX, Shards
from sacd.tensors import write_tensors

IMAGES_PER_BATCH = 16
ROWS_PER_READ = 1024


def load_truth(
    backbone: str, settings: Settings, split: str = "test", count: int | None = None
) -> Truth:
    """Images of a split (all, or `count` spread over it) with everything known of them."""
    images = Shards(image_folder(split))
    seen, judged = (
        Shards(feature_folder(name, split)) for name in (backbone, settings.compare.judge)
    )
    for features in (seen, judged):
        features.require_ids(images.ids, str(images.folder))
    rows = stratified_rows(images, count or len(images))

    def read(shards: Shards, name: str) -> Tensor:
        return shards.read_all(name) if count is None else shards.read(name, rows)

    masks = load_masks(split, settings.images.size)[rows] if settings.compare.segmenters else None
    return Truth(
        ids=[images.ids[row] for row in rows],
        images=read(images, "images"),
        features=read(seen, "features"),
        logits=read(seen, "logits") if seen.has("logits") else None,
        judge_features=read(judged, "features"),
        judge_logits=read(judged, "logits") if judged.has("logits") else None,
        masks=masks,
    )


def score_images(
    truth: Truth, samples: Callable[[int, int], Tensor], eyes: Eyes, label: str, work: Path
) -> tuple[pd.DataFrame, Tensor]:
    """Score `samples(start, stop)`, uint8 (n, K, 3, H, W), of all test images in batches.

    Batches are kept in `work`, as shards are by `fill_shards`: several processes share them, and an
    interrupted run takes them up.
    """
    starts = range(0, len(truth.ids), IMAGES_PER_BATCH)
    batches = {start: work / f"batch-{start:07d}" for start in starts}
    mine = parallel.share(starts)
    for start in progress(label)(iter(mine), len(mine)):
        if not batches[start].exists():
            stop = min(start + IMAGES_PER_BATCH, len(truth.ids))
            table, pooled = score_batch(truth.rows(start, stop), samples(start, stop), eyes)
            with atomic(batches[start]) as temporary:
                temporary.mkdir()
                table.to_parquet(temporary / "scores.parquet", index=False)
                write_tensors(temporary / "judged.safetensors", {"judged": pooled.contiguous()})
    parallel.wait()
    tables = [pd.read_parquet(batch / "scores.parquet") for batch in batches.values()]
    judged = [load_file(batch / "judged.safetensors")["judged"] for batch in batches.values()]
    parallel.wait()  # the first process clears the folder when it has written what all have scored
    return pd.concat(tables, ignore_index=True), torch.cat(judged)


def scoring_work(
    stage: str, backbone: str, what: str, inputs: list[Path], settings: Settings
) -> Path:
    """The work folder of scoring test images that come of the files `inputs`."""
    seen = [feature_folder(name, "test") / INDEX for name in (backbone, settings.compare.judge)]
    return work_folder(
        stage, backbone, what, scoring_sections(settings),
        *map(content, [*inputs, *seen, *segmenter_files(settings)]),
    )  # fmt: skip


def segmenter_files(settings: Settings) -> list[Path]:
    """Weights of the segmenters that score."""
    return [segmenter_folder(name) / SEGMENTER_WEIGHTS for name in settings.compare.segmenters]


def set_scores(
    judged: Tensor, truth: Truth, samples: Callable[[int, int], Tensor], settings: Settings
) -> dict[str, float]:
    """Distances of what was drawn, one sample an image, to real images.

    In the judge's pooled features `judged` (N, C) to the train split; in Inception's, where its
    weights are here, to the originals.
    """
    reference = _pooled(Shards(feature_folder(settings.compare.judge, "train")))
    starts = range(0, len(truth.ids), IMAGES_PER_BATCH)
    blocks = [(start, min(start + IMAGES_PER_BATCH, len(truth.ids))) for start in starts]
    return {
        "judge_frechet": frechet_distance(judged, reference),
        **inception_distances(
            (samples(*block)[:, 0] for block in blocks),
            (truth.images[slice(*block)] for block in blocks),
            settings.seed,
            device(),
        ),
    }


def _pooled(features: Shards) -> Tensor:
    """Spatial averages (N, C) of maps that need not fit into memory together."""
    starts = range(0, len(features), ROWS_PER_READ)
    blocks = (range(start, min(start + ROWS_PER_READ, len(features))) for start in starts)
    return torch.cat([features.read("features", rows).float().mean((2, 3)) for rows in blocks])


def scoring_sections(settings: Settings) -> dict[str, object]:
    """What of the parameters decides scores, apart from the samples."""
    compare = settings.compare
    return {
        "seed": settings.seed,
        "judge": {compare.judge: settings.backbones[compare.judge].model_dump()},
        "segmenters": {name: settings.segmenters[name].model_dump() for name in compare.segmenters},
    }


def write_scores(path: Path, table: pd.DataFrame, set_scores: dict[str, dict[str, float]]) -> None:
    """Write the per-image table and, beside it, scores of whole sets by method (JSON)."""
    write_json(path.with_suffix(".sets.json"), set_scores)
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)
