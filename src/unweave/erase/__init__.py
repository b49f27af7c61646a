"""Forget concepts in text-to-image diffusion models; attack the erasure; measure it."""

from __future__ import annotations

from ..models.text_to_image import Text, TextToImage, training_only
from ..models.text_to_image.one_step import draws_in_one_step, one_step
from .adv_unlearn import AdvUnlearn
from .attacks import Attack, Attacked, Attempt, Targets
from .concept_ablation import ConceptAblation
from .concept_prune import ConceptPrune
from .concept_salun import ConceptSalUn
from .concepts import Concepts, earlier
from .doco import DoCo
from .esd import ESD
from .fia import FIA, Neurons
from .neighbours import nearest_words, ranked, reads
from .sculpting_memory import SculptingMemory
from .sfd import SFD
from .soft_vector import RandomVector, SoftVector
from .templates import prompts_of, templates_of
from .token_search import TokenSearch
from .uce import UCE
from .unlearn_diff_atk import UnlearnDiffAtk

__all__: list[str] = [
    "AdvUnlearn",
    "Attack",
    "Attacked",
    "Attempt",
    "ConceptAblation",
    "ConceptPrune",
    "ConceptSalUn",
    "Concepts",
    "DoCo",
    "ESD",
    "FIA",
    "Neurons",
    "SculptingMemory",
    "RandomVector",
    "SFD",
    "SoftVector",
    "Targets",
    "Text",
    "TextToImage",
    "TokenSearch",
    "UCE",
    "UnlearnDiffAtk",
    "draws_in_one_step",
    "earlier",
    "nearest_words",
    "one_step",
    "prompts_of",
    "ranked",
    "reads",
    "templates_of",
    "training_only",
]
