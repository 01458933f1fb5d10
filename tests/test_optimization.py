"""The training loop against closed forms, and its promise to resume to the bit."""

import json
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sacd.errors import SacdError
from sacd.optimization import (
    CHECKPOINT,
    Recipe,
    Step,
    Trained,
    evenly_spaced,
    step_generator,
    train,
)

CONSTANT = Recipe(
    steps=12,
    batch=4,
    learning_rate=0.01,
    warmup=0,
    schedule="constant",
    weight_decay=0.0,
    ema=0.0,
    clip=1e9,
    precision="fp32",
    seed=3,
)


def nothing(generator: torch.Generator) -> tuple[Tensor, ...]:
    """What a loss reads that needs no batch."""
    return ()


def slope(parameter: nn.Parameter) -> Callable:
    """A loss of gradient 1 everywhere: AdamW then moves every weight by exactly the step size."""
    return lambda step: (parameter.sum(), {})


class TestSchedule:
    """A gradient of 1 makes the path of a weight the running sum of the step sizes."""

    def end_point(self, recipe: Recipe, work: Path) -> float:
        weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        train({"weight": weight}, nothing, slope(weight), recipe, work)
        return -weight.item()

    def test_constant(self, tmp_path: Path):
        assert self.end_point(CONSTANT, tmp_path) == pytest.approx(12 * 0.01, rel=1e-6)

    def test_warm_up_is_linear(self, tmp_path: Path):
        recipe = replace(CONSTANT, warmup=4)
        expected = 0.01 * (0.25 + 0.5 + 0.75 + 1 + 8)
        assert self.end_point(recipe, tmp_path) == pytest.approx(expected, rel=1e-6)

    def test_cosine_falls_from_the_end_of_the_warm_up(self, tmp_path: Path):
        recipe = replace(CONSTANT, warmup=2, schedule="cosine")
        falling = sum(0.5 * (1 + math.cos(math.pi * i / 10)) for i in range(10))
        expected = 0.01 * (0.5 + 1 + falling)
        assert self.end_point(recipe, tmp_path) == pytest.approx(expected, rel=1e-6)


class TestWeights:
    def test_decay_is_for_matrices_and_not_for_vectors(self, tmp_path: Path):
        matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
        recipe = replace(CONSTANT, steps=1, weight_decay=0.5)
        parameters = {"matrix": matrix, "vector": vector}
        train(parameters, nothing, lambda step: (matrix.sum() + vector.sum(), {}), recipe, tmp_path)
        assert matrix.detach().flatten().tolist() == pytest.approx([1 - 0.01 * 0.5 - 0.01] * 4)
        assert vector.tolist() == pytest.approx([1 - 0.01] * 2)

    def test_without_averaging_the_last_weights_are_given(self, tmp_path: Path):
        weight = nn.Parameter(torch.zeros(1))
        trained = train({"weight": weight}, nothing, slope(weight), CONSTANT, tmp_path)
        assert torch.equal(trained.weights["weight"], weight.detach())

    def test_average_follows_the_weights_with_a_short_memory_at_first(self, tmp_path: Path):
        weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        recipe = replace(CONSTANT, steps=40, ema=0.7)
        trained = train({"weight": weight}, nothing, slope(weight), recipe, tmp_path)
        average = 0.0
        for step in range(40):
            decay = min(0.7, (1 + step) / (10 + step))
            average = decay * average + (1 - decay) * -0.01 * (step + 1)
        assert float(trained.weights["weight"]) == pytest.approx(average, rel=1e-6)
        assert weight.item() == pytest.approx(-0.4, rel=1e-6)  # the last, not the averaged one

    def test_clipping_bounds_the_gradient_of_all_weights_together(self, tmp_path: Path):
        weights = {name: nn.Parameter(torch.zeros(1)) for name in ("a", "b")}
        seen: list[float] = []

        def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
            if step.number > 0:  # gradients stay until the next step asks for new ones
                seen.append(float(torch.cat([w.grad for w in weights.values()]).norm()))
            return 30 * weights["a"].sum() + 40 * weights["b"].sum(), {}

        train(weights, nothing, loss, replace(CONSTANT, steps=3, clip=2.0), tmp_path)
        assert seen == pytest.approx([2.0, 2.0], rel=1e-4)


class TestHistory:
    def test_entries_are_means_over_their_interval(self, tmp_path: Path):
        weight = nn.Parameter(torch.zeros(1))

        def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
            return weight.sum() * 0 + step.number, {"twice": 2.0 * step.number}

        trained = train({"w": weight}, nothing, loss, CONSTANT, tmp_path, log_every=5)
        assert trained.history == [
            {"step": 5, "loss": 2.0, "twice": 4.0},
            {"step": 10, "loss": 7.0, "twice": 14.0},
            {"step": 12, "loss": 10.5, "twice": 21.0},
        ]

    def test_checks_come_at_every_fifth_entry_and_at_the_end(self, tmp_path: Path):
        weight = nn.Parameter(torch.zeros(1))
        trained = train(
            {"w": weight}, nothing, slope(weight), CONSTANT, tmp_path, log_every=1,
            check=lambda averaged: {"checked": float(averaged["w"])},
        )  # fmt: skip
        checked = {
            entry["step"]: entry["checked"] for entry in trained.history if "checked" in entry
        }
        assert checked == pytest.approx({5: -0.05, 10: -0.1, 12: -0.12}, rel=1e-4)


def fit_a_line(
    work: Path, recipe: Recipe, stop_before: int | None = None, **settings
) -> tuple[Trained, nn.Linear, list[int]]:
    """Regression on random points; raises before step `stop_before`. Also returns the steps run."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    steps: list[int] = []

    def read(generator: torch.Generator) -> tuple[Tensor]:
        return (torch.randn(recipe.batch, 3, generator=generator),)

    def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
        if step.number == stop_before:
            raise ConnectionAbortedError
        steps.append(step.number)
        (points,) = step.batch
        error = network(points) - points[:, :2] ** 2
        return (error**2).mean(), {"largest": float(error.detach().abs().max())}

    try:
        trained = train(dict(network.named_parameters()), read, loss, recipe, work, **settings)
    except ConnectionAbortedError:
        trained = Trained({})
    return trained, network, steps


class TestReading:
    def test_a_step_is_given_what_was_read_from_its_own_generator(self, tmp_path: Path):
        weight = nn.Parameter(torch.zeros(1))
        taken: list[int] = []

        def read(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            rows = torch.randint(1000, (4,), generator=generator)
            return rows, torch.rand(2, generator=generator)

        def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
            expected = step_generator(CONSTANT.seed, step.number)
            assert all(map(torch.equal, step.batch, read(expected)))
            assert torch.equal(step.generator.get_state(), expected.get_state())
            taken.append(step.number)
            return weight.sum(), {}

        train({"w": weight}, read, loss, CONSTANT, tmp_path)
        assert taken == list(range(12))

    def test_the_next_batch_is_read_while_a_step_is_computed(self, tmp_path: Path):
        weight, reads = nn.Parameter(torch.zeros(1)), threading.Semaphore(0)

        def read(generator: torch.Generator) -> tuple[Tensor, ...]:
            reads.release()
            return ()

        def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
            wanted = 2 if step.number == 0 else 1 if step.number < 11 else 0
            assert all(reads.acquire(timeout=60) for _ in range(wanted))
            return weight.sum(), {}

        train({"w": weight}, read, loss, CONSTANT, tmp_path)
        assert not reads.acquire(blocking=False)


class TestResume:
    RECIPE = replace(CONSTANT, steps=23, ema=0.9, schedule="cosine", warmup=3, weight_decay=0.01)
    OFTEN = {"checkpoint_seconds": 0.0, "log_every": 2}  # noqa: RUF012

    @pytest.mark.parametrize(("stop_before", "resumed_at"), [(0, 0), (1, 1), (11, 11), (22, 22)])
    def test_a_run_that_was_cut_ends_as_one_that_was_not(
        self, tmp_path: Path, stop_before: int, resumed_at: int
    ):
        whole, network, steps = fit_a_line(tmp_path / "whole", self.RECIPE, **self.OFTEN)
        assert steps == list(range(23))
        work = tmp_path / "cut"
        _, _, first = fit_a_line(work, self.RECIPE, stop_before=stop_before, **self.OFTEN)
        assert first == list(range(stop_before))
        again, resumed, second = fit_a_line(work, self.RECIPE, **self.OFTEN)
        assert second == list(range(resumed_at, 23))
        for name, weight in network.named_parameters():
            assert torch.equal(dict(resumed.named_parameters())[name], weight), name
            assert torch.equal(again.weights[name], whole.weights[name]), name
        assert again.history == whole.history

    def test_weights_keep_their_layout(self, tmp_path: Path):
        """AdamW's fused steps take moments to lie in memory as their weight does."""

        def fit(work: Path, stop_before: int | None = None) -> Tensor:
            torch.manual_seed(0)
            network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

            def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
                if step.number == stop_before:
                    raise ConnectionAbortedError
                image = torch.randn(2, 3, 8, 8, generator=step.generator)
                return (network(image) - 1).square().mean(), {}

            with suppress(ConnectionAbortedError):
                train(
                    dict(network.named_parameters()), nothing, loss, self.RECIPE, work, **self.OFTEN
                )
            return network.weight.detach()

        fit(tmp_path / "cut", stop_before=11)
        resumed = fit(tmp_path / "cut")
        assert not resumed.is_contiguous()
        assert torch.equal(resumed, fit(tmp_path / "whole"))

    def test_so_do_networks_that_draw_by_themselves(self, tmp_path: Path):
        """As dropout does, from torch's own generator."""

        def fit(work: Path, stop_before: int | None = None) -> Tensor:
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

            def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
                if step.number == stop_before:
                    raise ConnectionAbortedError
                return network(torch.ones(4, 3)).sub(1).square().mean(), {}

            with suppress(ConnectionAbortedError):
                train(
                    dict(network.named_parameters()), nothing, loss, self.RECIPE, work, **self.OFTEN
                )
            return network[0].weight.detach()

        fit(tmp_path / "cut", stop_before=11)
        assert torch.equal(fit(tmp_path / "cut"), fit(tmp_path / "whole"))

    def test_a_run_cut_twice_ends_the_same(self, tmp_path: Path):
        whole, _, _ = fit_a_line(tmp_path / "whole", self.RECIPE, **self.OFTEN)
        for stop_before in (5, 15):
            fit_a_line(tmp_path / "cut", self.RECIPE, stop_before=stop_before, **self.OFTEN)
        again, _, steps = fit_a_line(tmp_path / "cut", self.RECIPE, **self.OFTEN)
        assert steps[0] == 15
        assert torch.equal(again.weights["weight"], whole.weights["weight"])
        assert again.history == whole.history

    def test_seconds_of_all_parts_are_counted(self, tmp_path: Path):
        fit_a_line(tmp_path, self.RECIPE, stop_before=20, **self.OFTEN)
        path = tmp_path / CHECKPOINT
        with safe_open(path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
        assert progress["step"] == 20
        longer = json.dumps(progress | {"seconds": 1000.0})
        save_file(load_file(path), path, metadata={"progress": longer})
        assert fit_a_line(tmp_path, self.RECIPE, **self.OFTEN)[0].seconds > 1000

    def test_no_checkpoint_is_written_before_its_time(self, tmp_path: Path):
        fit_a_line(tmp_path, self.RECIPE, log_every=2, checkpoint_seconds=3600)
        assert not (tmp_path / CHECKPOINT).exists()


class TestFaults:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_loss_that_is_not_finite_names_the_step_and_the_way_out(self, tmp_path: Path, bad):
        weight = nn.Parameter(torch.zeros(1))

        def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
            return weight.sum() + (bad if step.number == 3 else 0.0), {}

        with pytest.raises(
            SacdError, match=rf"loss is {bad} at step 3: .*\(now 0\.01\) or use prec"
        ):
            train({"w": weight}, nothing, loss, CONSTANT, tmp_path)
        assert weight.item() == pytest.approx(-0.03, rel=1e-4)  # the bad step was not taken

    def test_no_thread_goes_on_reading_when_a_training_has_ended(self, tmp_path: Path):
        weight, threads = nn.Parameter(torch.zeros(1)), threading.active_count()

        def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
            assert threading.active_count() == threads + 1
            if step.number == 3:
                raise ConnectionAbortedError
            return weight.sum(), {}

        with pytest.raises(ConnectionAbortedError) as caught:
            train({"w": weight}, nothing, loss, CONSTANT, tmp_path)
        assert caught.tb is not None  # which holds all that the training held
        assert threading.active_count() == threads

    def test_nor_is_a_gradient_taken_that_is_not_finite(self, tmp_path: Path):
        weight = nn.Parameter(torch.ones(1))

        def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
            power = 0.5 if step.number == 3 else 2.0  # the root's slope at nought has no end
            return (weight - weight.detach()).pow(power).sum() + weight.sum(), {}

        with pytest.raises(SacdError, match=r"gradient's norm is inf at step 3: lower the learn"):
            train({"w": weight}, nothing, loss, CONSTANT, tmp_path)
        assert weight.item() == pytest.approx(1 - 0.03, rel=1e-4)

    @pytest.mark.parametrize("capable", [True, False])
    def test_the_precision_decides_how_matrices_are_multiplied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capable: bool
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
        network = nn.Linear(2, 2)
        types: set[torch.dtype] = set()

        def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
            output = network(torch.ones(1, 2))
            types.add(output.dtype)
            return output.float().sum(), {}

        parameters = dict(network.named_parameters())
        train(parameters, nothing, loss, replace(CONSTANT, precision="bf16"), tmp_path / "bf16")
        assert types == {torch.bfloat16 if capable else torch.float32}  # emulated, it is slow
        types.clear()
        train(parameters, nothing, loss, CONSTANT, tmp_path / "fp32")
        assert types == {torch.float32}
        assert network.weight.dtype == torch.float32


def test_a_steps_randomness_depends_on_seed_and_step_alone():
    def numbers(seed: int, step: int) -> tuple[float, ...]:
        return tuple(torch.rand(3, generator=step_generator(seed, step)).tolist())

    assert numbers(1, 2) == numbers(1, 2)
    assert len({numbers(1, 2), numbers(2, 1), numbers(1, 3), numbers(12, 0), numbers(0, 12)}) == 5


def test_evenly_spaced_rows_reach_every_class_of_a_sorted_split():
    labels = torch.arange(10).repeat_interleave(690)
    some = evenly_spaced(labels, 64)
    assert len(some) == 64
    assert some[0] == 0
    assert some[-1] == 9
    assert set(torch.bincount(some).tolist()) <= {6, 7}
    assert torch.equal(evenly_spaced(labels[:5], 64), labels[:5])
