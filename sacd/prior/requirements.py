"""What a prior in the diffusers layout must be, checked by its configurations before anything runs.

We sample with a U-Net that is conditioned on a time and a prompt alone, by the noise schedule of a
DDPM or by rectified flow, in the latents of an AutoencoderKL or AutoencoderTiny. What is built
otherwise would load, and draw noise.
"""

import math
from pathlib import Path
from typing import Any

from sacd.errors import SacdError
from sacd.files import read_json
from sacd.prior.process import FLOW_CLASSES
from sacd.prior.source import TEXT_ENCODER

SCHEDULER = Path("scheduler/scheduler_config.json")
# Solvers of one process: their configurations describe a DDPM's noise schedule.
DDPM_LIKE = (
    "DDPM", "DDIM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete",
    "HeunDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverSDE", "DEISMultistep",
    "UniPCMultistep", "KDPM2Discrete", "KDPM2AncestralDiscrete",
)  # fmt: skip
PREDICTIONS = ("epsilon", "v_prediction", "sample")
# Keys of a UNet2DConditionModel by which it asks for more than a time and a prompt.
MORE_CONDITIONS = (
    "addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim",
    "encoder_hid_dim_type", "time_cond_proj_dim", "cross_attention_norm",
)  # fmt: skip


def require_supported(folder: Path, prompt_width: int | None = None) -> None:
    """Raise `SacdError` unless the configurations in `folder` are of a prior that we can sample.

    `prompt_width` is that of its null prompt, where there is one already.
    """
    unet, vae = (
        _config(folder / "unet/config.json"),
        require_autoencoder(folder / "vae/config.json"),
    )
    _require_class(folder / "unet/config.json", unet, "UNet2DConditionModel")
    _require_scheduler(folder / SCHEDULER)
    _require_unet(folder / "unet/config.json", unet)
    channels = vae["latent_channels"]
    if (unet["in_channels"], unet["out_channels"]) != (channels, channels):
        raise SacdError(
            f"{folder}: the U-Net takes {unet['in_channels']} channels and gives "
            f"{unet['out_channels']}, the autoencoder's latents have {channels}. (Inpainting and "
            f"learned variances are not supported.)"
        )
    encoder = folder / TEXT_ENCODER / "config.json"
    width = prompt_width or (_config(encoder).get("hidden_size") if encoder.exists() else None)
    asked = unet["cross_attention_dim"]
    asked = asked if isinstance(asked, list) else [asked]
    if width is not None and any(one != width for one in asked):
        raise SacdError(
            f"{folder}: the U-Net takes prompts {' or '.join(map(str, asked))} wide, the null "
            f"prompt is {width} wide."
        )


def _config(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.exists() else None
    if not isinstance(found, dict) or not found:
        folder, name = path.parent.parent, f"{path.parent.name}/{path.name}"
        raise SacdError(
            f"{folder}: not a prior in the diffusers layout (unet/, vae/, scheduler/): {name} is "
            f"missing or empty."
        )
    if "quantization_config" in found:
        raise SacdError(f"{path}: of quantised weights; give them in fp16 or fp32.")
    return found


def _require_class(path: Path, config: dict[str, Any], *kinds: str) -> None:
    """The first of the kinds is what a configuration without a class is of."""
    if config.setdefault("_class_name", kinds[0]) not in kinds:
        raise SacdError(
            f"{path}: of class {config['_class_name']}; a prior needs {' or '.join(kinds)}."
        )


def _require_scheduler(path: Path) -> None:
    config = _config(path)
    found = str(config.get("_class_name"))
    if found in FLOW_CLASSES:
        _require_flow(path, config)
    elif found.removesuffix("Scheduler") in DDPM_LIKE and not config.get("use_flow_sigmas"):
        _require_diffusion(path, config)
    else:
        raise SacdError(
            f"{path}: '{found}' is of no process that we know; a DDPM's schedule is needed "
            f"({', '.join(DDPM_LIKE)}), or one of {', '.join(FLOW_CLASSES)}."
        )


def _require_flow(path: Path, config: dict[str, Any]) -> None:
    if not _is_number(config.get("shift")) or config["shift"] <= 0:
        raise SacdError(f"{path}: shift {config.get('shift')!r} is no number above 0.")
    if not isinstance(config.get("num_train_timesteps"), int) or config["num_train_timesteps"] < 2:
        raise SacdError(f"{path}: num_train_timesteps is no number of timesteps.")
    for key in ("use_dynamic_shifting", "invert_sigmas"):
        if config.get(key):
            raise SacdError(f"{path}: {key} is not supported: the time must be that of all noise.")


def _require_diffusion(path: Path, config: dict[str, Any]) -> None:
    schedule = config.get("trained_betas") or {"beta_start", "beta_end"} <= config.keys()
    steps = config.get("num_train_timesteps")
    if not schedule or not isinstance(steps, int) or steps < 1:
        raise SacdError(f"{path}: names no noise schedule (betas and num_train_timesteps).")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise SacdError(
            f"{path}: prediction_type '{prediction}' is none of {', '.join(PREDICTIONS)}."
        )


def _require_unet(path: Path, config: dict[str, Any]) -> None:
    for key in ("in_channels", "out_channels", "block_out_channels"):
        if key not in config:
            raise SacdError(f"{path}: '{key}' is missing.")
    config.setdefault("cross_attention_dim", 1280)  # diffusers' own default
    if more := [key for key in MORE_CONDITIONS if config.get(key) not in (None, False)]:
        raise SacdError(
            f"{path}: the U-Net asks for more than a prompt ({', '.join(more)}), as SDXL does: "
            f"such priors are not supported."
        )


def require_autoencoder(path: Path) -> dict[str, Any]:
    """The configuration of an autoencoder that we can use; raises `SacdError` for another one.

    The scale, shift, mean and deviation of latents must be numbers that can be undone.
    """
    config = _config(path)
    _require_class(path, config, "AutoencoderKL", "AutoencoderTiny")
    channels = config.setdefault("latent_channels", 4)  # diffusers' own default
    scale, shift = config.get("scaling_factor", 1.0), config.get("shift_factor")
    if not _is_number(scale) or scale == 0:
        raise SacdError(f"{path}: scaling_factor {scale!r} is no number by which to scale latents.")
    if shift is not None and not _is_number(shift):
        raise SacdError(f"{path}: shift_factor {shift!r} is no number.")
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if (mean is None) != (deviation is None):
        raise SacdError(f"{path}: latents_mean and latents_std must be given both or not at all.")
    for key, values in (("latents_mean", mean), ("latents_std", deviation)):
        if values is None:
            continue
        if not isinstance(values, list) or not all(map(_is_number, values)):
            raise SacdError(f"{path}: {key} is no list of numbers.")
        if len(values) != channels:
            raise SacdError(f"{path}: {key} has {len(values)} values for {channels} channels.")
    if deviation is not None and min(deviation) <= 0:
        raise SacdError(f"{path}: latents_std must be above 0.")
    return config


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
