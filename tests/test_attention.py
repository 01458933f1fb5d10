"""Self-attention smoothed, against what it is by definition."""

import pytest
import torch
from conftest import normal
from diffusers.models.attention_processor import Attention

from sacd.prior.attention import smoothed_attention


class TestSmoothedAttention:
    @pytest.fixture
    def attention(self) -> Attention:
        torch.manual_seed(0)
        return Attention(8, heads=2, dim_head=4).requires_grad_(False)

    def test_asks_the_same_everywhere(self, attention: Attention):
        locations = normal(3, 16, 8)
        before = attention(locations)
        with smoothed_attention(attention):
            smooth = attention(locations)
        assert torch.allclose(smooth, smooth[:, :1].expand_as(smooth), atol=1e-6)
        assert torch.equal(attention(locations), before)
        # What is asked is the mean of the queries: at a location that asks just that, no change.
        mean = locations.mean(1, keepdim=True)
        alone = attention(mean, encoder_hidden_states=locations)
        assert torch.allclose(smooth[:, :1], alone, atol=1e-6)

    def test_leaves_cross_attention(self):
        torch.manual_seed(0)
        attention = Attention(8, cross_attention_dim=6, heads=2, dim_head=4).requires_grad_(False)
        locations, prompts = normal(1, 16, 8), normal(1, 3, 6, seed=1)
        before = attention(locations, prompts)
        with smoothed_attention(attention):
            assert torch.equal(attention(locations, prompts), before)

    def test_ends_with_an_error_too(self, attention: Attention):
        before = attention(normal(1, 16, 8))
        with pytest.raises(KeyError), smoothed_attention(attention):
            raise KeyError
        assert torch.equal(attention(normal(1, 16, 8)), before)
