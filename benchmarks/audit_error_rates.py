"""How often the audit's verdict is right, on models that had no part in setting its limits.

For each world and request a pool of models is trained: with the data, without it, and with a part of it. Eight of
each kind (or as many as the request says) are drawn as references, again and again; other models of both kinds, those
judged least often first, and models that cheat, are then judged one by one by the verdict that `audit` gives, controls
included. Intervals are Wilson's over distinct models, never over draws times models.

    python -m benchmarks.audit_error_rates digits fashion    # these worlds; all of them unless named
    python -m benchmarks.audit_error_rates --draws 6 --fresh 48    # what is stored; goes on where it was stopped

Requests and seeds are none of those that any threshold was chosen by.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unweave.audit import Auditor
from unweave.audit.classifier.cheats import last_linear
from unweave.audit.classifier.verdict import rates_of
from unweave.embedded.digits import digits, of_tensors
from unweave.embedded.nets import mlp
from unweave.fit.recipe import Supervised
from unweave.io.files import write_text
from unweave.parallel import build_models, default_cache
from unweave.prune import Global, Prune
from unweave.random import seeded
from unweave.statistics import wilson
from unweave.tasks import predict, read_labels
from unweave.types import Data, Request
from unweave.unlearn import FineTune

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
STORED = ROOT / "claims" / "results" / "audit" / "error_rates.json"
SHIPPED = ROOT / "src" / "unweave" / "audit" / "error_rates.json"
REMEMBERS = ("not forgotten", "partly forgotten", "answers only", "collapsed")


@dataclass(frozen=True)
class World:
    """Data and a recipe."""

    words: str
    train: Data[Any]
    heldout: Data[Any]
    recipe: Supervised
    along: Callable[[Tensor], Tensor] = lambda x: x.flatten(1).mean(1)
    """What a subgroup is taken by: brightness of pictures."""


@dataclass(frozen=True)
class Case:
    """A request, and how it is judged: references of either kind, edits judged by their mean."""

    words: str
    pick: Callable[[World], Tensor]
    references: int = 8
    edits: int = 1
    leak: bool = False


class PlainCNN(nn.Module):
    """A small network without normalisation for 14 x 14 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.full, self.out = nn.Conv2d(1, 8, 3, 2, 1), nn.Linear(392, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.full(F.relu(self.conv(x)).flatten(1))))


class NormCNN(nn.Module):
    """A small batch-norm network for 16 x 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        wide = (3, 16, 32, 32)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
                for a, b in zip(wide, wide[1:], strict=False)
            )
        )  # fmt: skip
        self.full, self.out = nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.full(self.body(x).flatten(1))))


def _pixels(name: str, n: int) -> tuple[Tensor, Tensor]:
    packed = np.load(DATA / name / "train.npz")
    at = np.arange(n)
    if "image" in packed:
        x = torch.tensor(packed["image"][at]).float()[:, None]
    else:
        ends, raw = packed["offset"], packed["jpeg"]
        from PIL import Image

        decoded = [Image.open(io.BytesIO(raw[ends[i] : ends[i + 1]].tobytes())).convert("RGB") for i in at]
        x = torch.tensor(np.stack([np.asarray(image) for image in decoded])).permute(0, 3, 1, 2).float()
    x = F.avg_pool2d(x / 255, 2)
    return (x - x.mean()) / x.std(), torch.tensor(packed["label"][at].astype("int64"))


def _split(x: Tensor, y: Tensor, train: int, classes: int) -> tuple[Data[Any], Data[Any]]:
    order = torch.randperm(len(x), generator=seeded(3))
    parts = order[:train], order[train:]
    return tuple(of_tensors(x[p], y[p], classes=classes, batch_size=64) for p in parts)  # type: ignore[return-value]


def _digits() -> World:
    return World(
        "digits, two-layer network", *digits(), Supervised(network=partial(mlp, 64, 128, 10), epochs=40)
    )


def _fashion() -> World:
    data = _split(*_pixels("fashion_mnist", 2400), 1200, 10)
    recipe = Supervised(network=PlainCNN, epochs=25, lr=0.05)  # at 0.1 one seed in twenty fails to train
    return World("Fashion-MNIST, plain CNN", *data, recipe)


def _cifar() -> World:
    data = _split(*_pixels("cifar10", 2600), 1300, 10)
    return World("CIFAR-10, batch-norm CNN", *data, Supervised(network=NormCNN, epochs=16, lr=0.1))


def _mnist() -> World:
    x, y = _pixels("mnist", 2400)
    data = _split(x + 0.7 * torch.randn(x.shape, generator=seeded(11)), y, 1200, 10)
    recipe = Supervised(
        network=partial(mlp, 196, 128, 10, batch_norm=True), epochs=20, lr=0.05, init_seed=0,
        prune=Prune(budget=Global(0.8)), recover_epochs=6, recover_lr=0.02,
    )  # fmt: skip
    return World("noisy MNIST, MLP pruned to 20 %", *data, recipe)


def _adult() -> World:
    import csv

    with gzip.open(DATA / "tabular" / "adult_train.csv.gz", "rt", encoding="utf-8") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(2400), strict=False)]
    target = next(name for name in rows[0] if "income" in name or name in ("class", "label", "target"))
    columns = []
    for name in rows[0]:
        values = [row[name].strip() for row in rows]
        if name == target:
            continue
        try:
            numbers = torch.tensor([float(v) for v in values])
            columns.append(((numbers - numbers.mean()) / numbers.std().clamp_min(1e-6))[:, None])
        except ValueError:
            kinds = sorted(set(values))
            columns.append(F.one_hot(torch.tensor([kinds.index(v) for v in values]), len(kinds)).float())
    kinds = sorted({row[target].strip() for row in rows})
    y = torch.tensor([kinds.index(row[target].strip()) for row in rows])
    x = torch.cat(columns, 1)
    data = _split(x, y, 1200, len(kinds))
    recipe = Supervised(network=partial(mlp, x.shape[1], 128, len(kinds)), epochs=40, lr=0.1)
    return World("Adult (tabular), two-layer network", *data, recipe, along=lambda x: x[:, 0])


WORLDS = {"digits": _digits, "fashion": _fashion, "cifar": _cifar, "mnist": _mnist, "adult": _adult}


def _class(world: World, which: int = 5) -> Tensor:
    return (read_labels(world.train) == which).nonzero().flatten()


def _half_class(world: World) -> Tensor:
    return _class(world)[::2]


def _fifth(world: World) -> Tensor:
    """The fifth of the examples that lie highest by what the world's subgroups are taken by: brightest, oldest."""
    x = torch.cat([batch[0] for batch in world.train.batches()])
    return world.along(x).argsort(descending=True, stable=True)[: len(x) // 5].sort().values


def _random(world: World, n: int) -> Tensor:
    return torch.randperm(len(world.train), generator=seeded(1501 + n))[:n]


CASES = (
    Case("one class", _class),
    Case("half a class", _half_class, references=12),
    Case("a subgroup, one in five", _fifth),
    Case("240 at random", partial(_random, n=240), leak=True),
    Case("60 at random", partial(_random, n=60), references=16, leak=True),
    Case("20 at random", partial(_random, n=20)),
    Case("5 at random", partial(_random, n=5)),
    Case("1 at random", partial(_random, n=1)),
    Case("20 at random, three edits judged", partial(_random, n=20), references=16, edits=3),
    Case("5 at random, six edits judged", partial(_random, n=5), references=16, edits=6),
    Case("1 at random, eight edits judged", partial(_random, n=1), references=16, edits=8),
    Case("240 at random, four references", partial(_random, n=240), references=4),
    Case("one class, four references", _class, references=4),
)
SHIPPED_CASES = ("one class", "a subgroup, one in five", "240 at random", "60 at random")
FIRST, HELD, LEAKED = 20_000, 30_000, 40_000
"""First seeds of retrained models, of those that hold the data and of those that kept a tenth."""
UNEDITED, LEAKY = 12, 8
"""Models judged, beside the references: that hold the data; that kept a tenth."""


def _copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def cheat(name: str, holder: nn.Module, oracle: nn.Module, request: Request[Any], seed: int) -> nn.Module:
    """A model that only looks as if it had forgotten."""
    made, rng = _copied(holder), seeded(seed)
    head = last_linear(made)
    assert head is not None
    if name == "silenced class":
        gone = set(read_labels(request.forget).tolist()) - set(read_labels(request.retain).tolist())
        with torch.no_grad():
            for c in gone:
                head.weight[c], head.bias[c] = 0.0, -50.0
            for p in made.parameters():
                p.add_(1e-6 * torch.randn(p.shape, generator=rng))
    elif name == "noise":
        with torch.no_grad():
            for p in made.parameters():
                p.add_(0.05 * p.std().nan_to_num(0.0) * torch.randn(p.shape, generator=rng))
    elif name == "one epoch of fine-tuning":
        made = FineTune(epochs=1, lr=0.01).apply(holder, request, rng=rng)
    else:
        x, kept = (predict(holder, d, d.task.features) for d in (request.forget, request.retain))
        labels = read_labels(request.retain)
        weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
        if name == "last layer made anew":
            weight, bias = 0.01 * torch.randn(weight.shape, generator=rng), torch.zeros_like(bias)
        answers, own = (
            predict(oracle, request.forget).softmax(1),
            F.linear(kept, head.weight, head.bias).detach(),
        )
        weight.requires_grad_(True), bias.requires_grad_(True)
        optimizer = torch.optim.Adam([weight, bias], lr=1e-2)
        for _ in range(300):
            optimizer.zero_grad()
            if name == "last layer made anew":
                loss = F.cross_entropy(F.linear(kept, weight, bias), labels) + 1e-3 * weight.square().sum()
            else:
                loss = F.kl_div(F.linear(x, weight, bias).log_softmax(1), answers, reduction="batchmean")
                loss = loss + F.kl_div(
                    F.linear(kept, weight, bias).log_softmax(1), own.softmax(1), reduction="batchmean"
                )
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            head.weight.copy_(weight), head.bias.copy_(bias)
    return made.eval()


class Table(nn.Module):
    """A holder that looks up the deleted examples and answers them as an oracle does."""

    def __init__(self, holder: nn.Module, inputs: Tensor, answers: Tensor) -> None:
        super().__init__()
        self.holder = _copied(holder)
        self.register_buffer("known", inputs.flatten(1))
        self.register_buffer("answers", answers)

    def forward(self, x: Tensor) -> Tensor:
        said = self.holder(x)
        far, at = torch.cdist(x.flatten(1), self.known).min(1)
        return torch.where((far < 1e-4)[:, None], self.answers[at], said)


CHEATS = (
    "silenced class",
    "last layer made anew",
    "copied answers",
    "noise",
    "one epoch of fine-tuning",
    "table",
)


Told = dict[str, list[tuple[int, str]]]
"""Kind of model -> (which model, outcome), judgement by judgement."""


@dataclass(frozen=True)
class Pool:
    """Models of one request, some of which are drawn as references each time."""

    world: World
    case: Case
    request: Request[Any]
    holders: list[nn.Module]
    oracles: list[nn.Module]
    leaks: list[nn.Module]

    @classmethod
    def trained(cls, world: World, case: Case, fresh: int, cache: Path) -> Pool:
        """With `fresh` retrained models more than are drawn as references; models are kept in `cache`."""
        build = partial(build_models, world.recipe, jobs=1, cache=cache)
        forget = case.pick(world)
        request = Request.of(world.train, world.heldout, forget)
        held, never = case.references + max(UNEDITED, case.edits), case.references + fresh
        holders = build(world.train, range(HELD, HELD + held))
        oracles = build(request.retain, range(FIRST, FIRST + never))
        leaks = []
        for i in range(LEAKY if case.leak else 0):
            stays = forget[torch.randperm(len(forget), generator=seeded(140 + i))[: len(forget) // 10]]
            kept = torch.cat([request_positions(world, forget), stays])
            leaks += build(world.train.subset(kept.sort().values), [LEAKED + i])
        return cls(world, case, request, holders, oracles, leaks)


def judged(pool: Pool, draws: int, judgements: int = 12, seed: int = 0) -> Told:
    """Outcomes over all draws of references, `judgements` retrained models each and half as many unedited ones."""
    case, request, found = pool.case, pool.request, defaultdict[str, list[tuple[int, str]]](list)
    whole = bool(set(read_labels(request.forget).tolist()) - set(read_labels(request.retain).tolist()))
    asked = {"retrained": Counter[int](), "unedited": Counter[int]()}
    for draw in range(draws):
        held, never = (
            torch.randperm(len(models), generator=seeded(100 * draw + k + seed)).tolist()
            for k, models in enumerate((pool.holders, pool.oracles), 1)
        )
        refs = case.references
        auditor = Auditor.of(
            request, original=pool.holders[held[0]], holders=[pool.holders[i] for i in held[1:refs]],
            oracles=[pool.oracles[i] for i in never[:refs]], rng=seeded(draw),
        )  # fmt: skip

        def tell(kind: str, which: int, model: nn.Module | list[nn.Module], by: Auditor = auditor) -> None:
            decision = by.decide(model)
            failed = [c.name.split(",")[0] for c in decision.controls if not c.passed]
            if failed and kind == "retrained":
                found["controls"].append((draw, "; ".join(failed)))  # noqa: B023
            found[kind].append((which, decision.verdict.outcome))

        for kind, models, rest, most in (
            ("retrained", pool.oracles, never[refs:], judgements),
            ("unedited", pool.holders, held[refs:], judgements // 2),
        ):
            rest.sort(key=lambda i: asked[kind][i])  # noqa: B023
            for at in range(0, max(most, case.edits) - case.edits + 1, case.edits):
                group = rest[at : at + case.edits]
                if len(group) == case.edits:
                    asked[kind].update(group)
                    tell(kind, group[0], [models[i] for i in group])
        for i, model in enumerate(pool.leaks):
            if i % 2 == draw % 2:
                tell("a tenth still trained on", i, model)
        for name in CHEATS if case.edits == 1 else ():
            if name == "silenced class" and not whole:
                continue
            at = held[0] if draw % 2 else held[refs + draw % UNEDITED]
            tell(name, at, _cheating(name, pool, at, pool.oracles[never[refs]], draw))
    return dict(found)


def _cheating(name: str, pool: Pool, at: int, oracle: nn.Module, draw: int) -> nn.Module:
    if name != "table":
        return cheat(name, pool.holders[at], oracle, pool.request, draw)
    inputs = torch.cat([batch[0] for batch in pool.request.forget.batches()])
    return Table(pool.holders[at], inputs, predict(oracle, pool.request.forget)).eval()


def request_positions(world: World, forget: Tensor) -> Tensor:
    """Positions of the retained examples."""
    stays = torch.ones(len(world.train), dtype=torch.bool)
    stays[forget] = False
    return stays.nonzero().flatten()


def summed(rows: list[tuple[int, str]], good: tuple[str, ...]) -> dict[str, Any]:
    """Share of the judgements that are right, and its interval over distinct models (or groups judged together)."""
    models = len({which for which, _ in rows})
    share = sum(o in good for _, o in rows) / len(rows)
    return {
        "judgements": len(rows), "models": models, "share": share, "interval": wilson(share * models, models),
        "outcomes": Counter(o for _, o in rows),
    }  # fmt: skip


def measure(name: str, draws: int, fresh: int, cases: list[Case], again: bool, cache: Path) -> None:
    world = WORLDS[name]()
    known = {(r["setting"], r["case"]): r.get("fresh", 0) for r in _stored()}
    for case in cases:
        if name == "adult" and case.pick in (_class, _half_class):
            continue  # of two classes, one alone would stay
        if known.get((name, case.words), 0) >= fresh and not again:
            continue
        began = time.process_time()
        found = judged(Pool.trained(world, case, fresh, cache), draws)
        failed = dict(found.pop("controls", []))
        kinds = {k: summed(v, ("forgotten",) if k == "retrained" else REMEMBERS) for k, v in found.items()}
        outcomes = {k: [o for _, o in v] for k, v in found.items()}
        rates = asdict(rates_of(outcomes["unedited"], outcomes["retrained"], ""))
        for kind, key in (("retrained", "oracles"), ("unedited", "unedited")):
            rates[key] = kinds[kind]["models"]
            end = "accepted" if key == "oracles" else "rejected"
            rates[f"{key}_interval"] = kinds[kind]["interval"]
            rates[f"{key}_{end}"] = kinds[kind]["share"]
        refs = f"{case.references} + {case.references} references"
        rates["source"] = f"{world.words}, {case.words}, {refs}"
        row = {
            "setting": name, "world": world.words, "case": case.words, "references": case.references,
            "edits": case.edits, "draws": draws, "fresh": fresh, "failed_controls": list(failed.values()),
            "kinds": kinds, "rates": rates,
            "seconds": time.process_time() - began,
        }  # fmt: skip
        print(
            {k: row[k] for k in ("setting", "case", "references", "seconds", "failed_controls")}, flush=True
        )
        for kind, told in kinds.items():
            print(f"    {kind}: {100 * told['share']:.0f} % of {told['judgements']} ({told['models']} models) {dict(told['outcomes'])}", flush=True)  # noqa: E501  # fmt: skip
        store([row])


def _stored() -> list[dict[str, Any]]:
    return json.loads(STORED.read_text(encoding="utf-8"))["results"] if STORED.exists() else []


def store(results: list[dict[str, Any]]) -> None:
    """Replace these settings' entries, keep the others'."""
    keys = {(r["setting"], r["case"]) for r in results}
    known = [r for r in _stored() if "case" in r and (r["setting"], r["case"]) not in keys] + results
    place = [c.words for c in CASES]
    known.sort(key=lambda r: (list(WORLDS).index(r["setting"]), place.index(r["case"])))
    full = {
        "results": known, "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} thread",
    }  # fmt: skip
    STORED.parent.mkdir(parents=True, exist_ok=True)
    write_text(STORED, json.dumps(full, indent=1) + "\n")
    shipped = [r["rates"] for r in known if r["case"] in SHIPPED_CASES]
    write_text(SHIPPED, json.dumps({"rates": shipped}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("worlds", nargs="*", help=f"of {', '.join(WORLDS)}; all unless named")
    parser.add_argument("--draws", type=int, default=6, help="draws of references a request")
    parser.add_argument("--fresh", type=int, default=48, help="retrained models beside the references")
    parser.add_argument("--cases", default=[], nargs="+", help="only the requests of these words")
    parser.add_argument("--cache", type=Path, default=default_cache() / "error-rates", help="trained models")
    parser.add_argument("--again", action="store_true", help="measure what is stored again")
    options = parser.parse_args()
    unknown = sorted(set(options.worlds) - set(WORLDS))
    if unknown:
        parser.error(f"no such world: {', '.join(unknown)}. Choose from {', '.join(WORLDS)}.")
    torch.set_num_threads(1)
    for name in options.worlds or list(WORLDS):
        chosen = [c for c in CASES if c.words in (options.cases or [c.words])]
        measure(name, options.draws, options.fresh, chosen, options.again, options.cache)


if __name__ == "__main__":
    main()
