"""What a model is made of inside, and what an answer rests on: dictionaries of a layer, regions of a picture."""

from __future__ import annotations

from .activations import Activations
from .autoencoder import SparseAutoencoder
from .choice_sae import ChoiceSAE
from .dictionary import Dictionary
from .fidelity import Fidelity, Steering, fidelity, steering
from .files import load, save
from .g_sae import GSAE
from .latents import Latents, top_examples
from .smdl import SMDL
from .viewer import Explanation, Viewer, gradient_times_input, occlusion, trace
from .zero_shot import ZeroShot

__all__ = [
    "Activations", "ChoiceSAE", "Dictionary", "Explanation", "Fidelity", "GSAE", "Latents", "SMDL", "SparseAutoencoder",
    "Steering", "Viewer", "ZeroShot", "fidelity", "gradient_times_input", "load", "occlusion", "save", "steering",
    "top_examples", "trace",
]  # fmt: skip
