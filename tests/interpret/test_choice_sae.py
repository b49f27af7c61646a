from __future__ import annotations

import pytest
import torch

from tests.interpret import world
from tests.interpret.test_dictionary import held
from unweave import seeded
from unweave.errors import InputError
from unweave.interpret import ChoiceSAE, Dictionary, SparseAutoencoder

SMALL = {"latents": 96, "k": 3, "batch_size": 100, "buffer": 300, "lr": 5e-3, "epochs": 20, "dead_after": 900}


def trained(**how: object) -> SparseAutoencoder:
    x = world.vectors()[0]
    return ChoiceSAE(**{**SMALL, **how}).dictionary().fit(held(x), rng=seeded(0))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def arms() -> dict[str, SparseAutoencoder]:
    return {
        "token": trained(allocation="token", auxiliary="none"),
        "mutual": trained(auxiliary="none"),
        "zipf": trained(allocation="feature-zipf"),
        "uniform": trained(allocation="feature-uniform", auxiliary="none"),
    }


def dead(sae: SparseAutoencoder) -> float:
    return float((sae.encode(world.vectors()[0]) == 0).all(0).float().mean())


def test_rationed_latents_do_not_die(arms: dict[str, SparseAutoencoder]) -> None:
    assert dead(arms["uniform"]) == dead(arms["zipf"]) == 0
    assert dead(arms["mutual"]) > 0.3


def test_a_free_budget_goes_where_it_is_needed(arms: dict[str, SparseAutoencoder]) -> None:
    x = world.vectors()[0]
    counts = {name: (sae.encode(x) > 0).sum(1).double() for name, sae in arms.items()}
    assert int(counts["token"].max()) <= 3 < int(counts["mutual"].max())
    pair = torch.stack([counts["mutual"], (x - x.mean(0)).norm(dim=1).double()])
    assert torch.corrcoef(pair)[0, 1] > 0.2
    assert all(2.5 < float(c.mean()) < 3.2 for c in counts.values())


def test_is_the_dictionary_that_it_names() -> None:
    how = ChoiceSAE(latents=96, k=3, allocation="feature-zipf", switch_at=0.5).dictionary()
    same = Dictionary(latents=96, k=3, ration="zipf", switch_at=0.5, auxiliary="under-used")
    assert how == same


def test_rations_at_the_switch() -> None:
    """Before it no latent has a ration of its own: the same seed gives what mutual choice gives."""
    x = world.vectors()[0]
    made = {
        name: ChoiceSAE(**{**SMALL, "epochs": 1, **how}).dictionary().fit(held(x), rng=seeded(0))  # type: ignore[arg-type]
        for name, how in {
            "mutual": {"auxiliary": "none"},
            "late": {"auxiliary": "none", "allocation": "feature-zipf", "switch_at": 0.99},
            "early": {"auxiliary": "none", "allocation": "feature-zipf", "switch_at": 0.4},
        }.items()
    }
    assert torch.equal(made["mutual"].W_dec, made["late"].W_dec)  # nine steps: the switch is after the last
    assert not torch.equal(made["mutual"].W_dec, made["early"].W_dec)


def test_refuses() -> None:
    with pytest.raises(InputError, match="switch_at=0.5 would do nothing with allocation='mutual'"):
        ChoiceSAE(switch_at=0.5)
    with pytest.raises(InputError, match="max_per_token=5 would do nothing with allocation='token'"):
        ChoiceSAE(allocation="token", max_per_token=5)
    with pytest.raises(InputError, match="k must be at most"):
        ChoiceSAE(latents=8, k=9)
    with pytest.raises(InputError, match="of at least the 96 latents"):
        ChoiceSAE(latents=96, k=3, allocation="feature-uniform").dictionary().fit(
            held(world.vectors()[0], batch_size=31), rng=seeded(0)
        )
