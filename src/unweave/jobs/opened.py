"""What the user named, as a subject: the embedded digits, a project.py, or a transformers folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..embedded.digits import digits
from ..embedded.nets import mlp
from ..errors import InputError
from ..fit.recipe import Supervised
from ..tasks import read_labels
from .subject import Subject
from .texts import TextFiles, is_causal_lm, text_subject


@dataclass(frozen=True, kw_only=True)
class Folder:
    """How a model in a transformers folder was trained, so that it can be trained again without the forgotten data.

    Attributes:
        data: where its images are: imagefolder:PATH, with train and test (or validation) below it;
            imagefolder:PATH:holdout=SHARE draws what is held out, of a folder without test. Or its texts: a .csv or
            .jsonl file with a column `split`, or a folder with train.csv and test.csv. Of a language model a .jsonl
            file of texts, or of prompts and answers.
        epochs: passes over the data.
        lr: peak learning rate of AdamW.
        base: folder of the pretrained model that training began from; "" began at random weights, and of a language
            model is not known, so that nothing can be trained to compare with.
        init_seed: seed of the random initial weights, where it is known; un-pruning needs it, or `base`.
    """

    data: str = ""
    epochs: int = 10
    lr: float = 3e-4
    base: str = ""
    init_seed: int | None = None


def open_subject(source: str, folder: Folder | None = None, texts: TextFiles | None = None) -> Subject:
    """Open what the user named.

    Args:
        source: "" for the embedded digits, a .py file, or a transformers folder.
        folder: for a transformers folder, its data and how it was trained.
        texts: for a language model's, what else it is shown.

    Raises:
        InputError: if it is none of these, or incomplete.
    """
    if not source:
        return embedded()
    path, how = Path(source), folder or Folder()
    if path.suffix == ".py":
        return _project(path)
    if path.is_dir() and is_causal_lm(path):
        return _language(path, how, texts)
    if path.is_dir():
        return _folder(path, how)
    what = "does not exist" if not path.exists() else "is neither a .py file nor a folder"
    raise InputError(
        f"{source} {what}. Give a project.py, a folder of transformers (a classifier of images or texts, or a causal "
        "language model), or nothing for the embedded digits."
    )


def embedded() -> Subject:
    """scikit-learn's digits with pixel noise and a pruned two-layer network, all made on the spot."""
    from ..prune import Global, Prune

    train, heldout = digits()
    recipe = Supervised(
        network=partial(mlp, 64, 256, 256, 10), epochs=40, lr=0.05, init_seed=0,
        prune=Prune(budget=Global(0.9)), recover_epochs=10, recover_lr=0.05,
    )  # fmt: skip
    return Subject(
        name="scikit-learn digits, 90 % sparse two-layer network", train=train, heldout=heldout, recipe=recipe,
        class_names=tuple(str(i) for i in range(10)), columns={"digit": read_labels(train).tolist()},
    )  # fmt: skip


def _project(path: Path) -> Subject:
    from ..io.project import load_project
    from ..io.source import helpers_of

    project = load_project(path)
    return Subject(
        name=str(path), train=project.train, heldout=project.heldout, recipe=project.recipe,
        load=None if project.load is None else project.model,
        network=project.network, notes=project.notes, class_names=project.class_names, columns=project.columns,
        files={"project": path, **helpers_of(path)},
    )  # fmt: skip


def _folder(path: Path, how: Folder) -> Subject:
    from ..io.images import load_images
    from ..io.text_folder import is_text_data
    from ..io.transformers_folder import TransformersRecipe, load_model, save_model_folder

    if not how.data:
        raise InputError(
            f"{path} is a model folder; its data are missing. Give --data imagefolder:PATH for a classifier of images, "
            "--data texts.csv for one of texts."
        )
    if is_text_data(how.data):
        return _texts(path, how)
    images = load_images(how.data, path)
    recipe = TransformersRecipe(
        folder=path, epochs=how.epochs, lr=how.lr, base=how.base, init_seed=how.init_seed
    )
    return Subject(
        name=f"{path} on {how.data.partition(':')[2]} ({images.facts[0]})", notes=images.facts,
        train=images.train, heldout=images.heldout, recipe=recipe, load=load_model,
        save=lambda model, to, mask, structure=None, packed=False: save_model_folder(
            model, to, mask=mask, structure=structure, source=path, packed=packed
        ),
        ids=images.ids, class_names=images.class_names, columns=images.columns, files={"checkpoint": path}, model=path,
    )  # fmt: skip


def _language(path: Path, how: Folder, texts: TextFiles | None) -> Subject:
    if not how.data:
        raise InputError(
            f"{path} is a language model's folder; its texts are missing. Give --data texts.jsonl to forget some of "
            "them; or, to prune it, `unweave prune --calibration texts.txt`."
        )
    if how.init_seed is not None:
        raise InputError(
            "init_seed is for models whose training began at random weights; a language model has --base."
        )
    return text_subject(path, how.data, base=how.base, epochs=how.epochs, lr=how.lr, files=texts)


def _texts(path: Path, how: Folder) -> Subject:
    from ..io.text_folder import TEXTS, load_texts, tokenizer_files
    from ..io.transformers_folder import TransformersRecipe, load_model, save_model_folder

    texts = load_texts(how.data, path)
    recipe = TransformersRecipe(
        folder=path, epochs=how.epochs, lr=how.lr, base=how.base, init_seed=how.init_seed, auto=TEXTS
    )
    return Subject(
        name=f"{path} on {how.data}", train=texts.train, heldout=texts.heldout, recipe=recipe,
        load=partial(load_model, auto_class=TEXTS),
        save=lambda model, to, mask, structure=None, packed=False: save_model_folder(
            model, to, mask=mask, structure=structure, source=path, beside_weights=tokenizer_files(path),
            packed=packed,
        ),
        ids=texts.ids, class_names=texts.class_names, columns=texts.columns, notes=texts.notes, model=path,
        files={"checkpoint": path, **texts.files},
    )  # fmt: skip
