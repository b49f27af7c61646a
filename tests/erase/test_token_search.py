from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from tests.erase.pipelines import pipeline
from tests.erase.test_unlearn_diff_atk import Says, targets
from unweave import seeded
from unweave.erase import TokenSearch
from unweave.errors import InputError


def test_tries_as_often_as_asked_and_no_special_token() -> None:
    model, aim, judge = pipeline(), targets(), Says("dog")
    found = TokenSearch(tokens=2, tries=7, batch_size=3).attack(model, aim, judge, rng=seeded(0))
    assert [a.judged for a in found.attempts] == [7, 7]
    assert judge.seen == 2 + 14
    assert (found.pre_asr, found.asr) == (0, 0)
    used = {i for a in found.attempts for i in a.ids}
    assert not used & set(model.tokenizers[0].all_special_ids)


@pytest.mark.parametrize("vary", ["tokens", "noise"])
def test_candidates_do_not_depend_on_the_batch(vary) -> None:
    model, aim = pipeline(), targets()
    seen: list[list[bytes]] = []

    class Keeps(Says):
        def names(self, images):
            seen[-1] += [(i * 100).round().to(torch.int8).numpy().tobytes() for i in images]
            return super().names(images)

    search = TokenSearch(vary=vary, tries=4)
    found = []
    for size in (1, 3, 64):
        seen.append([])
        found.append(replace(search, batch_size=size).attack(model, aim, Keeps(), rng=seeded(0)))
    assert (
        [a.ids for a in found[0].attempts]
        == [a.ids for a in found[1].attempts]
        == [a.ids for a in found[2].attempts]
    )
    counts = [Counter(s) for s in seen]
    assert sum((counts[0] & counts[2]).values()) >= 8  # of ten; rounding may move one
    assert len(counts[0]) > 5
    if vary == "noise":
        assert all(a.ids == () and a.text == "" for a in found[0].attempts)


def test_the_candidate_that_was_seen_is_the_one_kept() -> None:
    model, aim = pipeline(), targets(prompts=("a cat",))

    class Third(Says):
        def names(self, images):
            out = ["cat" if self.seen + k == 3 else "" for k in range(len(images))]
            self.seen += len(images)
            return out

    search = TokenSearch(tokens=2, tries=9, batch_size=5)
    hit = search.attack(model, aim, Third(), rng=seeded(0)).attempts[0]
    assert (hit.success, hit.before, hit.judged) == (True, False, 3)
    third = replace(search, tries=3).attack(model, aim, Says(), rng=seeded(0)).attempts[0]
    assert hit.ids == third.ids


def test_a_prompt_that_draws_it_alone_is_not_searched() -> None:
    found = TokenSearch(tries=2).attack(pipeline(), targets(), Says("cat"), rng=seeded(0))
    assert (found.pre_asr, found.judged) == (100, 0)


def test_noise_leaves_the_prompt_and_needs_no_room() -> None:
    aim = targets(prompts=("a photo of a cat near a red church in",))
    found = TokenSearch(vary="noise", tries=2).attack(pipeline(), aim, Says(), rng=seeded(0))
    assert found.judged == 2
    with pytest.raises(InputError, match="more do not fit"):
        TokenSearch(tries=2).attack(pipeline(), aim, Says(), rng=seeded(0))


def test_refuses() -> None:
    with pytest.raises(InputError, match="tokens=.* would do nothing with vary='noise'"):
        TokenSearch(vary="noise", tokens=2)
    with pytest.raises(InputError, match="banned=.* would do nothing with vary='noise'"):
        TokenSearch(vary="noise", banned=("cat",))
    for name in ("tokens", "tries", "batch_size"):
        with pytest.raises(InputError, match=f"{name} must be a whole number at least 1"):
            TokenSearch(**{name: 0})
    with pytest.raises(InputError, match='vary must be "tokens" or "noise"'):
        TokenSearch(vary="words")
    with pytest.raises(InputError, match="several text encoders"):
        TokenSearch().attack(pipeline("sdxl"), targets(), Says(), rng=seeded(0))
