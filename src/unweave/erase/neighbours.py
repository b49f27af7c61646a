"""What lies near a concept, as a pipeline's own text encoder sees it: the first to be lost when the concept goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models.text_to_image import TextToImage
from .concepts import Concepts, earlier

_LOOKED_AT = 6
"""Words near by their tokens' embeddings, for each that is kept, among which the encoder chooses."""
_SHORTEST = 3
"""Letters of the shortest word that can name a thing."""


@torch.no_grad()
def ranked(model: TextToImage, concepts: Concepts, among: Sequence[str]) -> list[list[str]]:
    """Words in the order of their distance from each erased concept (`Concepts.labels`), the nearest first.

    Cosine between means over the tokens of the first template's encoded prompts.
    """
    if not among:
        return [[] for _ in concepts.labels]
    theirs, own = (
        _encoded(model, [concepts.prompts(w)[0] for w in words]) for words in (among, concepts.labels)
    )
    return [[among[k] for k in row] for row in (own @ theirs.T).argsort(1, descending=True).tolist()]


@torch.no_grad()
def nearest_words(model: TextToImage, concepts: Concepts, each: int) -> tuple[str, ...]:
    """The words of the tokenizer's vocabulary that are nearest to the erased concepts, `each` for every one of them.

    Words of one token, letters only, that are neither a form of what is erased (one begins with the other), now or
    before, nor part of the templates, nor unreadable to another tokenizer. The embeddings of tokens choose some, the
    text encoder the nearest of these: see `ranked`.
    """
    if not each:
        return ()
    encoder: Any = model.text_encoder
    table = normalize(encoder.get_input_embeddings().weight.float(), dim=1)
    gone = [w for asked in (concepts, *earlier(model, concepts)) for w in asked.erase]
    banned = [part for w in gone for part in w.lower().split()]
    around = {part for prompt in (*concepts.templates, *concepts.bases) for part in prompt.lower().split()}
    found: dict[str, None] = {}
    for concept in concepts.labels:
        ids = model.tokenizers[0](model.written(concept), add_special_tokens=False).input_ids
        near = (table @ table[ids].mean(0)).argsort(descending=True).tolist()
        words: list[str] = []
        for token in near:
            word = _word(model, token)
            form = any(word.startswith(b) or b.startswith(word) for b in banned)
            if word and not form and word not in words and word not in around:
                words.append(word)
            if len(words) == _LOOKED_AT * each:
                break
        readable = [w for w in words if all(reads(model, p) for p in concepts.prompts(w))]
        found |= dict.fromkeys(ranked(model, concepts.only(concept), readable)[0][:each])
    return tuple(found)


def reads(model: TextToImage, prompt: str) -> bool:
    """Whether every tokenizer knows every word of a prompt, and it is short enough."""
    for i, tokenizer in enumerate(model.tokenizers):
        ids = tokenizer(model.written(prompt), verbose=False).input_ids
        unknown = tokenizer.unk_token_id
        if len(ids) > model.length(i) or (unknown != tokenizer.eos_token_id and unknown in ids):
            return False
    return True


def _word(model: TextToImage, token: int) -> str:
    """The whole word, in small letters, that a token alone writes; "" if it is none."""
    tokenizer = model.tokenizers[0]
    if token >= len(tokenizer) or token in tokenizer.all_special_ids:
        return ""
    word = str(tokenizer.decode([token])).removesuffix("</w>").strip()  # CLIP marks the ends of words
    whole = word.isalpha() and word == word.lower() and len(word) >= _SHORTEST
    return word if whole and tokenizer(word, add_special_tokens=False).input_ids == [token] else ""


def _encoded(model: TextToImage, prompts: Sequence[str]) -> Tensor:
    parts = [prompts[i : i + 64] for i in range(0, len(prompts), 64)]
    return normalize(torch.cat([model.encode(p).hidden.cpu().double().mean(1) for p in parts]), dim=1)
