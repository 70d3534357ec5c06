"""SD1 checkpoints in ldm's layout as pipelines of diffusers, without a download."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

from lib_amdm.errors import AmdmError

from .checkpoint_file import CheckpointFile
from .tokenizer import read_tokenizer


def read_pipeline(path: Path, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """Read a checkpoint, with its yaml if it has one; AmdmError if it cannot be used.

    The scheduler is Euler, with its timesteps evenly spread from the last of the training to the first.
    """
    file = CheckpointFile(path, path.stem)
    if file.is_flow:
        raise AmdmError(f'AMDM: "{file.title}" is a flow model, and diffusers has no SD1 pipeline for these.')
    vae, scale = file.autoencoder(dtype)
    vae.register_to_config(scaling_factor=scale)
    shares = file.alphas_cumprod()
    scheduler = EulerDiscreteScheduler(
        num_train_timesteps=len(shares),
        trained_betas=(1 - shares / torch.cat([torch.ones(1), shares[:-1]])).tolist(),
        prediction_type="v_prediction" if file.predicts_v else "epsilon",
        timestep_spacing="linspace",
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=file.text_encoder(dtype),
        tokenizer=read_tokenizer(file.clip_folder),
        unet=file.unet(dtype),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
