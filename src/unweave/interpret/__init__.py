"""What a model is made of inside, and what an answer rests on: dictionaries of a layer, regions of a picture."""

from __future__ import annotations

from .activations import Activations
from .autoencoder import SparseAutoencoder
from .brain_ot import BrainOT
from .choice_sae import ChoiceSAE
from .dictionary import Dictionary
from .drawn import drawn_activations, vectors
from .fidelity import Fidelity, Steering, fidelity, steering
from .files import load, save
from .g_sae import GSAE
from .latents import Latents, top_examples
from .smdl import SMDL
from .viewer import Explanation, Viewer, gradient_times_input, occlusion, trace
from .voxels import RegionEffects, VoxelEncoder, identification, region_effects, token_accuracy, without
from .zero_shot import ZeroShot

__all__ = [
    "Activations", "BrainOT", "ChoiceSAE", "Dictionary", "Explanation", "Fidelity", "GSAE", "Latents",
    "RegionEffects", "SMDL", "SparseAutoencoder", "Steering", "Viewer", "VoxelEncoder", "ZeroShot", "drawn_activations",
    "fidelity",
    "gradient_times_input", "identification", "load", "occlusion", "region_effects", "save", "steering",
    "token_accuracy", "top_examples", "trace", "vectors", "without",
]  # fmt: skip
