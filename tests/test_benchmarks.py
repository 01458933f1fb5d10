"""The programs that measure speed: they run, and their ratios are what they are called."""

import sys

import pandas as pd
import pytest
from conftest import Checkout

from sacd.shards import Shards

pytestmark = pytest.mark.campaign


def run(compared: Checkout, name: str, *options: str) -> pd.DataFrame:
    """The table that a program makes of the experiment."""
    command = [sys.executable, f"../../benchmarks/{name}.py", ".", *options, "--name", "x"]
    compared.run(*command, PYTHONPATH=str(compared.root))
    return pd.read_csv(compared.root / f"benchmarks/{name}/x.csv")


def test_sampling_is_compared_with_the_published_recipe(compared: Checkout):
    command = [sys.executable, "../../benchmarks/sampling.py", ".", "--images", "2", "--name", "x"]
    done = compared.run(*command, PYTHONPATH=str(compared.root))
    table = pd.read_csv(compared.root / "benchmarks/sampling/x.csv")
    assert (compared.root / "benchmarks/sampling/x.png").stat().st_size > 10_000
    assert set(table.adapter) == {"spatial", "lite"}  # of those that are given maps
    for _, part in table.groupby("adapter"):
        ways = part.set_index(["way", "steps", "guidance", "energy_guidance"])
        published = ways.loc["published", 50, 1.75, 0.0]
        assert published.speed_vs_published == pytest.approx(1)
        ours = ways.loc["sacd", 4, 1.0, 0.0]
        ratio = published.seconds_per_image / ours.seconds_per_image
        assert ours.speed_vs_published == pytest.approx(ratio, rel=1e-2)
        assert ways.loc["sacd", 20, 5.0, 1.0].of_20_steps == 1
        assert part.cos_median.between(-1, 1).all()
    assert "speed_vs_diffusers" in done.stdout


def test_ways_to_train_are_compared_on_as_many_samples(compared: Checkout):
    table = run(compared, "training", "--share", "0.2").set_index("way")
    assert list(table.index) == ["published", "diffusers", "sacd"]
    for rival in ("published", "diffusers"):
        speed = table.samples_per_second / table.samples_per_second[rival]
        assert table[f"speed_vs_{rival}"].tolist() == pytest.approx(speed.tolist(), rel=1e-2)
    assert table.cos_median.between(-1, 1).all()
    # One batch size in this experiment, and one precision: with and without caches the same steps.
    assert table.cos_median["published"] == pytest.approx(table.cos_median["diffusers"], rel=1e-3)
    assert table.cos_median["sacd"] == pytest.approx(table.cos_median["diffusers"], abs=0.05)


def test_caching_is_compared_with_the_bare_forward_rate(compared: Checkout):
    table = run(compared, "caching").set_index("what")
    networks = table.loc[compared.params["compare"]["networks"]]
    assert networks.rule_over_bare.tolist() == pytest.approx(
        (networks.rule / networks.bare).tolist(), rel=1e-2
    )
    features = Shards(compared.experiment / "features/tiny_a/train")
    written = sum(path.stat().st_size for path in features.folder.iterdir()) / len(features)
    megabytes = networks.rule["tiny_a"] * written / 1e6
    assert networks.megabytes_per_second["tiny_a"] == pytest.approx(megabytes, rel=0.2)
    jpegs = table.loc[[name for name in table.index if name.startswith("JPEG to 32 px")]]
    assert len(jpegs) == 2
    assert (jpegs.megabytes_per_second > 0).all()


def test_what_a_prior_draws_is_measured_against_other_images(compared: Checkout):
    table = run(compared, "prior", "--images", "16").set_index("set")
    assert table.of_other_images["other images"] == 1
    worse = table.of_other_images[["through the autoencoder", "drawn by the prior"]]
    assert worse.min() > 1 and worse.notna().all()  # of networks trained for seconds


def test_what_stands_beside_the_steps_is_a_share_of_the_whole(compared: Checkout):
    table = run(compared, "critical_path").set_index("backbone")
    assert list(table.index) == compared.params["compare"]["backbones"]
    assert table.to_numpy().min() > 0
    sampling = table.decoding_of_sampling + table.writing_of_sampling
    assert sampling.max() < 1
