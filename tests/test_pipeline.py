"""Every rule, run by Snakemake on the fixture: what is made, and that its content is right."""

import hashlib
import importlib.metadata
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Checkout
from diffusers import AutoencoderKL, UNet2DModel
from recorded_run import NOTHING
from safetensors.torch import load_file

from pipeline.versions import PARTS, version_of
from sacd.adapters.registry import load_adapter
from sacd.backbones.backbone import Backbone
from sacd.files import read_json
from sacd.images import shapes
from sacd.images.manifest import REQUIRED, read_manifest, unpack_masks
from sacd.metrics.segmenter import mask_iou, mask_logits
from sacd.metrics.sets import frechet_distance
from sacd.networks import load_diffusers
from sacd.prior.latents import decode_latents, encode_images
from sacd.prior.prior import Prior
from sacd.sampling.inverter import Inverter
from sacd.sampling.noise import noise_seed
from sacd.shards import Shards

CPU = torch.device("cpu")
SPLITS = ("train", "val", "test")
CEILINGS, REFERENCE = ("original", "autoencoder"), "same_class"
FLOORS = ("shuffled", "random_image")
# Stored as fp16, computed again in fp32, in other batches.
CLOSE = {"rtol": 2e-3, "atol": 2e-3}


def shape_of(params: dict, split: str) -> int:
    return len(params["images"]["classes"]) * params["images"]["per_class"][split]


class TestRun:
    def test_then_nothing_is_left_to_do(self, finished: Checkout):
        assert NOTHING in finished.snakemake("--dry-run").stdout

    def test_every_job_left_its_log_and_its_benchmark(self, finished: Checkout, folder: Path):
        listed = finished.snakemake("--dry-run", "--forceall").stdout
        logs = re.findall(r"^ +log: (\S+)$", listed, re.MULTILINE)
        benchmarks = re.findall(r"^ +benchmark: (\S+)$", listed, re.MULTILINE)
        assert len(logs) == len(benchmarks) == listed.count("rule ") - 1  # `all` has neither
        assert all((folder / log).exists() for log in logs)
        for benchmark in benchmarks:
            table = pd.read_csv(folder / benchmark, sep="\t")
            assert len(table) == 1
            assert 0 < float(table.s.iloc[0]) < 600, benchmark

    def test_nothing_unfinished_is_left(self, folder: Path):
        assert not list(folder.rglob("*.partial"))

    def test_records_say_how_each_result_was_made(
        self, finished: Checkout, folder: Path, params: dict
    ):
        paths = [*folder.rglob("record.json"), *folder.rglob("*.record.json")]
        folders = {path.relative_to(folder).parts[0] for path in paths}
        assert folders == {
            "data", "models", "latents", "features", "adapters", "samples", "scores", "results",
        }  # fmt: skip
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=finished.root, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        for path in paths:
            record = read_json(path)
            assert record["packages"]["torch"] == importlib.metadata.version("torch"), path
            assert set(record["packages"]) == {"torch", "diffusers", "timm", "numpy", "pandas"}
            assert record["revision"] == described, path  # and so not "-dirty"
            assert "CPU" in record["device"]
            assert 0 <= record["wall_seconds"] < 600
            assert record["version"] == version_of(record["stage"])
            assert len(record["parameters"]) == len(PARTS[record["stage"]])

        assert read_json(folder / "data/record.json")["parameters"] == {
            "seed": params["seed"], "images": params["images"],
        }  # fmt: skip
        adapter = read_json(folder / "adapters/tiny_a/pooled/record.json")["parameters"]
        assert adapter == {
            "seed": params["seed"], "adapters.pooled": params["adapters"]["pooled"],
        }  # fmt: skip
        drawn = read_json(folder / "samples/tiny_a/spatial/record.json")["parameters"]
        assert drawn == {
            "seed": params["seed"], "methods.spatial": params["methods"]["spatial"],
        }  # fmt: skip
        tables = read_json(folder / "results/tables/record.json")["parameters"]
        assert tables["compare"] == params["compare"]


class TestImages:
    def test_manifest(self, folder: Path, params: dict):
        table = pd.read_parquet(folder / "data/manifest.parquet")
        factors = {"shape", "fill", "x", "y", "radius", "hue", "color", "background", "light_angle"}
        assert {*REQUIRED, "crop", "mask", *factors} <= set(table.columns)
        assert table.image_id.is_unique
        assert table.split.drop_duplicates().tolist() == list(SPLITS)  # one block each
        classes = params["images"]["classes"]
        for split in SPLITS:
            counts = table[table.split == split].class_name.value_counts()
            assert counts.to_dict() == dict.fromkeys(classes, params["images"]["per_class"][split])
        assert (table.class_name == table.label.map(dict(enumerate(classes)))).all()
        assert (table.class_name == table.fill + "_" + table["shape"]).all()
        size = params["images"]["size"]
        assert set(table.width) == set(table.height) == {size}
        assert all(list(crop) == [0, 0, size, size] for crop in table.crop)

    @pytest.mark.parametrize("split", SPLITS)
    def test_pixels_are_those_of_the_manifest(self, folder: Path, params: dict, ids, split: str):
        shards = Shards(folder / "data/images" / split)
        assert shards.ids == ids[split]
        images, size = shards.read_all("images"), params["images"]["size"]
        assert images.dtype == torch.uint8
        assert images.shape == (shape_of(params, split), 3, size, size)
        table = read_manifest(folder / "data/manifest.parquet", split)
        for row, image in zip(table.itertuples(), images, strict=True):
            pixels = image.permute(1, 2, 0).numpy()
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == row.sha256
            scene = shapes.draw(params["seed"], split, int(row.source))
            again, mask = shapes.render(scene, size)
            assert (again == pixels).all()
            assert (unpack_masks(pd.Series([row.mask]), size)[0] == mask).all()

    def test_nothing_was_skipped(self, folder: Path):
        assert (folder / "data/skipped.csv").read_text() == "path,reason\n"
        assert read_json(folder / "data/record.json")["skipped"] == 0


class TestModels:
    def test_backbones_see(self, folder: Path, params: dict):
        for name in params["compare"]["networks"]:
            backbone = Backbone.from_pretrained(folder / "models/backbones" / name)
            assert backbone.config.model == params["backbones"][name]["model"]
            record = read_json(folder / f"models/backbones/{name}/record.json")
            images = Shards(folder / "data/images/val").read_all("images").float() / 255
            features, logits = backbone(images)
            assert list(features.shape[1:]) == record["feature_shape"]
            labels = torch.tensor(read_manifest(folder / "data/manifest.parquet", "val").label)
            assert logits is not None
            top1 = float((logits.argmax(1) == labels).float().mean())
            assert record["val_top1"] == pytest.approx(top1, abs=1e-4)
            assert record["parameters_in_network"] == sum(
                value.numel() for value in backbone.parameters()
            )

    def test_prior_holds_the_autoencoder(self, folder: Path, params: dict):
        prior = Prior.from_pretrained(folder / "models/prior")
        alone = load_diffusers(AutoencoderKL, folder / "models/autoencoder")
        weights = prior.vae.state_dict()
        assert all(torch.equal(weights[name], w) for name, w in alone.state_dict().items())
        record = read_json(folder / "models/prior/record.json")
        assert record["parameters_in_unet"] == sum(p.numel() for p in prior.unet.parameters())
        assert prior.unet.config.sample_size == 8  # an 8x8 grid: what three levels make of 32 px
        chosen = params["prior"]["unet"]
        recipes = [chosen["training"], chosen["finetune"]]
        history = record["training"]["history"]
        assert [run["step"] for run in history] == [recipe["steps"] for recipe in recipes]

    def test_probe_finds_as_well_as_its_record_says(self, folder: Path, params: dict):
        segmenter = load_diffusers(UNet2DModel, folder / "models/segmenters/finder")
        images = Shards(folder / "data/images/val").read_all("images")
        table = read_manifest(folder / "data/manifest.parquet", "val")
        masks = torch.from_numpy(unpack_masks(table["mask"], params["images"]["size"]))
        with torch.no_grad():
            overlap = mask_iou(mask_logits(segmenter, images / 255) > 0, masks).mean()
        record = read_json(folder / "models/segmenters/finder/record.json")
        # Recorded before the weights were rounded to fp16.
        assert record["val_iou"] == pytest.approx(float(overlap), abs=0.01)


class TestCaches:
    @pytest.mark.parametrize("split", SPLITS)
    def test_latents(self, folder: Path, ids, split: str):
        shards = Shards(folder / "latents" / split)
        assert shards.ids == ids[split]
        latents = shards.read_all("latents")
        assert latents.dtype == torch.float16
        assert latents.shape == (len(ids[split]), 4, 8, 8)
        vae = load_diffusers(AutoencoderKL, folder / "models/autoencoder")
        assert shards.info["scaling_factor"] == vae.config.scaling_factor
        images = Shards(folder / "data/images" / split).read_all("images")
        torch.testing.assert_close(latents, encode_images(vae, images, CPU), **CLOSE)
        if split == "train":  # scaled on these: a deviation of one is what the U-Net learns from
            assert float(latents.float().std()) == pytest.approx(1, abs=0.1)

    def test_round_trip(self, folder: Path, ids):
        shards = Shards(folder / "latents/round_trip")
        assert shards.ids == ids["test"]
        images = shards.read_all("images")
        assert images.dtype == torch.uint8
        vae = load_diffusers(AutoencoderKL, folder / "models/autoencoder")
        again = decode_latents(vae, Shards(folder / "latents/test").read_all("latents"), CPU)
        assert int((images.int() - again.int()).abs().max()) <= 1

    @pytest.mark.parametrize("split", SPLITS)
    @pytest.mark.parametrize("name", ["tiny_a", "tiny_judge"])
    def test_features(self, folder: Path, params: dict, ids, name: str, split: str):
        shards = Shards(folder / "features" / name / split)
        assert shards.ids == ids[split]
        assert shards.info["layer"] == params["backbones"][name]["layer"]
        features, logits = shards.read_all("features"), shards.read_all("logits")
        assert features.dtype == logits.dtype == torch.float16
        assert features.ndim == 4
        backbone = Backbone.from_pretrained(folder / "models/backbones" / name)
        images = Shards(folder / "data/images" / split).read_all("images")
        seen, scores = backbone(images.float() / 255)
        torch.testing.assert_close(features.float(), seen, **CLOSE)
        torch.testing.assert_close(logits.float(), scores, **CLOSE)


class TestAdapters:
    @pytest.mark.parametrize("name", ["spatial", "pooled"])
    def test_loads_and_has_learnt(self, folder: Path, params: dict, name: str):
        place = folder / "adapters/tiny_a" / name
        prior = Prior.from_pretrained(folder / "models/prior")
        adapter = load_adapter(place, prior.unet)
        assert adapter.config.backbone == "tiny_a"
        assert adapter.config.conditioning == params["adapters"][name]["conditioning"]
        assert adapter.config.layer == params["backbones"]["tiny_a"]["layer"]
        shape = Shards(folder / "features/tiny_a/test").shape("features")
        assert adapter.config.feature_shape == shape
        assert adapter.config.grid == (8, 8)
        weights = load_file(place / "adapter.safetensors")
        assert all(value.isfinite().all() for value in weights.values())
        whitening = {"encoder.mean", "encoder.matrix"}
        in_full = {name for name, value in weights.items() if value.dtype == torch.float32}
        assert in_full == whitening
        assert {weights[name].dtype for name in weights.keys() - in_full} == {torch.float16}
        record = read_json(place / "record.json")
        assert record["parameters_in_adapter"] == sum(p.numel() for p in adapter.parameters())
        # Zero convolutions that moved let the features through.
        zeros = [w for n, w in weights.items() if n.startswith("control.controlnet_")]
        assert zeros
        assert all(bool(value.any()) for value in zeros)

    @pytest.mark.parametrize("name", ["spatial", "pooled"])
    def test_training_checked_the_condition(self, folder: Path, params: dict, name: str):
        training = read_json(folder / "adapters/tiny_a" / name / "training.json")
        last = training["history"][-1]
        assert last["step"] == params["adapters"][name]["training"]["steps"]
        losses = [last[key] for key in ("loss", "loss_true", "loss_shuffled", "loss_null")]
        assert all(0 < loss < 10 for loss in losses)
        assert len(set(losses)) == 4
        difference = last["loss_shuffled"] - last["loss_true"]
        assert last["margin"] == pytest.approx(difference, abs=1e-6)
        assert last["margin_error"] > 0
        assert training["uses_condition"] is (last["margin"] > 2 * last["margin_error"])
        log = (folder / f"logs/train_adapter/tiny_a-{name}.log").read_text()
        verdict = "is used" if training["uses_condition"] else "IS NOT USED"
        assert f"adapter tiny_a/{name}: the condition {verdict}" in log

    def test_pooled_sees_one_vector(self, folder: Path):
        prior = Prior.from_pretrained(folder / "models/prior")
        features = Shards(folder / "features/tiny_a/test").read_all("features").float()
        turned = features.flip(3)  # a mirrored map has the same average
        for name, same in (("pooled", True), ("spatial", False)):
            adapter = load_adapter(folder / "adapters/tiny_a" / name, prior.unet)
            hints = adapter.hint(features), adapter.hint(turned)
            assert torch.allclose(*(hint[0] for hint in hints), atol=1e-5) is same


class TestSamples:
    @pytest.mark.parametrize("method", ["spatial", "pooled", "unconditional"])
    def test_shape_and_order(self, folder: Path, params: dict, ids, method: str):
        shards = Shards(folder / "samples/tiny_a" / method)
        assert shards.ids == ids["test"]
        repeats, size = params["methods"][method]["samples"], params["images"]["size"]
        images = shards.read_all("images")
        assert images.dtype == torch.uint8
        assert images.shape == (len(ids["test"]), repeats, 3, size, size)
        assert torch.equal(
            shards.read_all("sample_index"), torch.arange(repeats).repeat(len(images), 1)
        )
        assert shards.read_all("noise_seed").tolist() == [
            [noise_seed(params["seed"], name, k) for k in range(repeats)] for name in ids["test"]
        ]
        assert shards.info == {"seed": params["seed"], "method": params["methods"][method]}
        flat = images.flatten(2).float()
        assert (flat.std(2) > 1).all()
        distinct = {image.numpy().tobytes() for image in images.flatten(0, 1)}
        assert len(distinct) == len(ids["test"]) * repeats  # noise of its own for each

    @pytest.mark.parametrize("method", ["spatial", "pooled", "unconditional"])
    def test_the_library_draws_the_same(self, folder: Path, params: dict, ids, method: str):
        """From the stored adapter and features, alone instead of in the stage's batch."""
        chosen = params["methods"][method]
        prior = Prior.from_pretrained(folder / "models/prior")
        adapter = load_adapter(folder / "adapters/tiny_a" / chosen["adapter"], prior.unet)
        row, sample = 5, 1
        features = Shards(folder / "features/tiny_a/test").read("features", [row])
        drawn = Inverter(prior, adapter, None, CPU).sample(
            features if chosen["features"] == "true" else None,
            [(ids["test"][row], sample)],
            params["seed"],
            steps=chosen["steps"],
            guidance=chosen["guidance"],
            guidance_interval=chosen["guidance_interval"],
            energy_guidance=chosen["energy_guidance"],
        )[0]
        stored = Shards(folder / "samples/tiny_a" / method).read("images", [row])[0, sample]
        difference = (drawn.int() - stored.int()).abs()
        assert float(difference.float().mean()) < 1
        others = Shards(folder / "samples/tiny_a" / method).read("images", [row])[0, 1 - sample]
        assert float((others.int() - stored.int()).abs().float().mean()) > 5

    def test_methods_differ_by_the_feature_alone(self, folder: Path):
        """The same noise everywhere, so what differs is the adapter's work."""
        drawn = {
            method: Shards(folder / "samples/tiny_a" / method).read_all("images").int()
            for method in ("spatial", "pooled", "unconditional")
        }
        for one, other in (("spatial", "pooled"), ("spatial", "unconditional")):
            difference = (drawn[one] - drawn[other]).abs().float()
            assert 0 < float(difference.mean()) < 10


# By the beginning of a metric's name.
RANGES = {
    "cos": (-1, 1), "judge_cos": (-1, 1), "rel_l2": (0, 10), "judge_rel_l2": (0, 10),
    "top": (0, 1), "judge_top": (0, 1), "object_iou": (0, 1), "psnr_db": (3, 100),
    "ssim": (-1, 1), "lpips": (0, 2), "spread_image": (0, 1), "spread_features": (0, 10),
}  # fmt: skip


class TestScores:
    @pytest.mark.parametrize("method", ["spatial", "pooled", "unconditional"])
    def test_one_row_an_image_and_sample(self, folder: Path, params: dict, ids, method: str):
        table = pd.read_parquet(folder / f"scores/tiny_a/{method}.parquet")
        repeats = params["methods"][method]["samples"]
        assert table.image_id.tolist() == [name for name in ids["test"] for _ in range(repeats)]
        assert table["sample"].tolist() == list(range(repeats)) * len(ids["test"])
        assert set(table.method) == {method}
        self.check_ranges(table)

    def test_references(self, folder: Path, params: dict, ids):
        table = pd.read_parquet(folder / "scores/tiny_a/references.parquet")
        repeats = params["methods"][params["compare"]["main_method"]]["samples"]
        counts = table.groupby("method", sort=False).size().to_dict()
        assert set(counts) == {*CEILINGS, REFERENCE, *FLOORS}
        for method, count in counts.items():
            expected = repeats if method == "shuffled" else 1
            assert count == expected * len(ids["test"]), method
        self.check_ranges(table)
        original = table[table.method == "original"]
        # Features are stored in fp16 (11 bits) and these are computed anew, so 0 is 2^-11.
        assert np.allclose(original[["cos_median", "cos_mean", "cos_q05", "cos_pooled"]], 1)
        assert (original.rel_l2 < 2**-11).all()
        assert (original[["top1_match", "top5_match", "judge_top1_match"]] == 1).all(axis=None)
        assert np.allclose(original.ssim, 1, atol=1e-4)
        assert (original.psnr_db == 100).all()  # the cap, of equal images

    def check_ranges(self, table: pd.DataFrame) -> None:
        metrics = [name for name in table if name not in ("method", "image_id", "sample")]
        assert {"cos_median", "rel_l2", "top1_match", "judge_cos_median"} <= set(metrics)
        assert {"object_iou", "psnr_db", "ssim"} <= set(metrics)
        for name in metrics:
            prefix = max((p for p in RANGES if name.startswith(p)), key=len)
            low, high = RANGES[prefix]
            values = table[name].dropna()
            assert len(values), name
            assert values.between(low - 1e-5, high + 1e-5).all(), name
            if name.endswith("_match"):
                assert values.isin([0, 1]).all(), name

    def test_a_score_computed_by_hand(self, folder: Path):
        """Median over locations of the cosine, of images that the backbone sees as 8-bit ones."""
        backbone = Backbone.from_pretrained(folder / "models/backbones/tiny_a")
        samples = Shards(folder / "samples/tiny_a/spatial").read_all("images")
        truth = Shards(folder / "features/tiny_a/test").read_all("features").float()
        seen = backbone(samples[:, 1].float() / 255)[0]
        cosines = (seen * truth).sum(1) / (seen.norm(dim=1) * truth.norm(dim=1))
        middle = cosines.flatten(1).quantile(0.5, dim=1)
        table = pd.read_parquet(folder / "scores/tiny_a/spatial.parquet")
        assert np.allclose(table[table["sample"] == 1].cos_median, middle, atol=1e-4)

    def test_sets(self, folder: Path):
        """The originals are as far from the train split as the judge's stored features say."""
        pooled = {
            split: Shards(folder / "features/tiny_judge" / split)
            .read_all("features").float().mean((2, 3))
            for split in ("train", "test")
        }  # fmt: skip
        sets = read_json(folder / "scores/tiny_a/references.sets.json")
        assert set(sets) == {*CEILINGS, REFERENCE, *FLOORS}
        expected = frechet_distance(pooled["test"], pooled["train"])
        assert sets["original"]["judge_frechet"] == pytest.approx(expected, rel=1e-2)
        assert all(values["judge_frechet"] > 0 for values in sets.values())
