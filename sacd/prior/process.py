"""The two processes by which latents become noise, and what a U-Net predicts on the way back.

In both, noisy latents are a x + s e at every timestep, of latents x and noise e. Diffusion (Ho et
al. 2020) keeps a^2 + s^2 = 1 on a schedule of its own; rectified flow (Liu et al. 2023) goes along
the straight line a = 1 - t, s = t, and its U-Net predicts the velocity e - x.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
)
from torch import Tensor

TIMESTEPS = 1000
# What in a solver's configuration describes a diffusion; the rest says how that solver samples.
DIFFUSION_KEYS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
    "prediction_type", "rescale_betas_zero_snr",
)  # fmt: skip
FLOW_CLASSES = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


class Process(ABC):
    """What noise does to latents at timesteps 0 to `timesteps`, and what is predicted of them."""

    def __init__(self, scheduler: SchedulerMixin):
        self.scheduler = scheduler
        self.timesteps: int = scheduler.config.num_train_timesteps

    @abstractmethod
    def times(self, shares: Tensor) -> Tensor:
        """Timesteps to train at: the quantiles (N,) in [0, 1) of their distribution."""

    @abstractmethod
    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Latents (N, c, H, W) with noise of the same shape at timesteps (N,)."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the U-Net should predict of them."""

    @abstractmethod
    def estimate(self, noisy: Tensor, predicted: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """Clean latents and noise by the U-Net's prediction at one timestep."""

    @abstractmethod
    def level(self, time: float) -> tuple[float, float]:
        """The factors a of the latents and s of the noise at a timestep."""

    @abstractmethod
    def descent(self, steps: int) -> list[tuple[float, float | None]]:
        """A solver of first order: each step's timestep and the next, None for no noise at all."""

    @abstractmethod
    def solver_config(self) -> dict[str, Any]:
        """The process as diffusers' `DPMSolverMultistepScheduler` takes it."""

    @abstractmethod
    def told(self, solver: DPMSolverMultistepScheduler) -> Tensor:
        """The timesteps (steps,) that the U-Net is told while `solver` takes its steps."""


class Diffusion(Process):
    """By the schedule of a `DDPMScheduler`; predicts noise, v or the latents, as that says."""

    def times(self, shares: Tensor) -> Tensor:
        """Evenly."""
        return (self.timesteps * shares).long().clamp(max=self.timesteps - 1)

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return self.scheduler.add_noise(latents, noise, times)

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return noise
            case "sample":
                return latents
            case _:
                return self.scheduler.get_velocity(latents, noise, times)

    def estimate(self, noisy: Tensor, predicted: Tensor, time: float) -> tuple[Tensor, Tensor]:
        squared = self.scheduler.alphas_cumprod[int(time)]
        signal, noise = squared**0.5, (1 - squared) ** 0.5
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return (noisy - noise * predicted) / signal, predicted
            case "sample":
                return predicted, (noisy - signal * predicted) / noise
            case _:
                return signal * noisy - noise * predicted, signal * predicted + noise * noisy

    def level(self, time: float) -> tuple[float, float]:
        squared = float(self.scheduler.alphas_cumprod[int(time)])
        return squared**0.5, (1 - squared) ** 0.5

    def descent(self, steps: int) -> list[tuple[float, float | None]]:
        """DDIM's, whose steps are all as long, whatever the timestep that the next one is told."""
        solver = DDIMScheduler.from_config(self.scheduler.config, timestep_spacing="trailing")
        solver.set_timesteps(steps)
        length = self.timesteps // steps
        return [
            (time, time - length if time >= length else None) for time in solver.timesteps.tolist()
        ]

    def solver_config(self) -> dict[str, Any]:
        return self.scheduler.config

    def told(self, solver: DPMSolverMultistepScheduler) -> Tensor:
        return solver.timesteps


class Flow(Process):
    """By a `FlowMatchEulerDiscreteScheduler`, whose `shift` says how much of the time is noise.

    Times of training are logit-normal (Esser et al. 2024): the odds t / (1 - t) of a standard
    normal logit, times the shift.
    """

    def times(self, shares: Tensor) -> Tensor:
        logits = torch.special.ndtri(shares.clamp(1e-5, 1 - 1e-5))
        odds = self.scheduler.config.shift * logits.exp()
        return self.timesteps * odds / (1 + odds)

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        share = (times / self.timesteps).to(latents.dtype).view(-1, 1, 1, 1)
        return (1 - share) * latents + share * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return noise - latents

    def estimate(self, noisy: Tensor, predicted: Tensor, time: float) -> tuple[Tensor, Tensor]:
        signal, noise = self.level(time)
        return noisy - noise * predicted, noisy + signal * predicted

    def level(self, time: float) -> tuple[float, float]:
        share = time / self.timesteps
        return 1 - share, share

    def descent(self, steps: int) -> list[tuple[float, float | None]]:
        solver = DPMSolverMultistepScheduler.from_config(self.solver_config())
        solver.set_timesteps(steps)
        times = self.told(solver).tolist()
        return list(zip(times, [*times[1:], None], strict=True))

    def solver_config(self) -> dict[str, Any]:
        return {
            "num_train_timesteps": self.timesteps,
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": self.scheduler.config.shift,
        }

    def told(self, solver: DPMSolverMultistepScheduler) -> Tensor:
        """Exactly: the solver's own are whole numbers."""
        return (solver.sigmas[:-1] * self.timesteps).to(solver.timesteps.device)


def process_of(scheduler: SchedulerMixin) -> Process:
    """The process that a prior's scheduler describes."""
    flows = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    return Flow(scheduler) if flows else Diffusion(scheduler)


def scheduler_of(config: dict[str, Any]) -> SchedulerMixin:
    """The scheduler that stands for the process in the configuration of any of its solvers."""
    if config["_class_name"] in FLOW_CLASSES:
        return flow_scheduler(config["shift"], config["num_train_timesteps"])
    chosen = {key: config[key] for key in DIFFUSION_KEYS if key in config}
    return DDPMScheduler(**chosen, clip_sample=False, timestep_spacing="trailing")


def flow_scheduler(shift: float, timesteps: int = TIMESTEPS) -> FlowMatchEulerDiscreteScheduler:
    """Rectified flow; what its network predicts stands in the configuration, as for the others."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=timesteps, shift=shift)
    scheduler.register_to_config(prediction_type="flow_prediction")
    return scheduler
