"""The programs that measure speed: they run, and their ratios are what they are called."""

import sys

import pandas as pd
import pytest
from conftest import Checkout


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


def test_what_a_prior_draws_is_measured_against_other_images(compared: Checkout):
    command = [sys.executable, "../../benchmarks/prior.py", ".", "--images", "16", "--name", "x"]
    compared.run(*command, PYTHONPATH=str(compared.root))
    table = pd.read_csv(compared.root / "benchmarks/prior/x.csv").set_index("set")
    assert table.of_other_images["other images"] == 1
    worse = table.of_other_images[["through the autoencoder", "drawn by the prior"]]
    assert worse.min() > 1 and worse.notna().all()  # of networks trained for seconds


def test_what_stands_beside_the_steps_is_a_share_of_the_whole(compared: Checkout):
    command = [sys.executable, "../../benchmarks/critical_path.py", ".", "--name", "x"]
    compared.run(*command, PYTHONPATH=str(compared.root))
    table = pd.read_csv(compared.root / "benchmarks/critical_path/x.csv").set_index("backbone")
    assert list(table.index) == compared.params["compare"]["backbones"]
    assert table.to_numpy().min() > 0
    sampling = table.decoding_of_sampling + table.writing_of_sampling
    assert sampling.max() < 1
