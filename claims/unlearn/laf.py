"""LAF forgets without labels: against fine-tuning, and what its density step and its decoder do."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from claims.effects import Effect
from claims.unlearn._tuned import KINDS, WORDS, Study
from unweave.unlearn import LAF

RATES = [(5e-5, 1e-4), (5e-5, 1e-3), (5e-4, 3e-4), *product((0.0, 5e-4, 1e-3), (1e-3, 3e-3, 1e-2))]
"""Learning rates of the density step and of the alignment step."""
BEST = {"random": LAF(lr_unlearn=1e-3, lr_align=1e-2), "class": LAF(lr_unlearn=5e-4, lr_align=3e-3)}
OTHERS = {"alignment alone": {"lr_unlearn": 0.0}, "sigmoid": {"decoder": "sigmoid"}}

study = Study(
    name="LAF",
    grid=[LAF(lr_unlearn=u, lr_align=a) for u, a in RATES],
    chosen=BEST,
    beside={
        "LAF defaults": dict.fromkeys(KINDS, LAF()),
        **{name: {kind: replace(BEST[kind], **change) for kind in KINDS} for name, change in OTHERS.items()},
    },
)
measure = study.measure
plain = study.claim(
    "Without a label, moving representations comes nearer to a retrained model than fine-tuning and than doing "
    "nothing, for random examples and for a class.",
    reported="the paper calls it comparable with methods that read labels; class 0 of CIFAR-10, ResNet-18: accuracy on "
    "the class 7.2 %, on the rest 75.8 % (79.0 % before)",
    note="Fine-tuning, the baseline, reads labels. `alignment alone` and `sigmoid` have the same rates.",
)
claim = replace(
    plain,
    effects=(
        *plain.effects,
        *(
            Effect(
                f"{WORDS[kind]}: the density step, {words}",
                better=f"{kind}: LAF", worse=f"{kind}: {other}", higher=False, headline=False,
            )
            for kind in KINDS
            for other, words in (("alignment alone", "over alignment alone"), ("sigmoid", "linear over sigmoid"))
        ),
    ),
)  # fmt: skip
