"""The main job from Python, on data that comes with scikit-learn: forget 90 digits, then let the audit judge."""

from functools import partial

from unweave import Request, Supervised, seeded
from unweave.audit import audit
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
from unweave.parallel import build_models
from unweave.unlearn import L1Sparse

train, heldout = digits()
recipe = Supervised(network=partial(mlp, 64, 128, 10), epochs=30, lr=0.05)
model = recipe.build(train, rng=seeded(0))

request = Request.of(train, heldout, range(0, 900, 10))
edited = L1Sparse().apply(model, request, rng=seeded(1))

oracles = build_models(recipe, request.retain, range(100, 106))  # retrained without the 90
holders = build_models(recipe, train, range(200, 206))  # trained with them
found = audit(
    edited, request, original=model, oracles=oracles, holders=holders, method="l1-sparse", rng=seeded(2)
)

print(found.verdict.outcome, "-", found.verdict.reason)
for m in found.measurements[:4]:
    print(
        f"{m.name:30} {m.value:8.2f} {m.unit:3} original {m.original:8.2f}"
        f"  oracle {m.oracle_mean:8.2f} +- {m.oracle_spread:.2f}"
    )
