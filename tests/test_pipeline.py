"""Every rule, run by Snakemake on the fixture: what is made, and that its content is right."""

import base64
import hashlib
import importlib.metadata
import io
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Checkout
from PIL import Image
from safetensors.torch import load_file

from sacd.adapters.controlnet import load_adapter
from sacd.backbones.backbone import Backbone
from sacd.files import read_json
from sacd.images import shapes
from sacd.images.manifest import REQUIRED, read_manifest, unpack_masks
from sacd.prior.latents import decode_latents, encode_images
from sacd.prior.prior import Prior, load_autoencoder
from sacd.sampling.inverter import Inverter
from sacd.shards import Shards

CPU = torch.device("cpu")
SPLITS = ("train", "val", "test")
CEILINGS, REFERENCE = ("original", "autoencoder"), "same_class"
FLOORS = ("shuffled", "random_image")
FIGURES = ("reconstructions", "scores", "training", "prior_samples")
# Stored as fp16, computed again in fp32, in other batches.
CLOSE = {"rtol": 2e-3, "atol": 2e-3}


@pytest.fixture(scope="module")
def folder(finished: Checkout) -> Path:
    return finished.experiment


@pytest.fixture(scope="module")
def params(finished: Checkout) -> dict:
    return finished.params


@pytest.fixture(scope="module")
def ids(folder: Path) -> dict[str, list[str]]:
    """The manifest's ids by split: the order that everything else must keep."""
    table = pd.read_parquet(folder / "data/manifest.parquet")
    return {split: table.image_id[table.split == split].tolist() for split in SPLITS}


def shape_of(params: dict, split: str) -> int:
    return len(params["images"]["classes"]) * params["images"]["per_class"][split]


class TestRun:
    def test_then_nothing_is_left_to_do(self, finished: Checkout):
        assert "Nothing to be done" in finished.snakemake("--dry-run").stdout

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
            assert record["parameters"]

        assert read_json(folder / "data/record.json")["parameters"] == {
            "seed": params["seed"], "images": params["images"],
        }  # fmt: skip
        adapter = read_json(folder / "adapters/tiny_a/pooled/record.json")["parameters"]
        assert adapter == {"seed": params["seed"], "adapter": params["adapters"]["pooled"]}
        drawn = read_json(folder / "samples/tiny_a/spatial/record.json")["parameters"]
        assert drawn == {"seed": params["seed"], "method": params["methods"]["spatial"]}
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

    def test_prior_holds_the_autoencoder(self, folder: Path):
        prior = Prior.from_pretrained(folder / "models/prior")
        alone = load_autoencoder(folder / "models/autoencoder")
        weights = prior.vae.state_dict()
        assert all(torch.equal(weights[name], w) for name, w in alone.state_dict().items())
        record = read_json(folder / "models/prior/record.json")
        assert record["parameters_in_unet"] == sum(p.numel() for p in prior.unet.parameters())
        assert prior.unet.config.sample_size == 8  # an 8x8 grid: what three levels make of 32 px

    def test_probe_finds_as_well_as_its_record_says(self, folder: Path, params: dict):
        from sacd.metrics.finder import load_finder, mask_iou, mask_logits

        finder = load_finder(folder / "models/probes/finder")
        images = Shards(folder / "data/images/val").read_all("images")
        table = read_manifest(folder / "data/manifest.parquet", "val")
        masks = torch.from_numpy(unpack_masks(table["mask"], params["images"]["size"]))
        with torch.no_grad():
            overlap = mask_iou(mask_logits(finder, images / 255) > 0, masks).mean()
        record = read_json(folder / "models/probes/finder/record.json")
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
        vae = load_autoencoder(folder / "models/autoencoder")
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
        vae = load_autoencoder(folder / "models/autoencoder")
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

        values = features.double()
        expected = {
            "mean": values.mean((0, 2, 3)),
            "std": values.transpose(0, 1).flatten(1).std(1, correction=0).clamp(min=1e-4),
            "pooled_std": values.mean((2, 3)).std(0, correction=0).clamp(min=1e-4),
        }
        assert set(shards.info["statistics"]) == set(expected)
        for statistic, found in shards.info["statistics"].items():
            truth = expected[statistic]
            torch.testing.assert_close(torch.tensor(found).double(), truth, rtol=1e-6, atol=1e-6)


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
        assert {value.dtype for value in weights.values()} == {torch.float16}
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
            assert torch.allclose(*hints, atol=1e-5) is same


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
            chosen["steps"],
            chosen["guidance"],
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
        from sacd.metrics.sets import frechet_distance

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


class TestTables:
    @pytest.fixture
    def table(self, folder: Path) -> pd.DataFrame:
        return pd.read_csv(folder / "results/tables/main.csv", na_values="n/a")

    def test_rows_are_methods_between_ceilings_and_floors(self, table, params: dict, ids):
        methods = params["compare"]["methods"]
        assert table.method.tolist() == [*CEILINGS, *methods, REFERENCE, *FLOORS]
        kinds = ["ceiling"] * 2 + ["method"] * len(methods) + ["reference"] + ["floor"] * 2
        assert table.kind.tolist() == kinds
        assert set(table.backbone) == set(params["compare"]["backbones"])
        assert set(table.images) == {len(ids["test"])}

    def test_columns_carry_units_and_intervals(self, table):
        from stages.make_tables import METRICS

        metrics = [name for name in METRICS if table[name].notna().any()]
        assert {"cos_median", "rel_l2", "judge_cos_median", "object_iou", "psnr_db"} <= set(metrics)
        for name in metrics:
            rows = table[table[name].notna()]
            # Both are rounded to five digits, and an interval may have no width.
            assert (rows[f"{name}_low"] <= rows[name] * (1 + 1e-4) + 1e-9).all(), name
            assert (rows[name] <= rows[f"{name}_high"] * (1 + 1e-4) + 1e-9).all(), name
        methods = table[table.kind == "method"]
        assert (methods.seconds_per_sample > 0).all()
        assert (table.judge_frechet > 0).all()

    def test_means_are_those_of_the_scores(self, table, folder: Path):
        for row in table.itertuples():
            name = row.method if row.kind == "method" else "references"
            scores = pd.read_parquet(folder / f"scores/tiny_a/{name}.parquet")
            scores = scores[scores.method == row.method]
            for metric in ("cos_median", "rel_l2", "psnr_db", "object_iou"):
                assert getattr(row, metric) == pytest.approx(scores[metric].mean(), rel=1e-4)

    def test_the_original_is_itself(self, table):
        original = table[table.method == "original"].iloc[0]
        for name in ("cos_median", "cos_mean", "cos_q05", "cos_pooled", "top1_match"):
            assert original[name] == original[f"{name}_low"] == 1, name
        assert original.rel_l2 < 2**-11  # what fp16 features leave of 0

    def test_missing_weights_are_named_and_not_replaced(self, folder: Path):
        from sacd.metrics.images import lpips_available

        cells = pd.read_csv(folder / "results/tables/main.csv", keep_default_na=False).lpips
        assert lpips_available() or set(cells) == {"n/a"}

    def test_checks(self, table, folder: Path, params: dict):
        checks = pd.read_csv(folder / "results/tables/checks.csv")
        means = table.set_index("method")
        order = checks[checks.check.str.contains(" above ")]
        pairs = len(params["compare"]["methods"]) - 1
        assert len(order) == 3 * pairs
        for row in order.itertuples():
            better, worse = re.match(r"(\w+) above (\w+)", row.check).groups()
            clearly = better == params["compare"]["main_method"]
            assert row.check.endswith("intervals apart") == clearly
            assert row.value == means.loc[better, row.metric]
            assert row.against == means.loc[worse, row.metric]
            ends = ("_low", "_high") if clearly else ("", "")
            high, low = (
                means.loc[name, row.metric + end]
                for name, end in zip((better, worse), ends, strict=True)
            )
            assert row.holds == (high > low)
        kept = checks[checks.check.str.startswith("the autoencoder keeps")]
        assert dict(zip(kept.metric, kept.against, strict=True)) == {
            "cos_median": 0.9,
            "top1_match": 0.95,
        }
        for row in kept.itertuples():
            assert row.value == means.loc["autoencoder", row.metric]
            assert row.holds == (row.value >= row.against)
        share = checks[checks.check.str.startswith("share of the way")].iloc[0]
        cosines = means.cos_median
        gap = cosines["autoencoder"] - cosines["shuffled"]
        way = cosines[params["compare"]["main_method"]] - cosines["shuffled"]
        assert share.value == pytest.approx(way / gap, rel=0.01, abs=0.01)
        assert share.against == params["compare"]["gap_closed"]
        assert share.holds == (share.value >= share.against)

    def test_training(self, folder: Path, params: dict):
        table = pd.read_csv(folder / "results/tables/training.csv").set_index("adapter")
        assert table.index.tolist() == params["compare"]["adapters"]
        for name, row in table.iterrows():
            training = read_json(folder / "adapters/tiny_a" / name / "training.json")
            last = training["history"][-1]
            for key in ("loss_true", "loss_shuffled", "loss_null", "margin", "margin_error"):
                assert row[key] == pytest.approx(last[key], rel=1e-4)
            assert row.steps == params["adapters"][name]["training"]["steps"]
            assert row.uses_condition == training["uses_condition"]
            assert row.training_seconds > 0


class TestFigures:
    @pytest.mark.parametrize("name", FIGURES)
    def test_there_is_something_to_see(self, folder: Path, name: str):
        with Image.open(folder / f"results/figures/{name}.png") as image:
            assert image.format == "PNG"
            assert 300 < image.width < 4000
            assert 200 < image.height < 4000
            pixels = np.asarray(image.convert("L"))
        assert pixels.std() > 10
        assert len(np.unique(pixels)) > 50
        pdf = (folder / f"results/figures/{name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF-")
        assert pdf.rstrip().endswith(b"%%EOF")


class TestReport:
    @pytest.fixture
    def page(self, folder: Path) -> str:
        return (folder / "results/report.html").read_text()

    def test_stands_alone(self, page: str):
        assert not re.search(r"https?://", page)
        assert not re.search(r"<(script|link|iframe|object)\b|@import|url\(", page)
        sources = re.findall(r"src=['\"](.{30})", page)
        assert len(sources) == len(FIGURES)
        assert all(source.startswith("data:image/png;base64,") for source in sources)

    def test_holds_the_figures(self, page: str, folder: Path):
        for name in FIGURES:
            picture = (folder / f"results/figures/{name}.png").read_bytes()
            assert base64.b64encode(picture).decode() in page

    def test_holds_the_tables(self, page: str, folder: Path):
        lines = (folder / "results/tables/main.md").read_text().splitlines()
        cells = [cell.strip() for line in lines[2:] for cell in line.strip("|").split("|")]
        shown = re.findall(r"<td>(.*?)</td>", page)
        assert set(cells) <= set(shown)
        assert sum("[" in cell for cell in cells) > 30  # means with intervals
        for name in ("checks", "training"):
            table = pd.read_csv(folder / f"results/tables/{name}.csv", keep_default_na=False)
            header = re.findall(r"<th>(.*?)</th>", page)
            assert set(table.columns) <= set(header)


@pytest.fixture(scope="module")
def photographs(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """An experiment on an archive in ImageFolder layout, with files that cannot be used."""
    made = checkout.copy(tmp_path_factory.mktemp("photographs") / "repository")
    with tarfile.open(made.experiment / "photos.tar", "w") as archive:
        for label, name in enumerate(("ball", "box")):
            for split, count in (("train", 6 + label), ("val", 9)):
                for index in range(count):
                    picture = scene(split, 20 * index + 4 * label)
                    add(archive, f"photos/{split}/{name}/{index}.png", encode(picture))
        good = encode(scene("train", 400).convert("L"))
        add(archive, "photos/train/ball/gray.png", good)
        add(archive, "photos/train/ball/cut.png", good[: len(good) // 2])
        add(archive, "photos/train/ball/text.jpg", b"not an image")
        add(archive, "photos/train/box/small.png", encode(scene("train", 0).resize((31, 90))))
        add(archive, "photos/train/notes.txt", b"no image's name: not looked at")

    def choose(params: dict) -> None:
        params["seed"] = 1  # by this one no broken file comes after enough good ones
        params["images"] |= {
            "source": "photos.tar", "classes": "all", "max_skipped": 0.2,
            "per_class": {"train": 7, "val": 2, "test": 3},
        }  # fmt: skip
        params["compare"]["probes"] = []
        autoencoder = params["prior"]["autoencoder"]
        critics = [autoencoder["critic"], autoencoder["refinement"]["critic"]]
        for network in [*params["backbones"].values(), *critics]:
            network["training"]["dense"] = False

    made.edit(choose)
    return made


class TestPhotographs:
    def test_usable_files_are_prepared_and_others_listed(self, photographs: Checkout):
        photographs.snakemake("prepare_images")
        folder = photographs.experiment
        table = pd.read_parquet(folder / "data/manifest.parquet")
        assert table.groupby(["split", "class_name"]).size().to_dict() == {
            (split, name): count
            for split, count in (("train", 7), ("val", 2), ("test", 3))
            for name in ("ball", "box")
        }
        assert table.image_id.is_unique
        for split in SPLITS:  # test and val images come from the folder val/
            names = table.image_id[table.split == split]
            assert names.str.startswith(
                "photos/train/" if split == "train" else "photos/val/"
            ).all()
            assert Shards(folder / "data/images" / split).ids == names.tolist()
        assert "photos/train/notes.txt" not in set(table.image_id)

        reasons = pd.read_csv(folder / "data/skipped.csv").set_index("path").reason
        assert set(reasons.index) == {
            "photos/train/ball/cut.png", "photos/train/ball/text.jpg", "photos/train/box/small.png",
        }  # fmt: skip
        assert reasons["photos/train/ball/cut.png"].startswith("unreadable: ")
        assert reasons["photos/train/ball/text.jpg"].startswith("unreadable: ")
        assert reasons["photos/train/box/small.png"] == "too small: 31x90 px, needs 32"
        assert read_json(folder / "data/record.json")["skipped"] == 3

        row = table[table.image_id.str.endswith(".png")].iloc[0]
        assert (row.width, row.height) == (48, 64)
        assert list(row.crop) == [0, 8, 48, 56]  # the central square
        with tarfile.open(folder / "photos.tar") as archive:
            data = archive.extractfile(row.image_id).read()
        assert row.sha256 == hashlib.sha256(data).hexdigest()
        with Image.open(io.BytesIO(data)) as image:
            square = image.convert("RGB").resize(
                (32, 32), Image.Resampling.BICUBIC, box=(0, 8, 48, 56)
            )
        shards = Shards(folder / "data/images" / row.split)
        stored = shards.read("images", [shards.ids.index(row.image_id)])[0]
        assert (stored.permute(1, 2, 0).numpy() == np.asarray(square)).all()

        gray = table.image_id.tolist().index("photos/train/ball/gray.png")
        train = Shards(folder / "data/images/train")
        pixels = train.read("images", [train.ids.index(table.image_id[gray])])[0]
        assert torch.equal(pixels[0], pixels[1])
        assert torch.equal(pixels[0], pixels[2])

    def test_too_many_are_an_error(self, photographs: Checkout, tmp_path: Path):
        strict = photographs.copy(tmp_path / "repository")
        strict.edit(lambda params: params["images"].update(max_skipped=0.1))
        done = strict.snakemake("prepare_images", check=False)
        assert done.returncode == 1
        assert "error: photos.tar: 3 images (11.1%) are unusable" in done.stdout
        assert "images.max_skipped (10.0%); first: photos/train/ball/" in done.stdout
        assert "Traceback" not in done.stdout
        assert "Error in rule prepare_images" in done.stdout
        assert "MissingOutputException" not in done.stdout  # it is the stage that failed
        assert not (strict.experiment / "data/manifest.parquet").exists()
        assert "3 images" in (strict.experiment / "logs/prepare_images.log").read_text()


def scene(split: str, index: int) -> Image.Image:
    """A picture of the embedded world, 48x64 pixels."""
    return Image.fromarray(shapes.render(shapes.draw(0, split, index), 64)[0]).crop((8, 0, 56, 64))


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
