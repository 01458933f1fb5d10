"""params.yaml: sections that are right by themselves and cannot go together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.settings.consistency import UNSEEN
from pipeline.settings.load import load_settings
from sacd.images import shapes

STEERED = {
    "compare.concepts": ["factors"],
    "compare.probes": ["factors"],
    "compare.edits": ["fills"],
    "compare.disentangled": ["fills"],
}
PHOTOS = {"images.source": "photos.tar", "compare.segmenters": []}


def test_unseen_factors_are_those_of_the_generator():
    assert list(UNSEEN) == list(shapes.UNSEEN)


class TestImpossibleCombinations:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            (
                {"compare.judge": "tiny_a", "compare.networks": ["tiny_a"]},
                "compare.judge: 'tiny_a' is itself inverted (compare.backbones)",
            ),
            (
                {
                    "compare.adapters": [],
                    "compare.methods": ["nearest"],
                    "compare.ranking": [],
                    "compare.main_method": "nearest",
                },
                "compare.adapters: is empty, but figures and tables of training need one",
            ),
            (
                {**STEERED, "probes.factors.columns": ["shape"]},
                "compare.disentangled: 'fills' needs compare.probes that tell what "
                "edits.fills.directions are of (fill_stripes, radius_high).",
            ),
            (
                {**STEERED, "edits.fills.directions": ["fil_stripes"]},
                "edits.fills.directions: 'fil_stripes' begins with none of concepts.factors.col",
            ),
            (
                {"compare.disturbances": ["unseen"], "disturbances.unseen.levels": ["shapes"]},
                "disturbances.unseen.levels: unknown unseen factor 'shapes'. Did you mean 'shape'?",
            ),
            (
                {"images.per_class.train": 2},
                "images.per_class: train must not be less than test",
            ),
            (
                {"backbones.tiny_a.input_size": 48},
                "backbones.tiny_a.input_size: is trained here on images of 32 px",
            ),
            (
                {
                    "methods.shuffled": {"type": "nearest", "samples": 1},
                },
                "methods.shuffled: the name stands for what methods are shown beside",
            ),
            (
                {"compare.methods": ["spatial", "spatial"]},
                "compare.methods: 'spatial' stands twice",
            ),
            (
                {"images.size": 33},
                "images.size: 33 is no multiple of",
            ),
            (
                {"decoders.decoder.widths": [8] * 7, "compare.decoders": ["decoder"]},
                "decoders.decoder.widths: of 7 levels, but images.size 32 is no multiple of 64",
            ),
            (
                {"decoders.decoder.widths": [12]},
                "decoders.decoder.widths.0: Input should be a multiple of 8 (found: 12)",
            ),
            (
                {"prior.autoencoder.options": {"latent_channels": 4}},
                "prior.autoencoder.options.block_out_channels: give its widths",
            ),
            (
                {"compare.networks": ["tiny_a"]},
                "compare.networks: must be compare.backbones and compare.judge",
            ),
            (
                {"images.source": "photos.tar"},
                "segmenters: need true factors, which only images.source 'shapes' has",
            ),
            (
                {"backbones.tiny_a.training": None},
                "backbones.tiny_a: source is 'train', so backbones.tiny_a.training must be given",
            ),
            (
                {"segmenters.finder.training": None},
                "segmenters.finder: source is 'train', so segmenters.finder.training must be given",
            ),
            (
                {"prior.unet": None},
                "prior: source is 'train', so autoencoder and unet must be given",
            ),
            (
                {"prior.autoencoder": None},
                "prior: source is 'train', so autoencoder and unet must be given",
            ),
            (
                {"methods.spatial.adapter": "spatail"},
                "methods.spatial.adapter: unknown adapter 'spatail'. Did you mean 'spatial'? "
                "Known: pooled, spatial.",
            ),
            (
                {"compare.adapters": ["spatial"]},
                "methods.pooled.adapter: unknown adapter 'pooled'",
            ),
            (
                {"compare.backbones": ["tiny_b"]},
                "compare.backbones: unknown backbone 'tiny_b'. Did you mean 'tiny_a'?",
            ),
            (
                {
                    "methods.decoder.decoder": "decode",
                    "compare.methods": ["spatial", "decoder"],
                    "compare.decoders": ["decoder"],
                    "compare.ranking": [],
                },
                "methods.decoder.decoder: unknown decoder 'decode'. Did you mean 'decoder'?",
            ),
            (
                {"sweeps.guidance.over": {"guidence": [1.0]}, "compare.sweeps": ["guidance"]},
                "sweeps.guidance.over: a method of type 'adapter' has no 'guidence' here",
            ),
            (
                {"sweeps.guidance.over": {"steps": [5, 0]}, "compare.sweeps": ["guidance"]},
                "sweeps.guidance.over: steps: Input should be greater than 0 (found: 0)",
            ),
            (
                {"sweeps.guidance.method": "lite", "compare.sweeps": ["guidance"]},
                "sweeps.guidance.method: unknown method 'lite'. Known: pooled, spatial",
            ),
            (
                {"compare.sweeps": ["guidanc"]},
                "compare.sweeps: unknown sweep 'guidanc'. Did you mean 'guidance'?",
            ),
            (
                {"compare.concepts": ["nfm"]},
                "compare.concepts: unknown set of concepts 'nfm'. Did you mean 'nmf'?",
            ),
            (
                {"concepts.nmf.columns": ["fill"], "compare.concepts": ["nmf"]},
                "concepts.nmf.columns: unknown key",
            ),
            (
                {"compare.probes": ["factor"]},
                "compare.probes: unknown probe 'factor'. Did you mean 'factors'?",
            ),
            (
                {"compare.edits": ["fills"]},
                "edits.fills.concepts: unknown set of concepts 'factors'",
            ),
            (
                {"compare.edits": ["mixture"], "edits.mixture.weights": [0.5, 0.5]},
                "edits.mixture: Value error, weights: a value stands twice",
            ),
            (
                {"edits.fills.strengths": [1.0, 0.0]},
                "edits.fills: Value error, strengths: 0 is always drawn; leave it out",
            ),
            (
                {"compare.edits": ["mixture"], "compare.disentangled": ["mixture"]},
                "compare.disentangled: 'mixture' must be of type 'steering'.",
            ),
            (
                {**STEERED, "edits.fills.strengths": [-2.0]},
                "compare.disentangled: 'fills': edits.fills.strengths must have one above 0",
            ),
            (
                {**STEERED, "edits.fills.concepts": "nmf", "compare.concepts": ["nmf"]},
                "compare.disentangled: 'fills': concepts.nmf must be of type 'labels'",
            ),
            (
                {**STEERED, "compare.probes": []},
                "compare.disentangled: 'fills' needs compare.probes that tell what",
            ),
            (
                {"methods.unconditional.best_of": 2},
                "methods.unconditional: Value error, features: 'null' leaves nothing",
            ),
            (
                {"methods.unconditional.guidance": 3.0},
                "methods.unconditional: Value error, features: 'null' leaves nothing",
            ),
            (
                {"methods.unconditional.energy_guidance": 1.0},
                "methods.unconditional: Value error, features: 'null' leaves nothing",
            ),
            (
                {"methods.other": {"type": "nearest", "samples": 1}},
                "methods.other: the name stands for what methods are shown beside",
            ),
            (
                {"compare.decoders": ["decodr"]},
                "compare.decoders: unknown decoder 'decodr'. Did you mean 'decoder'?",
            ),
            (
                {"compare.ranking": ["spatial", "lite"]},
                "compare.ranking: unknown method 'lite'. Known: pooled, spatial, unconditional",
            ),
            (
                {"methods.spatial.type": "adaptor"},
                "methods.spatial: Input tag 'adaptor' found using 'type' does not match any of the "
                "expected tags: 'adapter', 'nearest', 'pixels', 'decoder', 'guidance'",
            ),
            ({"compare.judge": "nobody"}, "compare.judge: unknown backbone 'nobody'"),
            ({"compare.networks": ["tiny_c"]}, "compare.networks: unknown backbone 'tiny_c'"),
            ({"compare.segmenters": ["seeker"]}, "compare.segmenters: unknown segmenter 'seeker'"),
            ({"compare.adapters": ["spatial", "pool"]}, "compare.adapters: unknown adapter 'pool'"),
            (
                {"compare.methods": ["spatial", "pooed"]},
                "compare.methods: unknown method 'pooed'. Did you mean 'pooled'?",
            ),
            (
                {"compare.main_method": "unconditional", "compare.methods": ["spatial"]},
                "compare.main_method: unknown method 'unconditional'. ",
            ),
            (
                {"prior.autoencoder.critic.training": None},
                "prior.autoencoder.critic: source is 'train', so",
            ),
            (
                {"compare.disturbances": ["pgd"], "disturbances.pgd.methods": ["spacial"]},
                "disturbances.pgd.methods: unknown method 'spacial'. Did you mean 'spatial'",
            ),
            (
                {"sweeps.guidance.over": {"steps.x": [1]}, "compare.sweeps": ["guidance"]},
                "sweeps.guidance.over: a method of type 'adapter' has no 'steps.x' here",
            ),
            (
                {"disturbances.blur.levels": [0.0]},
                "disturbances.blur: Value error, level 0 of 'blur' is no number from 0.1 to 64",
            ),
            (
                {"disturbances.blur.kind": "jpeg", "disturbances.blur.levels": [50.5]},
                "level 50.5 of 'jpeg' is no whole number from 1 to 100",
            ),
            (
                {"disturbances.dropout.levels": [0.5, 1.5]},
                "level 1.5 of 'dropout' is no number from 0 to 1",
            ),
            (
                {"disturbances.dropout.kind": "quantisation"},
                "level 0.5 of 'quantisation' is no whole number from 1 to 16",
            ),
            ({"disturbances.pgd.levels": [1.5]}, "level 1.5 of 'pgd' is no whole number"),
            (
                {"disturbances.pgd.kind": "auto", "disturbances.pgd.targeted": True},
                "disturbances.pgd: Value error, 'auto' only leads away from a class",
            ),
            ({"disturbances.unseen.levels": ["shape", "shape"]}, "a level stands twice"),
            (
                {"prior.autoencoder.finetune.critic.training": None},
                "prior.autoencoder.finetune.critic: source is 'train', so",
            ),
            (
                PHOTOS,
                "backbones.tiny_a.training.dense: needs true masks, which only images.source",
            ),
            (
                {
                    **PHOTOS,
                    "backbones.tiny_a.training.dense": False,
                    "backbones.tiny_judge.training.dense": False,
                },
                "prior.autoencoder.critic.training.dense: needs true masks",
            ),
            (
                {
                    **PHOTOS,
                    "backbones.tiny_a.training.dense": False,
                    "backbones.tiny_a.finetune.dense": True,
                },
                "backbones.tiny_a.finetune.dense: needs true masks",
            ),
            (
                {"backbones.tiny_a.source": "weights.safetensors"},
                "backbones.tiny_a.finetune: only a network of source 'train' is finetuned.",
            ),
        ],
    )
    def test_is_named(self, complaint: Callable, changes: dict[str, Any], expected: str):
        assert expected in complaint(changes)

    def test_a_method_that_is_not_run_may_lack_its_adapter(
        self, tmp_path: Path, fixture_params: dict[str, Any]
    ):
        fixture_params["methods"]["later"] = {
            **fixture_params["methods"]["spatial"],
            "adapter": "x",
        }
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(fixture_params))
        assert load_settings(tmp_path / "params.yaml").methods["later"].adapter == "x"
