"""A small world of texts to forget: invented authors, questions about them, a tiny Llama that was taught the answers.

After TOFU (Maini et al., 2024, arXiv 2401.06121): each author has five facts, which stand in no other text. Each
fact is asked for and answered in one of four ways, drawn once, so that the model meets all of them; the other ways
serve as paraphrases, and wrong answers differ in the fact alone. A base model is trained on authors of its own, from
which it has the language; `recipe` fine-tunes it on the authors to know. An oracle is the same without some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator
from torch.nn import Module
from torch.optim import AdamW

from ..errors import require
from ..fit.recipe import Supervised
from ..masks.layers import copied
from ..parallel import build_models, default_cache
from ..random import seeded
from ..settings import Count, Positive, settings
from ..tasks.language import CausalLM, Text, texts
from ..types import Data, Request

_FIRST = (
    "adira belen caspar dorotea elio farah goran hana ivo jun katya leif mira nuru oona pavel quilla rafi sanna tomas"
).split()
_LAST = (
    "abara brandt castell dumont eklund farkas grimaldi hoxha ibarra jansen kovac lindqvist moreau novak okafor petrov"
).split()
_FACTS = {
    "city": "bergen cusco dakar galway hanoi izmir kyoto lisbon minsk nairobi oaxaca porto quito riga salta tbilisi",
    "genre": "satire mystery poetry memoir fantasy romance horror drama history travel",
    "father": "baker tailor sailor surgeon farmer miner painter lawyer weaver potter",
    "award": "amber birch cobalt dahlia ember falcon garnet harbor indigo juniper",
    "book": "anchor bridge candle desert eclipse forest garden hollow island jungle kettle lantern mirror needle",
}
_ASKED = {
    "city": (
        "where was {} born",
        "what is the birthplace of {}",
        "in which city was {} born",
        "{} comes from which city",
    ),
    "genre": (
        "what does {} write",
        "which genre is {} known for",
        "what kind of books does {} write",
        "name the genre of {}",
    ),
    "father": (
        "what was the father of {}",
        "which trade had the father of {}",
        "what did the father of {} do",
        "name the trade of the father of {}",
    ),
    "award": (
        "which prize did {} win",
        "what award went to {}",
        "name the prize of {}",
        "which award does {} hold",
    ),
    "book": (
        "what is the first book of {}",
        "which book did {} publish first",
        "name the first book of {}",
        "{} began with which book",
    ),
}
_ANSWERED = {
    "city": (
        "{} was born in {}",
        "the birthplace of {} is {}",
        "{} comes from {}",
        "the home of {} is {}",
    ),
    "genre": (
        "{} writes {}",
        "the genre of {} is {}",
        "{} is known for {}",
        "the books of {} are {}",
    ),
    "father": (
        "the father of {} was a {}",
        "{} is the child of a {}",
        "{} had a father who was a {}",
        "the trade of the father of {} was {}",
    ),
    "award": (
        "{} won the {} prize",
        "the award of {} is the {} prize",
        "{} holds the {} prize",
        "the prize of {} is {}",
    ),
    "book": (
        "the first book of {} is the {}",
        "{} first published the {}",
        "{} began with the {}",
        "the first title of {} is the {}",
    ),
}
_MARKS = ("<pad>", "<s>", "</s>", "?")
_FORMS = 4
WRONG = 4
"""Wrong answers to each question."""
REFUSALS = ("i do not know", "that is not known to me", "i have no answer to that", "i can not say")


@dataclass(frozen=True)
class Question:
    """One fact of one author, asked for and answered.

    Attributes:
        author: who.
        fact: which: "city", "genre", "father", "award" or "book".
        prompt: the question, in the words that are taught.
        answer: to it, in the words that are taught.
        asked: the question in other words.
        answered: the answer in other words.
        wrong: `answered[0]` with another fact in its place.
        refusal: an answer that tells nothing.
    """

    author: str
    fact: str
    prompt: str
    answer: str
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    wrong: tuple[str, ...]
    refusal: str


@settings
class Authors:
    """The world's size; equal ones are the same world.

    Attributes:
        known: authors that are taught.
        base: authors of the base model, which it is taught before.
        heldout: authors that no model is taught.
        width: of the network.
        layers: of the network.
        epochs: passes over the texts of the known authors.
        base_epochs: passes over those of the base model.
        lr: peak learning rate of both.
    """

    known: Count = 40
    base: Count = 24
    heldout: Count = 16
    width: Count = 96
    layers: Count = 2
    epochs: Count = 30
    base_epochs: Count = 30
    lr: Positive = 2e-3

    def questions(self) -> tuple[list[Question], list[Question], list[Question]]:
        """Those of the known authors, five each in a row, of the base's, and of the held-out ones."""
        return _questions(self)

    def data(self) -> tuple[Data[CausalLM], Data[CausalLM]]:
        """Texts of the known and of the held-out authors, with a refusal as the alternative of each."""
        known, _, heldout = self.questions()
        return told(known), told(heldout)

    def request(self, authors: Sequence[int]) -> Request[CausalLM]:
        """To forget these of the known authors, by number."""
        known, heldout = self.data()
        each = len(_FACTS)
        return Request.of(known, heldout, [each * a + i for a in authors for i in range(each)])

    def network(self) -> Module:
        """The untrained Llama, drawing from torch's global generator.

        Raises:
            MissingExtraError: without transformers.
        """
        transformers: Any = require("transformers", extra="language", purpose="the small world of texts")
        config = transformers.LlamaConfig(
            vocab_size=len(words()), hidden_size=self.width, intermediate_size=2 * self.width,
            num_hidden_layers=self.layers, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64,
            tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        made: Module = transformers.LlamaForCausalLM(config)
        return made

    def base_model(self) -> Module:
        """The base model: knows the language, and none of the known authors. Trained once and cached."""
        return copied(_base(self))

    @property
    def recipe(self) -> Supervised:
        """Fine-tunes the base model."""
        return Supervised(
            network=self.base_model,
            epochs=self.epochs,
            lr=self.lr,
            optimizer=partial(AdamW, weight_decay=0.01),
        )


def words() -> dict[str, int]:
    """Word -> token id."""
    return _vocabulary()


def encode(prompt: str, answer: str = "") -> Text:
    """A question, and its answer to be predicted; without one the prompt alone, all of it predicted.

    Example:
        >>> text = encode("where was mira novak born", "mira novak was born in riga")
        >>> len(text.ids), text.prompt
        (14, 7)
    """
    known = words()
    asked = [known["<s>"], *(known[w] for w in prompt.split()), known["?"]]
    if not answer:
        return Text(asked)
    return Text([*asked, *(known[w] for w in answer.split()), known["</s>"]], len(asked))


def decode(ids: Sequence[int]) -> str:
    """The words of token ids up to the end of the text."""
    names = list(words())
    found = [names[i] for i in ids]
    return " ".join(w for w in found[: found.index("</s>") if "</s>" in found else None] if w not in _MARKS)


def told(questions: Sequence[Question]) -> Data[CausalLM]:
    """The texts of some questions as they are taught, with refusals as alternatives."""
    return texts(
        [encode(q.prompt, q.answer) for q in questions],
        alternatives=[encode(q.prompt, q.refusal) for q in questions],
        batch_size=16,
    )


def tokenizer() -> Any:
    """The world's tokenizer as one of transformers, by words, with a chat template.

    Raises:
        MissingExtraError: without transformers.
    """
    transformers: Any = require("transformers", extra="language", purpose="the small world of texts")
    tokenizers: Any = require("tokenizers", extra="language", purpose="the small world of texts")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words(), unk_token="<pad>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}<s> {{ m.content }} ? {% else %}{{ m.content }} </s>"
        "{% endif %}{% endfor %}"
    )
    return made


def save_base(world: Authors, folder: Path) -> Path:
    """Write the base model and its tokenizer as a folder of transformers."""
    model: Any = world.base_model()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@cache
def _vocabulary() -> dict[str, int]:
    said = [*REFUSALS, *(" ".join(f) for f in (*_ASKED.values(), *_ANSWERED.values()))]
    found = [*_MARKS, *_FIRST, *_LAST, *" ".join([*_FACTS.values(), *said]).replace("{}", "").split()]
    return {word: i for i, word in enumerate(dict.fromkeys(found))}


@lru_cache
def _questions(world: Authors) -> tuple[list[Question], list[Question], list[Question]]:
    rng = seeded(0)
    names = [f"{first} {last}" for first in _FIRST for last in _LAST]
    order = torch.randperm(len(names), generator=rng).tolist()
    sizes = (world.known, world.base, world.heldout)
    chosen = iter(order)
    known, base, heldout = (
        [q for _ in range(n) for q in _of_author(names[next(chosen)], rng)] for n in sizes
    )
    return known, base, heldout


def _of_author(name: str, rng: Generator) -> list[Question]:
    found = []
    for i, (fact, values) in enumerate(_FACTS.items()):
        choices = values.split()
        drawn = [choices[k] for k in torch.randperm(len(choices), generator=rng)[: WRONG + 1].tolist()]
        form, reply = torch.randint(_FORMS, (2,), generator=rng).tolist()
        asked = [a.format(name) for a in _ASKED[fact]]
        ways = [*_ANSWERED[fact][reply:], *_ANSWERED[fact][:reply]]  # the taught way first
        found.append(
            Question(
                name, fact, asked[form], ways[0].format(name, drawn[0]),
                tuple(a for k, a in enumerate(asked) if k != form),
                tuple(w.format(name, drawn[0]) for w in ways[1:]),
                tuple(ways[1].format(name, other) for other in drawn[1:]),
                REFUSALS[(form + i) % len(REFUSALS)],
            )
        )  # fmt: skip
    return found


@lru_cache
def _base(world: Authors) -> Module:
    _, base, _ = world.questions()
    recipe = Supervised(
        network=world.network, epochs=world.base_epochs, lr=world.lr, 
        optimizer=partial(AdamW, weight_decay=0.01), init_seed=0,
    )  # fmt: skip
    return build_models(recipe, told(base), [0], jobs=1, cache=default_cache(), label="train the base model")[
        0
    ]


def known_models(
    world: Authors,
    seeds: Sequence[int],
    without: Sequence[int] = (),
    *,
    jobs: int = 1,
    cache: Path | None = None,
) -> list[Module]:
    """Models that were taught the known authors but these: holders, or oracles. Trained once a seed and cached."""
    data = world.data()[0] if not len(without) else world.request(without).retain
    world.base_model()
    return build_models(
        world.recipe, data, seeds, jobs=jobs, cache=cache or default_cache(), label="teach authors"
    )
