"""Tables, figures and report of a finished experiment, and what ships of one."""

import base64
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import Checkout
from diffusers import AutoencoderKL
from PIL import Image

from sacd.backbones.backbone import Backbone
from sacd.files import read_json
from sacd.networks import load_diffusers
from sacd.prior.latents import decode_latents, encode_images
from sacd.shards import Shards

CPU = torch.device("cpu")
CEILINGS, REFERENCE = ("original", "autoencoder"), "same_class"
FLOORS = ("shuffled", "random_image")
FIGURES = ("reconstructions", "scores", "tradeoffs", "training", "prior_samples")


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
        for cost in ("seconds_per_sample", "peak_memory_mb", "training_seconds"):
            assert (methods[cost] > 0).all(), cost
            assert table[table.kind != "method"][cost].isna().all(), cost
        assert (table.judge_frechet > 0).all()

    def test_means_are_those_of_the_scores(self, table, folder: Path):
        for row in table.itertuples():
            name = row.method if row.kind == "method" else "references"
            scores = pd.read_parquet(folder / f"scores/tiny_a/{name}.parquet")
            scores = scores[scores.method == row.method]
            for metric in ("cos_median", "rel_l2", "psnr_db", "object_iou"):
                assert getattr(row, metric) == pytest.approx(scores[metric].mean(), rel=1e-4)

    def test_the_page_of_methods_has_the_same_means(self, table, folder: Path):
        head, _, *lines = (folder / "results/tables/methods.md").read_text().splitlines()
        assert head.startswith("| method | cos_median (tiny_a) |")
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert [name for name, *_ in cells] == list(table.method)
        assert [shown for _, shown, *_ in cells] == [f"{mean:.2f}" for mean in table.cos_median]
        assert cells[0][-1] == ""  # the original costs nothing

    def test_the_original_is_itself(self, table):
        original = table[table.method == "original"].iloc[0]
        for name in ("cos_median", "cos_mean", "cos_q05", "cos_pooled", "top1_match"):
            assert original[name] == original[f"{name}_low"] == 1, name
        assert original.rel_l2 < 2**-11  # what fp16 features leave of 0

    def test_missing_weights_are_named_and_not_replaced(self, folder: Path):
        from sacd.metrics.images import lpips_available
        from sacd.metrics.sets import inception_available

        table = pd.read_csv(folder / "results/tables/main.csv", keep_default_na=False)
        for metric, available in (
            ("lpips", lpips_available()), ("fid", inception_available()),
            ("kid", inception_available()),
        ):  # fmt: skip
            assert available or set(table[metric]) == {"n/a"}

    def test_checks(self, table, folder: Path, params: dict):
        checks = pd.read_csv(folder / "results/tables/checks.csv")
        means = table.set_index("method")
        order = checks[checks.check.str.contains(" above ")]
        pairs = len(params["compare"]["ranking"]) - 1
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


def test_show_results_sums_up_checks_and_cost(compared: Checkout):
    shown = compared.stage("workflow.show_results").stdout
    checks = pd.read_csv(compared.experiment / "results/tables/checks.csv")
    assert f"{checks.holds.sum()} of {len(checks)} checks hold" in shown
    total, parts = re.search(r"seconds of jobs: (\d+) \((.+)\)", shown).groups()
    rules = {rule: int(seconds) for rule, seconds in map(str.split, parts.split(", "))}
    assert set(rules) == set(
        yaml.safe_load((compared.experiment / "dvc.yaml").read_text())["stages"]
    )
    assert sum(rules.values()) == pytest.approx(int(total), abs=len(rules))
    for path in re.findall(r"^(?:table|figure|report): +(\S+)$", shown, re.MULTILINE):
        assert (compared.experiment / path).exists()


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


class TestShipping:
    @pytest.fixture
    def shipped(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_stage: Callable
    ) -> Path:
        (tmp_path / "experiments").mkdir()
        (tmp_path / "experiments/pretrain").symlink_to(folder)
        monkeypatch.chdir(tmp_path)
        assert call_stage("workflow.ship_models") == (0, "")
        return tmp_path / "pretrained"

    def test_models_are_those_that_were_trained(self, shipped: Path, folder: Path):
        for name in ("backbones/tiny_a/model.safetensors", "prior/null_prompt.safetensors"):
            assert (shipped / name).read_bytes() == (folder / "models" / name).read_bytes()
        record = folder / "models/autoencoder/record.json"
        assert (shipped / "prior/vae/record.json").read_bytes() == record.read_bytes()

    def test_the_page_says_what_the_round_trip_keeps(self, shipped: Path, folder: Path):
        images = Shards(folder / "data/images/val").read_all("images")
        vae = load_diffusers(AutoencoderKL, folder / "models/autoencoder")
        trip = decode_latents(vae, encode_images(vae, images, CPU), CPU)
        backbone = Backbone.from_pretrained(folder / "models/backbones/tiny_a")
        (seen, answers), (again, later) = (backbone(x.float() / 255) for x in (images, trip))
        cosines = torch.cosine_similarity(seen, again, dim=1).flatten(1).quantile(0.5, dim=1)
        row = re.search(
            r"\| backbones/tiny_a \|.*cos_median ([\d.]+), top1_match ([\d.]+) \|",
            (shipped / "README.md").read_text(),
        )
        assert float(row[1]) == pytest.approx(float(cosines.mean()), abs=2e-3)
        match = (answers.argmax(1) == later.argmax(1)).float().mean()
        assert float(row[2]) == pytest.approx(float(match), abs=1e-3)

    def test_too_much_does_not_ship(
        self, shipped: Path, monkeypatch: pytest.MonkeyPatch, call_stage: Callable
    ):
        before = sorted(shipped.rglob("*"))
        monkeypatch.setattr("workflow.ship_models.LIMIT_BYTES", 1000)
        status, message = call_stage("workflow.ship_models")
        assert status == 1
        assert "bytes, more than may ship (1000)" in message
        assert sorted(shipped.rglob("*")) == before
