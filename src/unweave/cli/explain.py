"""`unweave explain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..catalogue import find
from ..errors import InputError
from ..jobs.explained_folders import open_image_latents, open_latents, open_regions
from ..jobs.tracking import Tracker
from ._flags import with_methods
from ._named import make
from ._parse import carried_out, named_methods, parse

EXAMPLE = """  unweave explain ./llm --layer model.layers.6 --texts corpus.txt --choice-sae.latents 2048
  unweave explain ./llm --layer model.layers.6 --texts corpus.jsonl --method g-sae --g-sae.k 8
  unweave explain ./vit --layer vit.layers.6 --images ./pets
  unweave explain ./vit --image cat.png
  unweave explain ./vit --image cat.png --target lynx --smdl.pieces 25
  unweave explain ./clip --image cat.png --classes "a photo of a cat" "a photo of a dog"

With --texts it learns directions of one layer of a language model (a sparse autoencoder, written in sae-lens' layout)
and shows the texts each speaks of, with --images those of a classifier and the patches; with --image it finds the few
regions of a picture that an answer rests on. With the true class as --target of a wrong answer it shows what would
repair it. Each method named adds its flags: add --help."""
TEXTS, IMAGE = ("choice-sae", "g-sae"), "smdl"


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Look inside a model: what directions of a layer speak of, or which regions of a picture an answer rests on.

    Attributes:
        model: folder of transformers: a causal language model for --texts, an image classifier for --images or --image,
            CLIP for --image.
        layer: by its name in named_modules (model.layers.6, vit.layers.6).
        texts: a .txt or .jsonl file for it to read; a tenth at the end is kept to measure on.
        images: folder with train and test below it and images in folders by class; the classifier reads train's.
        image: a picture for the classifier.
        method: choice-sae (the default) or g-sae for texts and images; smdl for a picture.
        target: class to explain, by number or name; what the model says unless given.
        classes: texts to choose between, for CLIP; a classifier has its own.
        length: tokens a window of text.
        latents: how many to show, the most active ones.
        top: examples of each.
        seed: governs the whole run.
        out: folder of the run, where the same command goes on; named by the settings unless given.
        tracker: also tell an experiment tracker: settings, the loss at every step, the figures at the end.
        json: print everything found as JSON.
    """

    model: tyro.conf.Positional[str]
    layer: str = ""
    texts: Path | None = None
    images: str = ""
    image: Path | None = None
    method: Literal["", "choice-sae", "g-sae", "smdl"] = ""
    target: str | None = None
    classes: tuple[str, ...] = ()
    length: int = 128
    latents: int = 20
    top: int = 5
    seed: int = 0
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Explain."""
    image = any(a.partition("=")[0] == "--image" for a in argv)
    named = named_methods(argv, ("--method",), IMAGE if image else TEXTS[0])[-1]
    known = named if named in (*TEXTS, IMAGE) else TEXTS[0]
    asked: Any = parse(with_methods(Explain, [known]), argv, command="explain", example=EXAMPLE)
    if sum(map(bool, (asked.texts, asked.images, asked.image))) != 1:
        raise InputError(
            "explain reads either --texts, for a layer of a language model, or --images, for one of a classifier, or "
            "--image, for a classifier's answer."
        )
    if (known == IMAGE) != image:
        raise InputError(
            f"--method {known} is for {'--image' if known == IMAGE else '--texts and --images'}. See: unweave list "
            "--family interpret."
        )
    method = make(find(known), asked)
    if image:
        _refuse(asked, "layer", "length", "latents", "top", beside="--image")
        job: Any = open_regions(
            asked.model, image=asked.image, method=method, target=asked.target, classes=asked.classes, seed=asked.seed
        )  # fmt: skip
    elif asked.images:
        _refuse(asked, "target", "classes", "length", beside="--images")
        job = open_image_latents(
            asked.model, layer=asked.layer, images=asked.images, method=method, latents=asked.latents, top=asked.top,
            seed=asked.seed,
        )  # fmt: skip
    else:
        _refuse(asked, "target", "classes", beside="--texts")
        job = open_latents(
            asked.model, layer=asked.layer, texts=asked.texts, method=method, length=asked.length,
            latents=asked.latents, top=asked.top, seed=asked.seed,
        )  # fmt: skip
    carried_out(
        job, asked, "explain", argv, asked.model, asked.texts or asked.images or asked.image, asked.seed
    )
    return 0


def _refuse(asked: Any, *names: str, beside: str) -> None:
    for name in names:
        if getattr(asked, name) != getattr(Explain, name):
            raise InputError(f"--{name} would do nothing beside {beside}. Leave it out.")
