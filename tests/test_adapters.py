"""Adapters and their feature encoder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import normal
from torch import Tensor

from sacd.adapters.adapter import Adapter, Hint
from sacd.adapters.encoder import FeatureEncoder
from sacd.adapters.lite import skip_connections
from sacd.adapters.registry import ADAPTERS, load_adapter
from sacd.errors import SacdError
from sacd.features.whitening import Whitening
from sacd.prior.diffusion import create_unet


def predict(adapter: Adapter, prior, hint: Hint) -> Tensor:
    count = len(hint[0])
    noisy, times = normal(count, 4, 8, 8, seed=9), torch.arange(count) * 300
    return adapter(prior.unet, noisy, times, prior.prompts(count), hint)


TYPES = pytest.mark.parametrize("kind", sorted(ADAPTERS))


@pytest.fixture
def encoder() -> Callable[[bool], FeatureEncoder]:
    """Call with `pooled` for an encoder of three channels with all layers at work."""

    def make(pooled: bool) -> FeatureEncoder:
        torch.manual_seed(0)
        matrix = torch.tensor([[0.5, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.25]])
        whitening = Whitening(torch.tensor([1.0, 0.0, -2.0]), matrix)
        made = FeatureEncoder(whitening, pooled, grid=(8, 8), hidden=8, width=5)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter)
        return made.requires_grad_(False)

    return make


class TestEncoder:
    @pytest.mark.parametrize("pooled", [False, True])
    def test_pooled_hints_ignore_the_order_of_locations_and_spatial_ones_do_not(
        self, encoder: Callable, pooled: bool
    ):
        maps = normal(2, 3, 4, 4)
        order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
        shuffled = maps.flatten(2)[:, :, order].unflatten(2, (4, 4))
        first, second = encoder(pooled)(maps), encoder(pooled)(shuffled)
        assert first.shape == (2, 5, 8, 8)
        assert torch.allclose(first, second, rtol=1e-4, atol=1e-4) is pooled

    def test_pooled_hints_are_alike_at_every_inner_location(self, encoder: Callable):
        hint = encoder(True)(normal(2, 3, 4, 4))
        inner = hint[:, :, 3:5, 3:5]  # three convolutions see the padding three pixels deep
        assert torch.allclose(inner, inner[:, :, :1, :1].expand_as(inner), atol=1e-4)

    @pytest.mark.parametrize("pooled", [False, True])
    def test_features_are_whitened(self, encoder: Callable, pooled: bool):
        seen: list[Tensor] = []
        made = encoder(pooled)
        made.layers.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        maps = torch.tensor([5.0, 1.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
        made(maps)
        expected = torch.tensor([2.0, 5.0, 1.0])  # matrix (c - mean)
        assert seen[0].shape == (1, 3, 8, 8)
        assert torch.allclose(seen[0], expected.view(1, 3, 1, 1).expand(1, 3, 8, 8))

    def test_dropped_rows_get_the_null_feature_and_others_keep_theirs(self, encoder: Callable):
        made, maps = encoder(False), normal(3, 3, 4, 4)
        dropped = torch.tensor([False, True, False])
        hint = made(maps, dropped)
        assert torch.allclose(hint[1:2], made.null_hint(1), atol=1e-5)
        kept = made(maps)
        assert torch.allclose(hint[[0, 2]], kept[[0, 2]], atol=1e-5)
        assert not torch.allclose(hint[1], kept[1], atol=0.1)

    def test_the_null_feature_is_learned_from_dropped_rows_alone(self, encoder: Callable):
        made, maps = encoder(False).requires_grad_(True), normal(2, 3, 4, 4)
        made(maps, torch.tensor([False, False])).sum().backward()
        assert float(made.null.grad.abs().sum()) == 0.0
        made(maps, torch.tensor([False, True])).sum().backward()
        assert float(made.null.grad.abs().sum()) > 0.0

    @pytest.mark.parametrize("pooled", [False, True])
    def test_an_untrained_encoder_hears_loud_and_quiet_features_alike(self, pooled: bool):
        whitening = Whitening(torch.zeros(3), torch.eye(3))
        made = FeatureEncoder(whitening, pooled, grid=(8, 8), hidden=64, width=5)
        maps = normal(8, 3, 4, 4)
        quiet, loud = (made(scale * maps).detach().std(0).mean() for scale in (10, 1000))
        assert float(quiet) > 0.01  # images differ
        assert float(loud / quiet) == pytest.approx(1.0, abs=0.2)

    def test_half_precision_maps_are_taken(self, encoder: Callable):
        maps = normal(2, 3, 4, 4)
        assert torch.allclose(
            encoder(False)(maps.half()), encoder(False)(maps), rtol=0.05, atol=0.05
        )

    def test_maps_of_another_backbone_are_refused(self, encoder: Callable):
        with pytest.raises(ValueError, match="features have 7 channels, adapter wants 3"):
            encoder(False)(torch.zeros(1, 7, 4, 4))


class TestAdapter:
    @TYPES
    @pytest.mark.parametrize("conditioning", ["spatial", "pooled"])
    def test_an_untrained_adapter_leaves_the_prior_exactly_as_it_is(
        self, tiny_prior: Callable, tiny_adapter: Callable, conditioning: str, kind: str
    ):
        prior = tiny_prior()
        adapter = tiny_adapter(prior, conditioning, kind=kind)
        noisy, times = normal(3, 4, 8, 8, seed=9), torch.arange(3) * 300
        alone = prior.unet(noisy, times, prior.prompts(3)).sample
        for hint in (adapter.hint(normal(3, 12, 4, 4)), adapter.null_hint(3)):
            assert torch.equal(predict(adapter, prior, hint), alone)

    @TYPES
    def test_weights_at_work_let_the_features_decide(
        self, tiny_prior: Callable, tiny_adapter: Callable, kind: str
    ):
        prior = tiny_prior()
        adapter = tiny_adapter(prior, noise=0.1, kind=kind)
        maps = normal(2, 12, 4, 4)
        steered = predict(adapter, prior, adapter.hint(maps))
        assert not torch.allclose(steered, predict(adapter, prior, adapter.null_hint(2)), atol=1e-3)
        turned = predict(adapter, prior, adapter.hint(maps.flip(0)))
        assert not torch.allclose(steered, turned, atol=1e-3)

    @TYPES
    def test_only_the_adapter_trains_and_the_prior_stays(
        self, tiny_prior: Callable, tiny_adapter: Callable, kind: str
    ):
        prior = tiny_prior()
        adapter = tiny_adapter(prior, noise=0.1, kind=kind).requires_grad_(True)
        predict(adapter, prior, adapter.hint(normal(2, 12, 4, 4))).sum().backward()
        assert all(p.grad is None for p in prior.unet.parameters())
        without = [
            name
            for name, p in adapter.named_parameters()
            if p.grad is None and name != "encoder.null"
        ]
        assert without == []
        own = {p.data_ptr() for p in adapter.parameters()}
        assert not own & {p.data_ptr() for p in prior.unet.parameters()}

    @TYPES
    def test_training_keeps_nothing_of_the_frozen_encoder(
        self, tiny_prior: Callable, tiny_adapter: Callable, kind: str
    ):
        """Residuals are added behind it, so no gradient runs through it and none is prepared."""
        prior = tiny_prior()
        adapter = tiny_adapter(prior, kind=kind).requires_grad_(True)
        kept: dict[str, bool] = {}
        for name in ("conv_in", "down_blocks.1", "mid_block", "up_blocks.0"):
            part = prior.unet.get_submodule(name)

            def note(module, given, out, name=name):
                kept[name] = (out[0] if isinstance(out, tuple) else out).requires_grad

            part.register_forward_hook(note)
        predict(adapter, prior, adapter.hint(normal(2, 12, 4, 4)))
        assert kept == {
            "conv_in": False, "down_blocks.1": False, "mid_block": False, "up_blocks.0": True,
        }  # fmt: skip

    def test_lite_residuals_fit_every_u_net(self, tiny_prior: Callable, tiny_adapter: Callable):
        """The widths and sizes that diffusers' own ControlNet finds, odd sizes among them."""
        prior = tiny_prior()
        prior.unet = create_unet(
            {
                "block_out_channels": [8, 16, 24],
                "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
                "layers_per_block": 2,
                "norm_num_groups": 4,
                "attention_head_dim": 4,
            },
            (4, 9, 9),
        )
        control = tiny_adapter(prior).control
        control.controlnet_cond_embedding = torch.nn.Conv2d(3, 8, 1)
        down, middle = control(
            torch.zeros(1, 4, 9, 9), 0, prior.prompts(1),
            controlnet_cond=torch.zeros(1, 3, 9, 9), return_dict=False,
        )  # fmt: skip
        lite = tiny_adapter(prior, kind="lite")
        assert [width for _, width in skip_connections(prior.unet)] == [r.shape[1] for r in down]
        made = lite.hint_of(torch.zeros(1, 8, 9, 9))
        assert [r.shape for r in made] == [r.shape for r in (*down, middle)]

    def test_lite_knows_neither_time_nor_latents(
        self, tiny_prior: Callable, tiny_adapter: Callable
    ):
        """So that what features say is computed once an image."""
        prior = tiny_prior()
        given: list[tuple[Tensor, ...]] = []
        unet_forward = prior.unet.forward

        def spy(*args, **kwargs):
            residuals = kwargs["down_block_additional_residuals"]
            given.append((*residuals, kwargs["mid_block_additional_residual"]))
            return unet_forward(*args, **kwargs)

        prior.unet.forward = spy
        adapter = tiny_adapter(prior, noise=0.1, kind="lite")
        hint = adapter.hint(normal(2, 12, 4, 4))
        for seed, time in ((1, 10), (2, 900)):
            times = torch.full((2,), time)
            adapter(prior.unet, normal(2, 4, 8, 8, seed=seed), times, prior.prompts(2), hint)
        assert all(torch.equal(a, b) for a, b in zip(*given, strict=True))


class TestStorage:
    @TYPES
    @pytest.mark.parametrize("conditioning", ["spatial", "pooled"])
    def test_a_saved_adapter_comes_back(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable, conditioning, kind: str
    ):
        prior = tiny_prior()
        adapter = tiny_adapter(prior, conditioning, noise=0.1, kind=kind)
        adapter.save(tmp_path / "adapter")
        for again in (
            ADAPTERS[kind].from_pretrained(tmp_path / "adapter", prior.unet),
            load_adapter(tmp_path / "adapter", prior.unet),
        ):
            assert again.config == adapter.config
            for name, value in adapter.named_parameters():
                assert torch.equal(again.state_dict()[name], value.half().float()), name
            for name, value in adapter.named_buffers():  # the whitening, in full precision
                assert torch.equal(again.state_dict()[name], value), name
            maps = normal(2, 12, 4, 4)
            for ours, kept in zip(again.hint(maps), adapter.hint(maps), strict=True):
                assert torch.allclose(ours, kept, rtol=0.05, atol=0.05)
            assert not again.training

    def test_weights_that_half_precision_cannot_hold_are_not_written(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable
    ):
        adapter = tiny_adapter(tiny_prior())
        adapter.encoder.null += 1e6
        with pytest.raises(SacdError, match=r"not finite in half precision: encoder\.null"):
            adapter.save(tmp_path / "adapter")
        assert not (tmp_path / "adapter").exists()

    def test_registered_types_are_those_of_the_settings(self):
        from pipeline.settings.sections import AdapterSettings

        allowed = AdapterSettings.model_fields["type"].annotation.__args__
        assert set(allowed) == set(ADAPTERS)

    def test_an_adapter_of_another_prior_is_refused(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable, fixture_params
    ):
        tiny_adapter(tiny_prior()).save(tmp_path / "adapter")
        options = {**fixture_params["prior"]["unet"]["options"], "block_out_channels": [16, 16]}
        with pytest.raises(SacdError, match="not the weights of an adapter for this prior"):
            load_adapter(tmp_path / "adapter", create_unet(options, (4, 8, 8)))

    def test_missing_and_truncated_weights_are_named(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable
    ):
        prior = tiny_prior()
        tiny_adapter(prior).save(tmp_path / "adapter")
        path = tmp_path / "adapter/adapter.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(SacdError, match=r"adapter\.safetensors: not a readable safetensors"):
            load_adapter(tmp_path / "adapter", prior.unet)
        path.unlink()
        with pytest.raises(SacdError, match=r"adapter\.safetensors: no such weights file"):
            load_adapter(tmp_path / "adapter", prior.unet)

    @pytest.mark.parametrize("change", [{"type": "controlnett"}, {"type": None}, {"hidden": None}])
    def test_a_configuration_of_something_else_is_named(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable, change: dict
    ):
        prior = tiny_prior()
        tiny_adapter(prior).save(tmp_path / "adapter")
        path = tmp_path / "adapter/config.json"
        config = json.loads(path.read_text()) | change
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        with pytest.raises(SacdError, match="adapter"):
            load_adapter(tmp_path / "adapter", prior.unet)
