"""Initial noise belongs to an image and a sample, whatever else is drawn with it."""

import hashlib

import pytest
import torch

from sacd.sampling.noise import initial_noise, noise_seed

SHAPE = (4, 8, 8)


@pytest.mark.parametrize(
    "key", [(0, "image", 0), (7, "shapes-1-test-000003", 2), (1, "a/ü.png", 9)]
)
def test_the_seed_is_the_start_of_a_digest(key):
    digest = hashlib.sha256("\n".join(map(str, key)).encode("utf-8")).hexdigest()
    assert noise_seed(*key) == int(digest[:16], 16) // 2


def test_the_seed_of_one_key_stays_what_it_was():
    assert noise_seed(1, "shapes-1-test-000000", 0) == 367527176124537546


def test_seed_id_and_index_each_matter_and_do_not_run_together():
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a\n1", 1), (0, "a1", 1)]
    assert len({noise_seed(*key) for key in keys}) == len(keys)


def test_a_key_gets_the_same_noise_in_every_batch_and_order():
    keys = [(f"image-{row}", k) for row in range(4) for k in range(3)]
    together = initial_noise(5, keys, SHAPE)
    backwards = initial_noise(5, keys[::-1], SHAPE)
    assert torch.equal(together, backwards.flip(0))
    for row, key in enumerate(keys):
        assert torch.equal(initial_noise(5, [key], SHAPE)[0], together[row])


def test_drawing_does_not_touch_or_depend_on_the_global_generator():
    torch.manual_seed(0)
    first = initial_noise(5, [("a", 0)], SHAPE)
    state = torch.get_rng_state()
    second = initial_noise(5, [("a", 0)], SHAPE)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_standard_normal_and_independent_between_keys():
    noise = initial_noise(0, [(str(row), 0) for row in range(200)], SHAPE)
    count = noise.numel()
    assert abs(float(noise.mean())) < 5 / count**0.5
    assert float(noise.var()) == pytest.approx(1.0, abs=5 * (2 / count) ** 0.5)
    assert float((noise.abs() > 1.96).float().mean()) == pytest.approx(0.05, abs=0.01)
    correlations = torch.corrcoef(noise.flatten(1)) - torch.eye(200)
    assert float(correlations.abs().max()) < 6 / 256**0.5
