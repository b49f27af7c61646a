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

__all__ = [
    "Activations", "ChoiceSAE", "Dictionary", "Fidelity", "GSAE", "Latents", "SparseAutoencoder", "Steering",
    "fidelity", "load", "save", "steering", "top_examples",
]  # fmt: skip
