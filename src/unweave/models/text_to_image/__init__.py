"""Text-to-image diffusion pipelines as one module: what their layouts have in common, and nothing of the rest.

Read: UNets of Stable Diffusion 1.x and 2.x, SDXL (two text encoders, pooled embedding, time ids), and transformers of
PixArt's, of Stable Diffusion 3's (joint attention, flow matching) and of Flux's kind (pictures packed as tokens
besides, guidance in the weights or not), told apart by what they are made of. Not read: refiners, ControlNets; layers
wrapped by LoRA or quantised must be merged first. `unweave.io.pipeline_folder` reads and writes folders of diffusers.
"""

from __future__ import annotations

from .entrances import Entrance, entrances
from .guidance import Guidance, require_negative
from .layers import LAYERS, Layers, Weights, encoder_weights, require_plain, shared_attentions, training_only
from .layouts import Kind, Layout
from .memory import slim_
from .offload import is_offloaded, offload_
from .pipeline import Component, TextToImage
from .prompts import Prompts
from .steps import noise_like, pick, train_steps_
from .text import Text
from .watch import Look, watch_sampling

__all__ = [
    "LAYERS",
    "Component",
    "Entrance",
    "Guidance",
    "Kind",
    "Layers",
    "Layout",
    "Look",
    "Prompts",
    "Text",
    "TextToImage",
    "Weights",
    "encoder_weights",
    "entrances",
    "is_offloaded",
    "noise_like",
    "offload_",
    "pick",
    "require_negative",
    "require_plain",
    "shared_attentions",
    "slim_",
    "train_steps_",
    "training_only",
    "watch_sampling",
]
