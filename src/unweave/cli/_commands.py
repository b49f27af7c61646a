"""Every command, with what it does in one line: the one visible table."""

from __future__ import annotations

COMMANDS = {
    "forget": "take data out of a trained model, and audit the result",
    "ledger": "deletion requests one after another: due dates, every model concerned, evidence",
    "erase": "take concepts out of a text-to-image pipeline, and look at what it draws",
    "generate": "draw from a text-to-image pipeline with better guidance, beside plain guidance",
    "prune": "zero or remove the weights a model needs least",
    "condense": "make a mixture of experts smaller: condense, prune or merge its experts",
    "train": "train a model with another optimiser, sparse from the start, or so that it can forget exactly",
    "compare": "several methods over several seeds: means, spreads, paired differences",
    "audit": "judge a model that was edited elsewhere",
    "explain": "look inside: what a layer's latents speak of, which regions an answer rests on",
    "uncertainty": "what a language model that learns from its prompt is unsure of: its own doubt, or the examples",
    "restore": "enlarge, complete, brighten or denoise a picture, a cube, a stack or a sound with a trained network",
    "deliver": "send a video as a small stream and networks overfitted to it, beside codecs at equal bits",
    "play": "restore the frames of a delivered video",
    "list": "every method: what it does, what it needs, whether its claim holds",
    "show": "print a run's report",
    "cite": "the papers behind a run or a method, as BibTeX",
    "cache": "the trained models that are kept between runs: what they take, what they hold, remove them",
    "doctor": "check this machine's packages, and say how to mend what is broken",
}
"""Command -> what it does; the command lives in the file of its name."""
