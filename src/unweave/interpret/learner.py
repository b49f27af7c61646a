"""A sparse autoencoder in training: its loss on a batch, and what it remembers of earlier ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from .autoencoder import SparseAutoencoder
from .rations import fit_zipf, per_batch, per_column, per_row, ranks_of, rationed

if TYPE_CHECKING:
    from .dictionary import Dictionary


@dataclass(frozen=True)
class Rules:
    """Settings with what depends on the data filled in.

    Attributes:
        how: the settings.
        k_aux: latents that take part in the auxiliary loss, a vector.
        dead_after: vectors without a code after which a latent is dead.
        window: vectors over which densities are averaged.
        batch_size: vectors of a whole batch.
    """

    how: Dictionary
    k_aux: int
    dead_after: int
    window: int
    batch_size: int

    def scores(self, sae: SparseAutoencoder, z: Tensor, g: Tensor | None) -> Tensor:
        """What entries are ranked by, detached, [b, n]."""
        z = z.detach()
        if not self.how.by_gradient:
            return z
        if g is None or g.shape[:-1] != z.shape[:-1] or g.shape[-1] != sae.width:
            shown = "none" if g is None else f"shape {tuple(g.shape)}"
            raise InputError(
                f"score={self.how.score!r} needs a gradient of width {sae.width} for each of {len(z)} "
                f"activations; got {shown}."
            )
        u = (g @ sae.W_dec.detach().T).abs()
        u = u / u.mean().clamp(min=torch.finfo(u.dtype).tiny)
        return z * u if self.how.score == "product" else z * (1 + self.how.beta * u)

    def kept(self, z: Tensor, scores: Tensor, ration: Tensor | None = None) -> Tensor:
        """Which entries may speak, bool [b, n]; `ration` holds what each latent has in a batch, where it counts."""
        how = self.how
        if how.ration == "token":
            return per_row(scores, how.k)
        if ration is not None:
            if len(z) < self.batch_size:  # a last batch has its share of the ration
                ration = rationed(ration, how.k * len(z), least=0)
            kept = per_column(scores, ration)
        else:
            kept = per_batch(scores, how.k * len(z))
        if how.max_per_token is not None and how.max_per_token < z.shape[1]:
            kept &= per_row(scores.masked_fill(~kept, -1.0), how.max_per_token)
        return kept


class Learner(Module):
    """Called with a batch it gives the loss; its buffers are part of what a checkpoint keeps.

    Attributes:
        sae: the autoencoder.
        density: running share of vectors that each latent is active on, [n].
        silent: vectors since each latent was last active, [n].
        ration: vectors of a batch for each latent, [n]; all 0 while there is none.
        expected: density that the Zipf law gives each latent at its rank, [n]; all 0 before it is first fitted.
    """

    density: Tensor
    silent: Tensor
    ration: Tensor
    expected: Tensor

    def __init__(self, sae: SparseAutoencoder, rules: Rules) -> None:
        super().__init__()
        self.sae, self.rules = sae, rules
        n = sae.latents
        self.register_buffer("density", torch.zeros(n))
        self.register_buffer("silent", torch.zeros(n, dtype=torch.long))
        self.register_buffer("ration", torch.zeros(n, dtype=torch.long))
        self.register_buffer("expected", torch.zeros(n))
        self._hook = sae.W_dec.register_hook(self._across)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, g: Tensor | None = None) -> Tensor:
        """Unexplained share of the batch's variance, with the auxiliary loss."""
        sae = self.sae
        around = (x - x.mean(0)).square().sum()
        if float(around) == 0:
            raise InputError("the activations of a batch do not vary; nothing can be explained of them.")
        a = sae.affinities(x)
        if self.rules.how.ration == "gate":
            return self._gated(x, a, around)
        z = a.relu()
        rationed = self.ration if bool(self.ration.any()) else None
        codes = z * self.rules.kept(z, self.rules.scores(sae, z, g), rationed)
        left = x - sae.decode(codes)
        loss = left.square().sum() / around
        if self.rules.how.auxiliary != "none":
            loss = loss + self.rules.how.coefficient * self._auxiliary(a, left.detach(), around)
        if self.training:
            self._remember(codes.detach())
        return loss

    def _gated(self, x: Tensor, a: Tensor, around: Tensor) -> Tensor:
        sae, open_ = self.sae, a.relu()
        codes = sae.magnitudes(x) * (a > 0)
        left = x - sae.decode(codes)
        by_gate = x - (open_ @ sae.W_dec.detach() + sae.b_dec.detach())
        spread = (around / len(x)).sqrt()
        loss = (left.square().sum() + by_gate.square().sum()) / around
        loss = loss + self.rules.how.l1 * open_.sum(1).mean() / spread
        if self.rules.how.auxiliary != "none":
            loss = loss + self.rules.how.coefficient * self._auxiliary(a, left.detach(), around)
        if self.training:
            self._remember(codes.detach())
        return loss

    def _auxiliary(self, a: Tensor, left: Tensor, around: Tensor) -> Tensor:
        """How badly latents that are hardly used predict what is left over, over the batch's variance."""
        weights = self.weak()
        candidates = int((weights > 0).sum())
        if candidates == 0:
            return left.new_zeros(())
        k = min(self.rules.k_aux, candidates)
        ranked = (weights * a.detach().relu()).masked_fill(weights == 0, -1.0)
        codes = a.relu() * per_row(ranked, k)
        wrong = (left - codes @ self.sae.W_dec).square().sum() / around
        return min(candidates / self.rules.k_aux, 1.0) * wrong

    def weak(self) -> Tensor:
        """How much each latent takes part in the auxiliary loss, from 0 to 1, [n]: dead ones 1."""
        dead = (self.silent >= self.rules.dead_after).to(self.density)
        if self.rules.how.auxiliary == "dead" or not bool(self.expected.any()):
            return dead
        return torch.maximum(dead, ((self.expected - self.density) / self.expected).clamp(0, 1))

    @torch.no_grad()
    def _remember(self, codes: Tensor) -> None:
        active = codes > 0
        rate = min(1.0, len(codes) / self.rules.window)
        self.density.lerp_(active.to(self.density).mean(0), rate)
        self.silent.add_(len(codes)).masked_fill_(active.any(0), 0)

    @torch.no_grad()
    def calibrate_(self, batches: Iterable[tuple[Tensor, ...]]) -> None:
        """Set the thresholds by which one vector is encoded alone: the mean over batches of the smallest code kept.

        Of a latent's own where latents are rationed; one that no batch heard keeps silent on what none of them said.
        """
        z_max = torch.zeros_like(self.density, dtype=torch.float64)
        total, count = torch.zeros_like(z_max), torch.zeros_like(z_max)
        rationed_ = self.ration if bool(self.ration.any()) else None
        for x, *g in batches:
            z = self.sae.affinities(x).relu()
            active = self.rules.kept(z, self.rules.scores(self.sae, z, g[0] if g else None), rationed_) & (
                z > 0
            )
            if self.rules.how.by_gradient:  # alone there is no gradient: as many codes, by themselves
                active = per_batch(z, int(active.sum())) & (z > 0)
            lowest = torch.where(active, z, torch.inf).double()
            smallest = lowest.amin(0) if rationed_ is not None else lowest.amin().expand_as(total)
            known = smallest.isfinite()
            total += torch.where(known, smallest, 0.0)
            count += known
            z_max = torch.maximum(z_max, z.amax(0).double())
        found = torch.where(count > 0, total / count.clamp(min=1), z_max)
        below = torch.nextafter(
            found.float(), torch.zeros_like(found, dtype=torch.float32)
        )  # what is kept is above
        self.sae.get_buffer("threshold").copy_(torch.where(count > 0, below, found.float()))

    @torch.no_grad()
    def rank_(self, *, expect: bool, ration: int | None) -> None:
        """Rank latents by density anew.

        Args:
            expect: note what the Zipf law expects of each.
            ration: divide this many codes a batch among latents, alike or after that law; None divides nothing.
        """
        zipf = ration is not None and self.rules.how.ration == "zipf"
        if (expect or zipf) and int((self.density > 0).sum()) >= 3:
            law = fit_zipf(self.density).at(ranks_of(self.density))
            self.expected.copy_(law)
        if ration is not None:
            law_known = zipf and bool(self.expected.any())
            shares = self.expected if law_known else torch.ones_like(self.density)
            self.ration.copy_(rationed(shares, ration))

    @torch.no_grad()
    def tidy_(self) -> None:
        """Make the decoder's rows of norm 1 again."""
        rows = self.sae.W_dec
        rows.div_(rows.norm(dim=1, keepdim=True).clamp(min=1e-12))

    def release(self) -> None:
        """Take the hook of training off the autoencoder."""
        self._hook.remove()

    def _across(self, gradient: Tensor) -> Tensor:
        """The part of a gradient at right angles to each row: the rest would only change norms, which are fixed."""
        rows = self.sae.W_dec.detach()
        rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        across: Tensor = gradient - (gradient * rows).sum(1, keepdim=True) * rows
        return across
