"""The paper's scale: its networks' sizes, its prior's format, and what it will take."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from conftest import ROOT, Checkout, compare_all, environment
from diffusers import AutoencoderKL, UNet2DConditionModel
from dry_run import planned
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.architecture import random_adapter, random_backbone, random_prior
from pipeline.costs import Row, measure_costs, plan
from pipeline.settings.load import load_settings
from pipeline.settings.sections import Settings
from sacd.errors import SacdError
from sacd.prior.prior import Prior, latent_shape
from sacd.prior.source import NULL_PROMPT, local_folder
from workflow.plan import hours, table

pytestmark = pytest.mark.campaign

EXPERIMENT = ROOT / "experiments/imagenet"
# Where CI puts transformers: among the other packages it would slow the start of every program.
TRANSFORMERS = ROOT / "build/transformers"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(EXPERIMENT / "params.yaml")


class TestSizes:
    """Against the published numbers of weights."""

    def test_the_prior_and_its_adapters(self, settings: Settings):
        with FakeTensorMode():
            prior, _ = random_prior(settings)
            assert weights(prior.unet) == 859_520_964  # Rombach et al. 2022: 860 M
            assert weights(prior.vae) == 83_653_863  # 84 M
            assert latent_shape(prior, settings.images.size) == (4, 32, 32)
            assert prior.null_prompt.shape == (1, 77, 768)
            features = torch.zeros(1, 1024, 9, 9)
            control = random_adapter(settings.adapters["spatial"], prior, features, 32)
            # Zhang et al. 2023: 361 M, with an encoder of images in place of ours of features.
            assert weights(control) - weights(control.encoder) == 361_279_120 - 1_086_480
            convolutions = [m for m in control.encoder.layers if isinstance(m, torch.nn.Conv2d)]
            widths = [(m.in_channels, m.out_channels) for m in convolutions]
            assert widths == [(1024, 512), (512, 512), (512, 320)]  # the paper's hint block

    @pytest.mark.parametrize(
        ("name", "millions", "shape"),
        [
            ("resnet50", 25.56, (2048, 7, 7)),
            ("convnext", 88.59, (1024, 9, 9)),
            ("swin", 87.92, (1024, 12, 12)),
            ("judge", 5.29, (1280, 7, 7)),
        ],
    )
    def test_a_backbone(self, settings: Settings, name: str, millions: float, shape: tuple):
        chosen = settings.backbones[name]
        with torch.device("meta"):
            backbone = random_backbone(chosen)
            features, logits = backbone(torch.zeros(2, 3, 256, 256))
        assert weights(backbone) / 1e6 == pytest.approx(millions, abs=0.005)
        assert tuple(features.shape) == (2, *shape)
        assert tuple(logits.shape) == (2, 1000)

    def test_preprocessing_is_timms(self, settings: Settings):
        for chosen in settings.backbones.values():
            theirs = timm.get_pretrained_cfg(chosen.model)
            assert (tuple(chosen.mean), tuple(chosen.std)) == (theirs.mean, theirs.std)
            sizes = [theirs.input_size, theirs.test_input_size]
            assert (3, chosen.input_size, chosen.input_size) in sizes
            assert theirs.interpolation == "bicubic"


def weights(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


class TestStableDiffusion:
    """A folder in the layout of Stable Diffusion 1, at reduced width, by the real classes."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Without a null prompt, its U-Net's weights in torch's own format as MiniSD's are."""
        folder = tmp_path / "sd"
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4,
            block_out_channels=(8, 16, 16, 16), layers_per_block=1,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        unet.save_pretrained(folder / "unet", safe_serialization=False)
        vae.save_pretrained(folder / "vae")
        (folder / "scheduler").mkdir()
        (folder / "scheduler/scheduler_config.json").write_text(
            json.dumps(
                {
                    "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
                    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
                    "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
                    "clip_sample": False,
                }
            )
        )  # fmt: skip
        return folder

    @pytest.fixture
    def environment(self) -> dict[str, str]:
        """One in which transformers is found; without it the test is skipped."""
        found = environment(PYTHONPATH=f"{ROOT}{os.pathsep}{TRANSFORMERS}")
        probe = [sys.executable, "-c", "import transformers"]
        if subprocess.run(probe, env=found, capture_output=True, check=False).returncode:
            pytest.skip(
                f"transformers is missing: pip install --target {TRANSFORMERS} transformers"
            )
        return found

    def test_it_is_imported_with_the_embedding_of_the_empty_prompt(
        self, folder: Path, checkout: Checkout, tmp_path: Path, environment: dict[str, str]
    ):
        program = ROOT / "tests/make_text_encoder.py"
        subprocess.run([sys.executable, str(program), str(folder)], env=environment, check=True)
        made = checkout.copy(tmp_path / "repository")
        made.edit(
            lambda params: params.update(
                prior={"source": str(folder), "autoencoder": None, "unet": None}
            )
        )
        for stage in ("prepare_images", "make_autoencoder", "make_prior"):
            subprocess.run(
                [sys.executable, "-m", f"stages.{stage}"],
                cwd=made.experiment, env=environment, check=True,
            )  # fmt: skip
        prior = Prior.from_pretrained(made.experiment / "models/prior")
        expected = torch.load(folder / "expected.pt", weights_only=True)
        stored = load_file(made.experiment / f"models/prior/{NULL_PROMPT}")["embedding"]
        assert stored.shape == (1, 77, 16)
        assert torch.allclose(stored.float(), expected, atol=2e-3)  # fp16
        assert prior.scheduler.config.prediction_type == "epsilon"
        assert float(prior.scheduler.alphas_cumprod[-1]) == pytest.approx(0.00466, abs=1e-5)
        theirs = UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=False)
        for name, value in theirs.state_dict().items():
            assert torch.equal(prior.unet.state_dict()[name], value.half().float()), name

    def test_one_without_a_text_encoder_is_named(self, folder: Path):
        with pytest.raises(
            SacdError, match=r"sd: not a prior in the diffusers layout.*null_prompt"
        ):
            Prior.from_pretrained(folder)

    def test_a_weights_file_that_holds_code_is_not_run(self, folder: Path, tmp_path: Path):
        class Attack:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "was here",))

        torch.save({"weight": Attack()}, folder / "unet/diffusion_pytorch_model.bin")
        torch.save(torch.zeros(1, 77, 16), folder / NULL_PROMPT)
        with pytest.raises(SacdError, match="sd"):
            Prior.from_pretrained(folder)
        assert not (tmp_path / "was here").exists()

    def test_a_hub_that_does_not_answer_is_named(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(SacdError, match=r"'nobody/nothing' is no folder, and could not be had"):
            local_folder("nobody/nothing")


class TestPlan:
    def test_operations_are_those_counted_for_the_papers_model(self, settings: Settings):
        """In GFLOP an image, against a count made by other means (bilinear products, by hand)."""
        fewer = {
            "networks": ["resnet50", "convnext"], "backbones": ["convnext"],
            "adapters": ["spatial", "lite"],
        }  # fmt: skip
        compare = settings.compare.model_copy(update=fewer)  # for the test's time
        costs, origin = measure_costs(settings.model_copy(update={"compare": compare}))
        assert origin.startswith("Stable Diffusion 1, for lambdalabs/miniSD-diffusers")
        assert costs.unet / 1e9 == pytest.approx(180, rel=0.02)
        assert costs.encode / 1e9 == pytest.approx(273, rel=0.01)
        assert costs.decode / 1e9 == pytest.approx(622, rel=0.01)
        control = costs.steps["convnext", "spatial"] - costs.unet
        assert control / 1e9 == pytest.approx(63, rel=0.1)
        # Once an image instead of once a step: what is left of `lite` is the U-Net.
        assert costs.steps["convnext", "lite"] == pytest.approx(costs.unet, rel=0.01)
        assert costs.networks["resnet50"] / 1e9 == pytest.approx(
            2 * 4.1, rel=0.02
        )  # timm: 4.1 GMAC
        assert costs.networks["convnext"] / 1e9 == pytest.approx(2 * 25.4, rel=0.02)  # at 288

    def test_jobs_are_snakemakes(self, checkout: Checkout, tmp_path: Path):
        made = checkout.copy(tmp_path / "repository")
        made.edit(compare_all)
        settings = load_settings(made.experiment / "params.yaml")
        rows = plan(settings, measure_costs(settings)[0])
        jobs = Counter(job.rule for job in planned(made.snakemake("--dry-run").stdout))
        assert {row.rule: row.jobs for row in rows} == {row.rule: jobs[row.rule] for row in rows}
        assert {row.rule for row in rows if row.operations} == {
            "cache_latents", "cache_features", "train_adapter", "draw_samples", "score_samples",
            "sweep_method",
        }  # fmt: skip

    def test_bytes_are_those_on_disk(self, compared: Checkout):
        settings = load_settings(compared.experiment / "params.yaml")
        rows = {row.rule: row for row in plan(settings, measure_costs(settings)[0])}
        for rule, place in (
            ("prepare_images", "data/images"), ("cache_latents", "latents"),
            ("cache_features", "features"), ("draw_samples", "samples"),
        ):  # fmt: skip
            shards = (compared.experiment / place).rglob("shard-*.safetensors")
            stored = sum(sum(v.nbytes for v in arrays(path).values()) for path in shards)
            assert rows[rule].bytes == stored, rule

    def test_hours_follow_the_rates(self):
        row = Row("draw", 2, {"sampling": 7.2e15, "network": 3.6e15})
        assert hours(row, {"sampling": 1e12, "network": 1e12}) == pytest.approx(3)
        assert hours(row, {"sampling": 2e12, "network": 1e12}) == pytest.approx(2)
        head, line, last = table([row], {"gpu": {"rates": {"sampling": 1e12, "network": 1e12}}})
        assert head.split() == ["rule", "jobs", "TFLOP", "hours", "gpu", "disk", "GB", "work", "GB"]
        assert line.split() == ["draw", "2", "10,800", "3.00", "0.00", "0.00"]
        assert last.split()[1:] == line.split()[1:]

    def test_make_plan_prints_it(self):
        before = set(ROOT.iterdir())
        done = subprocess.run(
            ["make", "plan", "--assume-old", ".venv/.installed"],
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = {line.split()[0]: line for line in done.stdout.splitlines() if line}
        assert re.search(r"^cache_features +4 +\d+ .* 0\.18 +0\.00$", lines["cache_features"])
        assert "Prior: pretrained/prior." in done.stdout
        assert set(ROOT.iterdir()) == before  # nothing was made


def arrays(path: Path) -> dict[str, torch.Tensor]:
    """What a shard holds for each image: pixels, maps or latents, not the seeds beside them."""
    return {k: v for k, v in load_file(path).items() if k in ("images", "features", "latents")}
