"""g-SAE against TopK at the same k: what the model loses by it, and what its latents can do."""

from __future__ import annotations

import torch

from claims.effects import Effect
from claims.framework import Claim
from claims.interpret._world import FIT, LAYER, WORLD, activations, held, texts
from unweave import seeded
from unweave.interpret import Dictionary, SparseAutoencoder, fidelity, steering

KS = (4, 8, 16)
ARMS = ("TopK", "g-SAE", "product", "others' gradients")


def _at(figure: str, k: int, arm: str) -> str:
    return f"{figure}, k={k}, {arm}"


claim = Claim(
    statement="At the same number of active latents, codes chosen with the loss's gradient harm the model less than those of the largest "
    "activations, and their directions move its answers more.",
    reported="GPT-2 small, layer 7: lower downstream cross-entropy over all k, fewer dead latents, larger effects of steering (curves)",
    data=f"{WORLD}; gradients of the model's own likeliest answer, so that codes know nothing of the next character",
    figures={
        **{_at(f, k, a): f"{unit}, lower is better" for f, unit in (("KL", "nats x 1000"), ("loss", "nats x 1000 more"), ("unexplained", "% of variance")) for k in KS for a in ARMS},
        **{_at("KL without gradients", k, "g-SAE"): "nats x 1000, lower is better" for k in KS},
        **{_at("steering", 8, a): "mean change of log-probabilities x 1000" for a in ("TopK", "g-SAE")},
        **{_at("dead", 8, a): "% of latents" for a in ("TopK", "g-SAE")},
    },
    baseline="TopK with the same auxiliary loss, beginning and order of data; g-SAE with the gradients of other vectors",
    criterion="KL at each k and the rise of the loss at k of 8 and 16 at most 0.9 times TopK's; worse with others' gradients; larger effects of steering",
    effects=(
        *(Effect(f"KL at k={k}: at most 0.9 of TopK's", better=_at("KL", k, "g-SAE"), worse=lambda r, k=k: 0.9 * r[_at("KL", k, "TopK")], unit="nats x 1000", higher=False) for k in KS),
        *(Effect(f"loss at k={k}: at most 0.9 of TopK's rise", better=_at("loss", k, "g-SAE"), worse=lambda r, k=k: 0.9 * r[_at("loss", k, "TopK")], unit="nats x 1000", higher=False) for k in (8, 16)),
        Effect("own gradients over others' at k=8", better=_at("KL", 8, "g-SAE"), worse=_at("KL", 8, "others' gradients"), unit="nats x 1000", higher=False),
        Effect("steering at k=8", better=_at("steering", 8, "g-SAE"), worse=_at("steering", 8, "TopK"), unit="x 1000"),
        Effect("without gradients at k=8 (KL)", better=_at("KL without gradients", 8, "g-SAE"), worse=_at("KL", 8, "TopK"), unit="nats x 1000", higher=False, headline=False),
        Effect("dead latents at k=8", better=_at("dead", 8, "g-SAE"), worse=_at("dead", 8, "TopK"), higher=False, headline=False),
    ),
    settings={"beta": 1.0, "lr": 2e-3, "latents": 256},
    note="Codes chosen with gradients need a backward pass of the model wherever they are used; without, the same weights are a TopK.",
)  # fmt: skip


def measure(seed: int) -> dict[str, float]:
    model, x, g = activations(seed)
    others = g[torch.randperm(len(g), generator=seeded(seed))]
    text = texts()[1].subset(range(64))
    found: dict[str, float] = {}
    for k in KS:
        for arm in ARMS:
            score = {"TopK": "activation", "product": "product"}.get(arm, "additive")
            how = Dictionary(k=k, score=score, **FIT)
            data = held(x) if arm == "TopK" else held(x, others if arm == "others' gradients" else g)
            sae = how.fit(data, rng=seeded(seed))
            shuffled = arm == "others' gradients"
            told = fidelity(
                sae, model, text, LAYER, codes=None if arm == "TopK" else _codes(how, sae, seed, shuffled)
            )
            found[_at("KL", k, arm)] = 1000 * told.kl
            found[_at("loss", k, arm)] = 1000 * told.increase
            found[_at("unexplained", k, arm)] = 100 * told.fvu
            if arm == "g-SAE":
                found[_at("KL without gradients", k, arm)] = 1000 * fidelity(sae, model, text, LAYER).kl
            if k == 8 and arm in ("TopK", "g-SAE"):
                alive = told.density.nonzero().flatten()
                some = alive[torch.randperm(len(alive), generator=seeded(seed))[:48]]
                effect = steering(sae, model, text.subset(range(8)), LAYER, some)
                found[_at("steering", k, arm)] = 1000 * float(effect.moved.mean())
                found[_at("dead", k, arm)] = 100 * told.dead
    return found


def _codes(how: Dictionary, sae: SparseAutoencoder, seed: int, shuffled: bool):
    rng = seeded(seed)
    return lambda x, g: how.select(sae, x, g[torch.randperm(len(g), generator=rng)] if shuffled else g)
