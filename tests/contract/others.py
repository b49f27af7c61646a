"""One row for each method that is neither an edit nor an optimiser: a loss, a module, a choice of data.

Checks are in test_others.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from tests.contract.world import RECIPE


@dataclass(frozen=True, kw_only=True)
class PlainRow:
    """A method's row.

    name: class name; the id of its tests.
    run: (generator) -> what it computes on a tiny input made on the spot (always the same), as named tensors;
        about a second of work.
    off: the same with the method's own term switched off; None where it has none.
    least: smallest difference from `off`, as a share of the result's size, that counts as acting.
    random: whether another seed gives another result.
    bad: calls that must raise InputError, each with a pattern of the message.
    """

    name: str
    run: Callable[[Generator], dict[str, Tensor]]
    off: Callable[[Generator], dict[str, Tensor]] | None = None
    least: float = 1e-3
    random: bool = True
    bad: tuple[tuple[Callable[[], Any], str], ...] = field(default=())


def _sparse(method: Any, rng: Generator) -> dict[str, Tensor]:
    from tests.contract import world
    from unweave import Supervised

    recipe = Supervised(network=world.network, epochs=4, lr=0.05, sparse=method)
    return dict(recipe.build(world.points()[0], rng=rng).state_dict())


def _imp(rng: Generator, sparsity: float = 0.7) -> dict[str, Tensor]:
    from tests.contract import world
    from unweave.prune import IMP

    return dict(IMP(recipe=world.RECIPE, sparsity=sparsity).build(world.points()[0], rng=rng).state_dict())


def _supermasks(method: Any, rng: Generator) -> dict[str, Tensor]:
    from tests.contract import world

    net = method.apply(world.RECIPE.initial(rng), [world.points()[0]] * 2, rng=rng)
    return {**net.backbone.state_dict(), **{f"mask {n}": a for n, a in net.masks[1].keep.items()}}


def _attacked(rng: Generator, weight: float = 1.0) -> dict[str, Tensor]:
    from unweave import fit_, seeded
    from unweave.embedded.digits import of_tensors
    from unweave.embedded.nets import mlp
    from unweave.optim import AAER
    from unweave.random import global_seed

    x = torch.rand(40, 1, 4, 4, generator=seeded(0))
    data = of_tensors(x, (x.mean((1, 2, 3)) > 0.5).long(), classes=2, batch_size=10)
    with global_seed(0):
        net = torch.nn.Sequential(torch.nn.Flatten(), mlp(16, 12, 2))
    fit_(
        net, data, AAER(eps=0.4, weight=weight).objective(data), torch.optim.SGD(net.parameters(), 0.5), epochs=4, rng=rng
    )  # fmt: skip
    return dict(net.state_dict())


def _dropped(rng: Generator, p: float = 0.5) -> dict[str, Tensor]:
    from unweave.optim import MultiSampleDropout
    from unweave.random import draw_seed, global_seed

    with global_seed(draw_seed(rng)):
        return {"logits": MultiSampleDropout(torch.nn.Identity(), p=p)(torch.ones(4, 6))}


def _subset(method: Any, rng: Generator) -> dict[str, Tensor]:
    from tests.contract import world
    from unweave.augment import DataEfficientAugmentation

    how = DataEfficientAugmentation(budget=0.2, method=method)
    chosen = how.choose(world.model(), world.points()[0], rng=rng)
    return {"positions": chosen.positions, "weights": chosen.weights}


def _relu(rng: Generator, peaks: tuple[float, ...] = (0.5, 5.0)) -> dict[str, Tensor]:
    from tests.language_world import llama, text
    from unweave.prune import ProSparse

    return dict(ProSparse(peaks=peaks).apply(llama(layers=1), text(320), rng=rng).state_dict())


def _recovered(rng: Generator, alpha: float = 1e-6) -> dict[str, Tensor]:
    from unweave import seeded
    from unweave.optim.subgm import Dense, SubGM

    draws = torch.randn(60, 4, 4, generator=seeded(0), dtype=torch.float64)
    return {"x": SubGM(alpha=alpha, steps=300).recover(Dense(draws), draws[:, 0, 0]).x}


def _adapted(rng: Generator) -> dict[str, Tensor]:
    from tests.contract import world
    from tests.prune.test_mosa import HERE, Net

    return dict(HERE().adapt(Net(), world.points()[0], rng=rng).state_dict())


def _sharded(rng: Generator, shards: int = 2, slices: int = 2) -> dict[str, Tensor]:
    from tests.contract import world
    from unweave.unlearn import SISA

    data, _ = world.points()
    return dict(SISA(recipe=RECIPE, shards=shards, slices=slices).build(data, rng=rng).state_dict())


def _sliced(rng: Generator, lr: float = 0.02) -> dict[str, Tensor]:
    from unweave import seeded
    from unweave.embedded.digits import of_tensors
    from unweave.embedded.nets import RowTransformer
    from unweave.random import global_seed
    from unweave.unlearn import S3T

    x = torch.rand(40, 16, generator=seeded(0))
    data = of_tensors(x, (x.mean(1) > 0.5).long(), classes=2, batch_size=20)
    with global_seed(0):
        base = RowTransformer(side=4, layers=2, width=8, heads=2, classes=2)
    how = S3T(pretrained_on="noise", shards=1, slices=2, budget=1, rank=2, epochs=2, lr=lr)
    return dict(how.adapt(base, data, rng=rng).state_dict())


def _chosen(rng: Generator, **kinds: Any) -> dict[str, Tensor]:
    from tests.language_world import llama, text
    from unweave import seeded
    from unweave.prune import PASER, Global, Prune

    model, data = llama(layers=1), text(640)
    pruned = Prune(budget=Global(0.6)).apply(model, data, rng=seeded(0))
    found = PASER(budget=10, clusters=4, landmarks=20, **kinds).select(model, pruned, data, rng=rng)
    return {"positions": found.positions, "clusters": found.clusters}


def _one_expert(rng: Generator, **settings: Any) -> dict[str, Tensor]:
    from tests.moe_models import moe, text
    from unweave.experts import UOE
    from unweave.language import GradDiff
    from unweave.types import Request

    data, model = text(96), moe("mixtral", num_hidden_layers=1)
    request = Request(data.subset(range(2)), data.subset(range(2, 4)), data.subset(range(4, 6)))
    made = UOE(unlearn=GradDiff(lr=0.01, epochs=1), **settings).apply(model, request, rng=rng)
    return dict(made.state_dict())


def _experts(rng: Generator, method: str, name: str = "qwen3-moe", **settings: Any) -> dict[str, Tensor]:
    from tests.moe_models import moe, text
    from unweave import experts

    made = getattr(experts, method)(**settings).apply(moe(name, num_hidden_layers=2), text(160), rng=rng)
    with torch.no_grad():
        return {"logits": made(input_ids=torch.arange(3, 15)[None]).logits}


def _momentum(rng: Generator, mu: float = 0.7) -> dict[str, Tensor]:
    from tests.moe_models import moe
    from unweave.experts import MomentumSMoE

    made = MomentumSMoE(mu=mu).adapt(moe("mixtral"))
    with torch.no_grad():
        return {"logits": made(input_ids=torch.arange(3, 15)[None]).logits}


def _grouped(rng: Generator, **parts: Any) -> dict[str, Tensor]:
    from unweave.experts import DASGMoE
    from unweave.random import draw_seed

    stack = DASGMoE(8, 2, group=4, window=4, seed=draw_seed(rng), **parts).eval()
    with torch.no_grad():
        return {"states": stack(torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(0)))}


def _offloaded(rng: Generator, **settings: Any) -> dict[str, Tensor]:
    from tests.moe_models import moe
    from unweave.experts import SEMoE

    made = SEMoE(**settings).adapt(moe("mixtral"))
    with torch.no_grad():
        return {"logits": made(input_ids=torch.arange(3, 15)[None]).logits}


def _mixed(rng: Generator, noise: Any) -> dict[str, Tensor]:
    from tests.zoo import members
    from unweave import Data
    from unweave.experts import CLIPMoE
    from unweave.tasks.contrast import Contrast

    member = members("contrastive")[0]
    how = CLIPMoE(experts=2, init=noise, router_lr=1e-3, warm=0)
    made = how.apply(member.model(), Data(member.data(8).examples, Contrast(), 4), rng=rng)
    return {n: p.detach() for n, p in made.named_parameters() if ".experts." in n}


def _contrasted(rng: Generator, beta: float = 0.5) -> dict[str, Tensor]:
    from tests.moe_models import moe
    from unweave.experts import SCMoE

    how = SCMoE(weak="random", beta=beta, alpha=1e-30)
    return {"scores": how.scores(*how.logits(moe("mixtral"), torch.arange(3, 15)[None], rng=rng))}


def _worst(rng: Generator, which: Any = "worst") -> dict[str, Tensor]:
    from tests.contract import world
    from unweave.unlearn import WorstCaseForget

    found = WorstCaseForget(size=9, which=which).select(world.model(), world.points()[0], rng=rng)
    return {"set": torch.zeros(90).index_fill(0, found.positions, 1.0)}


def _dictionary(how: Any, rng: Generator) -> dict[str, Tensor]:
    from tests.interpret.test_dictionary import held
    from tests.interpret.world import vectors

    return dict(how.dictionary().fit(held(*vectors()), rng=rng).state_dict())


def _regions(how: Any, rng: Generator) -> dict[str, Tensor]:
    from tests.interpret.test_smdl import IMAGE, MODEL

    found = how.explain(MODEL, IMAGE, rng=rng)
    return {"saliency": found.saliency(), "insertion": found.insertion}


def _transported(rng: Generator, mass: float = 0.5) -> dict[str, Tensor]:
    from unweave import seeded
    from unweave.interpret import BrainOT

    x, y = torch.randn(2, 3, 9, 5, generator=seeded(0))
    x.requires_grad_()
    return {"gradient": torch.autograd.grad(BrainOT(mass=mass)(x, y), x)[0]}


def _rows() -> list[PlainRow]:
    from functools import partial

    from unweave import augment, experts, interpret, language, optim, prune, unlearn

    static = partial(_sparse, prune.StaticMask())
    return [
        PlainRow(
            name="AAER",
            run=_attacked,
            off=partial(_attacked, weight=0.0),
            bad=((lambda: optim.AAER(eps=0.0), "eps"),),
        ),
        # one row a method, in the order of the alphabet
        PlainRow(
            name="BrainOT",
            run=_transported,
            off=partial(_transported, mass=1.0),
            random=False,
            bad=((lambda: interpret.BrainOT(mass=0.0), "mass must be"),),
        ),
        PlainRow(
            name="ChoiceSAE",
            run=partial(_dictionary, interpret.ChoiceSAE(latents=48, k=3, lr=5e-3)),
            off=partial(_dictionary, interpret.ChoiceSAE(latents=48, k=3, lr=5e-3, allocation="token")),
            bad=((lambda: interpret.ChoiceSAE(latents=2), "k must be at most"),),
        ),
        PlainRow(
            name="CLIPMoE",
            run=partial(_mixed, noise="noisy upcycling"),
            off=partial(_mixed, noise="upcycling"),
            least=1e-4,
            bad=((lambda: experts.CLIPMoE(top_k=5), "top_k at most"),),
        ),
        PlainRow(
            name="CDMoE",
            run=partial(_experts, method="CDMoE", layers=1, selector="random"),
            off=partial(_experts, method="CDMoE", layers=1, k=8, alpha="unconditional mean"),
            bad=(
                (lambda: experts.CDMoE(layers=0), "layers must be"),
                (lambda: experts.CDMoE(layers=1, memory=0.5), "would do nothing"),
            ),
        ),
        PlainRow(
            name="DSR",
            run=partial(_sparse, prune.DSR(every=4)),
            off=static,
            bad=((lambda: prune.DSR(rate=2.0), "rate"),),
        ),
        PlainRow(
            name="DASGMoE",
            run=_grouped,
            off=partial(_grouped, attention="window", dsse="plain top-k"),
            bad=((lambda: experts.DASGMoE(rho=1.5), "rho must be"),),
        ),
        PlainRow(
            name="ExpertPruning",
            run=partial(_experts, method="ExpertPruning", experts=3, score="random"),
            off=partial(_experts, method="ExpertPruning", experts=8),
            bad=((lambda: experts.ExpertPruning(memory=0.0), "memory must be"),),
        ),
        PlainRow(
            name="ExSSNeT",
            run=partial(_supermasks, prune.ExSSNeT(mask_epochs=2, weight_epochs=2)),
            off=partial(_supermasks, prune.ExSSNeT(mask_epochs=2, weight_epochs=0)),
            bad=((lambda: prune.ExSSNeT(density=0.0), "density"),),
        ),
        PlainRow(
            name="GSAE",
            run=partial(_dictionary, interpret.GSAE(latents=48, k=3, lr=5e-3)),
            off=partial(_dictionary, interpret.ChoiceSAE(latents=48, k=3, lr=5e-3, allocation="token")),
            bad=((lambda: interpret.GSAE(beta=0.0), "beta must be"),),
        ),
        PlainRow(
            name="HCSMoE",
            run=partial(_experts, method="HCSMoE", experts=3),
            off=partial(_experts, method="HCSMoE", experts=8),
            random=False,
            bad=((lambda: experts.HCSMoE(merge="mean"), "merge must be"),),
        ),
        PlainRow(
            name="IMP",
            run=_imp,
            off=partial(_imp, sparsity=0.3),
            bad=((lambda: prune.IMP(recipe=RECIPE, sparsity=1.0), "sparsity must be"),),
        ),
        PlainRow(
            name="ITOP",
            run=partial(_sparse, prune.ITOP(every=4)),
            off=static,
            bad=((lambda: prune.ITOP(every=0), "every"),),
        ),
        PlainRow(
            name="MCSMoE",
            run=partial(_experts, method="MCSMoE", experts=3),
            off=partial(_experts, method="MCSMoE", experts=8),
            random=False,
            bad=((lambda: experts.MCSMoE(experts=0), "experts must be"),),
        ),
        PlainRow(
            name="MEST",
            run=partial(_sparse, prune.MEST(every=4)),
            off=partial(_sparse, prune.StaticMask(budget=prune.Uniform(0.9))),
            bad=((lambda: prune.MEST(ratio=0.5), "ratio"),),
        ),
        PlainRow(
            name="MomentumSMoE",
            run=_momentum,
            off=partial(_momentum, mu=0.0),
            random=False,
            bad=((lambda: experts.MomentumSMoE(kind="robust", rate=0.1), "rate must be from"),),
        ),
        PlainRow(
            name="MoSA",
            run=_adapted,
            bad=((lambda: prune.MoSA(pieces=0), "pieces"),),
        ),
        PlainRow(
            name="MultiSampleDropout",
            run=_dropped,
            off=partial(_dropped, p=1e-9),
            bad=(
                (
                    lambda: optim.MultiSampleDropout(torch.nn.Linear(2, 2), p=1.0),
                    "p must be at least 0 and below 1",
                ),
            ),
        ),
        PlainRow(
            name="NAEE",
            run=partial(_experts, method="NAEE", experts=3),
            off=partial(_experts, method="NAEE", experts=8),
            random=False,
            bad=((lambda: experts.NAEE(inputs="chained"), "inputs must be"),),
        ),
        PlainRow(
            name="PASER",
            run=_chosen,
            off=partial(_chosen, allocation="uniform", concepts=None),
            bad=((lambda: prune.PASER(budget=1.5), "budget"),),
        ),
        PlainRow(
            name="ProSparse",
            run=_relu,
            off=partial(_relu, peaks=(1e-9,)),
            bad=((lambda: prune.ProSparse(peaks=()), "peaks"),),
        ),
        PlainRow(
            name="RigL",
            run=partial(_sparse, prune.RigL(every=4)),
            off=static,
            bad=((lambda: prune.RigL(until=1.5), "until"),),
        ),
        PlainRow(
            name="S3T",
            run=_sliced,
            off=partial(_sliced, lr=1e-9),
            bad=((lambda: unlearn.S3T(pretrained_on=""), "pretrained_on is empty"),),
        ),
        PlainRow(
            name="SMDL",
            run=partial(_regions, interpret.SMDL(division="grid", pieces=9, candidates=2)),
            off=partial(
                _regions, interpret.SMDL(division="grid", pieces=9, consistency=0.0, collaboration=0.0)
            ),
            bad=((lambda: interpret.SMDL(pieces=0), "pieces must be"),),
        ),
        PlainRow(
            name="SISA",
            run=_sharded,
            off=partial(_sharded, shards=1, slices=1),
            bad=((lambda: unlearn.SISA(recipe=RECIPE, shards=0), "shards must be"),),
        ),
        PlainRow(
            name="SCMoE",
            run=_contrasted,
            off=partial(_contrasted, beta=0.0),
            bad=((lambda: experts.SCMoE(alpha=0.0), "alpha must be"),),
        ),
        PlainRow(
            name="SEMoE",
            run=partial(_offloaded, slots=2),
            random=False,
            bad=((lambda: experts.SEMoE(slots=0), "slots must be"),),
        ),
        PlainRow(
            name="SET",
            run=partial(_sparse, prune.SET(every=4)),
            off=static,
            bad=((lambda: prune.SET(rate=0.0), "rate"),),
        ),
        PlainRow(
            name="StableMaxCrossEntropy",
            run=lambda rng: {"loss": optim.StableMaxCrossEntropy()(torch.eye(3), torch.arange(3))},
            off=lambda rng: {
                "loss": torch.nn.functional.cross_entropy(torch.eye(3).double(), torch.arange(3))
            },
            random=False,
            bad=((lambda: optim.StableMaxCrossEntropy(reduction="most"), "reduction"),),
        ),
        PlainRow(
            name="SubGM",
            run=_recovered,
            off=partial(_recovered, alpha=1.0),
            random=False,
            bad=((lambda: optim.SubGM(decay=1.0), "decay"),),
        ),
        PlainRow(
            name="DataEfficientAugmentation",
            run=partial(_subset, "random"),
            off=partial(_subset, "loss"),
            bad=((lambda: augment.DataEfficientAugmentation(budget=0.0), "budget"),),
        ),
        PlainRow(
            name="UOE",
            run=_one_expert,
            off=partial(_one_expert, pick="random"),
            bad=((lambda: experts.UOE(unlearn=language.NPO(lora=2)), "Leave its lora out"),),
        ),
        PlainRow(
            name="UNCURL",
            run=partial(_experts, method="UNCURL", experts=3),
            off=partial(_experts, method="ExpertPruning", experts=8),
            random=False,
            bad=((lambda: experts.UNCURL(cluster="mean"), "cluster must be"),),
        ),
        PlainRow(
            name="WorstCaseForget",
            run=_worst,
            off=partial(_worst, which="random"),
            bad=(
                (lambda: unlearn.WorstCaseForget(size=0), "size must be"),
                (lambda: unlearn.WorstCaseForget(which="random", rounds=2), "would do nothing"),
            ),
        ),
    ]


OTHERS = _rows()
