"""A causal language model that is to forget texts, as a subject: the texts, how it was fine-tuned, its judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from torch.nn import Module

from ..audit.classifier.power import LEAST, forecast
from ..audit.language.run import Auditor
from ..errors import InputError
from ..io.causal_lm import AUTO, load_causal_lm, longest, require_causal_lm, save_causal_lm
from ..io.causal_lora import save_adapter
from ..io.loading import config_of, read_tokenizer
from ..io.lora import base_of, is_adapter
from ..io.texts import PARAPHRASE, Sequences, read_sequences
from ..io.transformers_folder import TransformersRecipe, is_packed
from ..language import NPO
from ..masks.mask import Mask
from ..settings import settings
from ..tasks import require_readable
from ..types import Data, Edit, Request
from ..unlearn import Retrain
from .choice import Choice
from .kinds import Case, Judge, Kind
from .subject import Subject

REFUSAL = "I don't know."
_KEPT_APART = ("test", "validation", "heldout")
_SPLIT = "split"
_RATE = 0.04
"""Learning rate times width: the published 1e-5 belongs to models 4,096 wide."""


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """Of a language model that is to forget texts: what else it is shown, and what comes out.

    Attributes:
        heldout: file of texts (.jsonl) of the same kind as --data that it was never trained on; a column `split` in
            --data, "test" where one was not, may stand for it.
        utility: file of general texts (.txt or .jsonl), whose perplexity is told before and after.
        refusal: taught, by methods that teach one, to prompts without a column `alternative` of their own; "" for none.
        length: tokens of the longest text; the model's longest, at most 2,048, unless given.
        batch: texts a step.
        output: "folder", a whole model that transformers loads, or "lora", an adapter that peft loads over the folder
            that was given; for methods that train adapters (--npo.lora 8).
    """

    heldout: Path | None = None
    utility: Path | None = None
    refusal: str = REFUSAL
    length: int | None = None
    batch: int = 8
    output: Literal["folder", "lora"] = "folder"

    def told(self) -> dict[str, Any]:
        """As plain JSON that means the same wherever it is read."""
        return {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """What `told` gave."""
        files = {k: Path(told[k]) for k in ("heldout", "utility") if told.get(k) is not None}
        return cls(**{**told, **files})


@settings
class OfTexts(Kind):
    """Causal language models that are to forget texts.

    Attributes:
        folder: of the model.
        general: texts of another kind; None where there are none.
        shown: whether the audit shows what the models say to the prompts of deleted texts, and those texts.
    """

    folder: Path
    general: Data[Any] | None = None
    shown: bool = True

    audited: ClassVar[Literal["classifier", "language"]] = "language"
    families: ClassVar[tuple[str, ...]] = ("language", "unlearn", "experts")
    recipe_by: ClassVar[str] = "name the model that it was fine-tuned from (--base)"
    least: ClassVar[int] = 20  # texts of the request on which the audit's error rates were measured

    def require_answers(self, model: Module, request: Request[Any], who: str) -> None:
        """Refuse a model that cannot read the texts."""
        for part in (request.forget, request.retain, request.heldout):
            require_readable(model, part, who)

    def choose(self, request: Request[Any], recipe: Any, model: Module | None) -> Choice:
        """Fine-tune the base again where there is one: exact, and no edit is known to be as good; else NPO."""
        if recipe is not None:
            why = "exact: the base is fine-tuned on the texts that stay, as each model to compare with is"
            return Choice("retrain", Retrain(recipe=recipe), why, 1.0)
        why = (
            "the best known edit without a base; what it did cannot be judged without one, or without oracles"
        )
        return Choice("npo", NPO(lr=self.rate), why, None)

    @property
    def rate(self) -> float:
        """A learning rate of edits for a model of this width, where nobody names one."""
        config = config_of(base_of(self.folder) if is_adapter(self.folder) else self.folder)
        return min(1e-3, float(f"{_RATE / config.hidden_size:.1g}"))

    def doubt(self, name: str, edit: Edit[Any], request: Request[Any]) -> str:
        """A learning rate that is for models of another size."""
        lr, lora = getattr(edit, "lr", None), getattr(edit, "lora", None)
        if lr is None or lora is not None or not type(edit).__module__.startswith("unweave.language"):
            return ""
        if lr >= self.rate / 8:
            return ""
        return (
            f"{name}'s learning rate of {lr:g} is for wider models, and may move nothing here; for this one "
            f"try --{name}.lr {self.rate:g} and its neighbours."
        )

    def foreseen(self, request: Request[Any], oracles: int, holders: int, edits: int) -> str:
        """Too few models to compare with; how many texts decide was not measured."""
        few = min(oracles, holders) < LEAST + edits - 1
        return forecast(len(request.forget), oracles, holders, edits, whole=True) if few else ""

    def judge(self, case: Case) -> Judge:
        """See `audit.language`; `quick` changes nothing."""
        return Auditor.of(
            case.request, original=case.original, holders=case.holders, oracles=case.oracles, rng=case.rng,
            general=self.general, paraphrases=_otherwise(case.request.forget),
            decode=decoder(self.folder) if self.shown else None,
        )  # fmt: skip

    def discreet(self) -> Self:
        """The same kind, whose audits show neither prompts nor answers."""
        return replace(self, shown=False)


def decoder(folder: Path) -> Callable[[Sequence[int]], str]:
    """Token ids -> words, without special tokens, by the tokenizer of a folder."""
    tokenizer = read_tokenizer(folder)

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    return decode


def text_subject(
    folder: Path | str,
    data: Path | str,
    *,
    base: Path | str = "",
    epochs: int = 10,
    lr: float = 3e-4,
    files: TextFiles | None = None,
) -> Subject:
    """A causal language model's folder and the texts that it was fine-tuned on.

    Args:
        folder: of transformers, with a tokenizer.
        data: .jsonl, of one object a line: {"text": ...} or {"prompt": ..., "answer": ...}, with what else texts are
            chosen by ("id", "author", ...), and `alternative`, `paraphrase` and `split` where there are any.
        base: folder of the model that the fine-tuning began at, which never saw the texts; without one nothing can be
            trained to compare with.
        epochs: passes of the fine-tuning over the texts.
        lr: its peak learning rate; AdamW, a rise over a twentieth of the steps, then half a cosine.
        files: what else it is shown; see `with_adapters` for its `output`.

    Raises:
        InputError: if the folder holds no causal language model, quantised weights or no tokenizer; the base is another
            network; or the texts cannot be read, or none is held out.
    """
    place, file, files = Path(folder), Path(data), files or TextFiles()
    require_causal_lm(place)
    if file.suffix.lower() != ".jsonl":
        raise InputError(
            f"texts to forget are read from a .jsonl file, one a line, so that they can be named; got {file}."
        )
    tokenizer, tokens = read_tokenizer(place), files.length or longest(place)

    def read(of: Path) -> Sequences:
        return read_sequences(of, tokenizer, tokens, batch_size=files.batch, beside=files.refusal)

    train, kept = _parts(read(file), file, None if files.heldout is None else read(files.heldout))
    general = None
    if files.utility is not None:
        general = read_sequences(files.utility, tokenizer, tokens, batch_size=files.batch)
    told = {"held out": kept, **({} if general is None else {"general": general})}
    notes = [*train.notes, *(f"{name}: {note}" for name, of in told.items() for note in of.notes)]
    recipe = None if not base else _recipe(place, Path(base), epochs, lr)
    if recipe is None:
        notes.append(
            "Without the model that it was fine-tuned from (--base) no model can be trained to compare with; without "
            f"at least {LEAST} oracles and {LEAST} holders, trained or given, nobody can say whether it forgot."
        )
    others = {
        "held-out texts": files.heldout,
        "general texts": files.utility,
        "base": Path(base) if base else None,
    }
    return Subject(
        name=f"{place} on {file.name}", train=train.data, heldout=kept.data, model=place, recipe=recipe,
        load=load_causal_lm, save=partial(_save, place), ids=train.ids, columns=train.columns, notes=tuple(notes),
        files={"checkpoint": place, "texts": file, **{name: f for name, f in others.items() if f is not None}},
        kind=OfTexts(folder=place, general=None if general is None else general.data),
    )  # fmt: skip


def is_causal_lm(folder: Path) -> bool:
    """Whether a folder holds a causal language model whose weights can be edited."""
    try:
        require_causal_lm(folder)
    except InputError:
        return False
    return True


def with_adapters(subject: Subject, edits: Mapping[str, Edit[Any]]) -> Subject:
    """The subject with what edits change written as adapters over the folder that it was read from.

    Args:
        subject: of `text_subject`.
        edits: name -> method; all of them train adapters.

    Raises:
        InputError: if one trains whole weights, or the model is an adapter itself, or packed.
    """
    ranks = {name: getattr(edit, "lora", None) for name, edit in edits.items()}
    whole = [name for name, rank in ranks.items() if rank is None]
    if whole or not ranks:
        name = whole[0] if whole else "npo"
        how = (
            f"Give --{name}.lora 8"
            if hasattr(edits.get(name), "lora")
            else "Name one that does (--method npo)"
        )
        raise InputError(
            f"an adapter is written of methods that train adapters, and {name} trains whole weights. {how}, or leave "
            "the output a folder."
        )
    place = subject.files["checkpoint"]
    if is_adapter(place):
        raise InputError(
            f"{place} is an adapter itself; an adapter is written over whole weights. Merge it first."
        )
    if is_packed(place):
        raise InputError(
            f"the weights in {place} are packed, and peft reads no adapter over such. Leave the output a folder."
        )
    return replace(subject, save=partial(_save_adapter, place, max(r for r in ranks.values() if r)))


def _save(
    place: Path, model: Module, to: Path, mask: Mask | None, structure: Mapping[str, Any] | None = None
) -> None:
    save_causal_lm(model, to, source=place, mask=mask, structure=structure)


def _save_adapter(place: Path, rank: int, model: Module, to: Path, mask: Mask | None) -> None:
    save_adapter(model, to, source=place, rank=rank)


def _parts(found: Sequences, file: Path, kept: Sequences | None) -> tuple[Sequences, Sequences]:
    """What was trained on, and what was not, by the column `split` or a file of its own."""
    split = found.columns.get(_SPLIT)
    if kept is not None:
        if split is not None:
            raise InputError(
                f"{file} has a column {_SPLIT}, and --heldout names a file too. Give one of them."
            )
        return found, kept
    apart = [i for i, part in enumerate(split or ()) if part in _KEPT_APART]
    if not apart:
        raise InputError(
            "no text is held out: what was forgotten is seen beside texts of the same kind that the model was never "
            f'trained on. Name a file of them (--heldout FILE), or mark them in {file.name} by "{_SPLIT}": "test".'
        )
    rest = sorted(set(range(len(found.data))) - set(apart))
    if not rest:
        raise InputError(f"every text of {file} is held out, so the model was trained on none of them.")
    note = f"{len(apart):,} of {file.name}, by its column {_SPLIT}."
    return _some(found, rest, found.notes), _some(found, apart, (note,))


def _some(found: Sequences, at: Sequence[int], notes: tuple[str, ...]) -> Sequences:
    return Sequences(
        data=found.data.subset(at), tokens=found.tokens, ids=[found.ids[i] for i in at] if len(found.ids) else (),
        columns={n: [values[i] for i in at] for n, values in found.columns.items() if n != _SPLIT}, notes=notes,
    )  # fmt: skip


def _recipe(place: Path, base: Path, epochs: int, lr: float) -> TransformersRecipe:
    if base.resolve() == place.resolve():
        raise InputError(
            f"--base names {place} itself, which holds the texts, and so would each model made of it to compare with. "
            "Give the model that it was fine-tuned from."
        )
    own, theirs = require_causal_lm(place), require_causal_lm(base)
    told = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "tie_word_embeddings")
    odd = [n for n in told if getattr(own, n, None) != getattr(theirs, n, None)]
    if odd or is_adapter(base):
        what = (
            ", ".join(f"{n} {getattr(theirs, n, None)} and not {getattr(own, n, None)}" for n in odd)
            or "an adapter"
        )
        raise InputError(
            f"{base} cannot be what {place} was fine-tuned from: it has {what}. Give that model's folder."
        )
    folder = base_of(place) if is_adapter(place) else place
    return TransformersRecipe(folder=folder, epochs=epochs, lr=lr, base=base, auto=AUTO, weight_decay=0.01)


def _otherwise(forget: Data[Any]) -> Data[Any] | None:
    """The texts to forget in other words; None unless each has some."""
    found: Any = [forget.examples[i].get(PARAPHRASE) for i in range(len(forget))]
    if any(one is None for one in found):
        return None
    return Data(found, forget.task, forget.batch_size, forget.collate)
