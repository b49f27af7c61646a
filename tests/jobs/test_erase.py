"""Erasing as a job, on tiny pipelines of random weights, with a judge of the test's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

from tests.erase.pipelines import CONCEPTS, folder, pipeline
from unweave.erase import ESD, UCE, Concepts, TokenSearch, nearest_words
from unweave.errors import InputError
from unweave.io.pipeline_folder import load_pipeline
from unweave.jobs import Erased, EraseJob, PipelineSubject
from unweave.jobs.pipelines import open_pipeline


class Judge:
    def names(self, images: Tensor) -> list[str]:
        return ["cat"] * len(images)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4]


def subject(**given: Any) -> PipelineSubject:
    return PipelineSubject(
        **{"original": pipeline("sd"), "concepts": CONCEPTS.only("cat"), "judge": Judge(), **given}
    )


def test_a_pipeline_at_hand_is_edited_and_judged(tmp_path: Path) -> None:
    made = subject(oracles=(pipeline("sd"),))
    before = {name: p.clone() for name, p in made.original.named_parameters()}
    done = EraseJob(subject=made, edits={"uce": UCE(strength=0.3)}, images=1, steps=2).run(tmp_path / "run")
    assert (
        done.audits[0].verdict.outcome == "inconclusive"
    )  # the judge sees a cat in the retrained pipeline's images too
    assert all(p.equal(before[name]) for name, p in made.original.named_parameters())
    written = load_pipeline(done.model)
    assert any(not p.equal(before[name]) for name, p in written.named_parameters())
    assert Erased.read(tmp_path / "run") == done
    assert "Pipeline:" in str(done)
    inputs = json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]
    assert list(inputs) == ["pipeline", "oracle 0"]
    again = EraseJob(subject=made, edits={"uce": UCE(strength=0.3)}, images=1, steps=2).run(tmp_path / "run")
    assert again == done


@pytest.mark.parametrize(("most", "asked", "drawn"), [(3.0, 7.5, 3.0), (3.0, 2.0, 2.0), (None, 7.5, 7.5)])
def test_a_pipeline_is_guided_no_more_than_it_was_made_for(
    most: float | None, asked: float, drawn: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import unweave.jobs.erase as module

    def draw(*_: Any, guidance: float, **__: Any) -> Any:
        raise InputError(f"drawn at {guidance}")

    monkeypatch.setattr(module, "draw", draw)
    job = EraseJob(subject=subject(most_guidance=most), edits={"uce": UCE(strength=0.3)}, guidance=asked)
    with pytest.raises(InputError, match=f"drawn at {drawn}"):
        job.run(tmp_path / "run")


def test_the_plan_names_all_that_changes_what_is_drawn() -> None:
    def plan(**given: Any) -> Any:
        return EraseJob(**{"subject": subject(), "edits": {"uce": UCE()}, **given}).plan()

    changes: list[dict[str, Any]] = [
        {}, {"in_turn": True}, {"images": 5}, {"steps": 3}, {"guidance": 2.0}, {"edits": {"uce": UCE(strength=0.3)}},
        {"subject": subject(concepts=CONCEPTS)}, {"attack": TokenSearch()}, {"attack": TokenSearch(), "attack_prompts": 3},
    ]  # fmt: skip
    plans = [json.dumps(plan(**change), sort_keys=True) for change in changes]
    assert len(set(plans)) == len(changes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"edits": {}}, "EraseJob.edits is empty"),
        ({"images": 0}, "EraseJob.images must be a whole number at least 1; got 0"),
        ({"guidance": float("inf")}, "EraseJob.guidance must be at least 0; got inf"),
        ({"attack": UCE()}, r"EraseJob.attack must be an Attack \(with attack\), or None"),
        ({"subject": subject(judge=None), "attack": TokenSearch()}, "EraseJob.attack needs PipelineSubject.judge"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EraseJob(**{"subject": subject(), "edits": {"uce": UCE()}, **given})


def test_a_subject_is_checked_with_its_concepts() -> None:
    with pytest.raises(InputError, match="cannot see .zebra"):
        subject(original=pipeline("pixart"), concepts=Concepts(erase=("zebra",)))
    with pytest.raises(InputError, match=r"PipelineSubject.judge must be a Judge \(with features, names\)"):
        subject(judge=len)


def test_attacks_need_a_judge_and_have_their_controls() -> None:
    job = EraseJob(subject=subject(), edits={"uce": UCE()}, attack=TokenSearch())
    attacks, controls = job.attacks
    assert list(attacks) == [
        "attack success: soft-vector", "attack success: a random vector", "attack success: token-search",
    ]  # fmt: skip
    assert list(controls) == ["attack success: soft-vector"]
    assert EraseJob(subject=subject(), edits={"uce": UCE()}, soft=None).attacks == ({}, {})
    assert EraseJob(subject=subject(judge=None), edits={"uce": UCE()}).attacks == ({}, {})
    assert "attacks" in job.plan()
    assert job.plan() != EraseJob(subject=subject(), edits={"uce": UCE()}, soft=None).plan()


def test_without_an_attack_the_report_says_so(tmp_path: Path) -> None:
    job = EraseJob(subject=subject(), edits={"uce": UCE(strength=0.3)}, soft=None, images=1, steps=1)
    done = job.run(tmp_path / "run")
    caveats = done.audits[0].verdict.caveats
    assert any("No attack was tried" in said for said in caveats)
    assert not any("can protect" in said for said in caveats)
    bare = subject(concepts=Concepts(erase=("cat",)))
    edits = {
        "uce": UCE(neighbours=0),
        "near": UCE(neighbours=2),
        "esd": ESD(steps=1, sampler_steps=1),
    }  # which reads nothing to preserve
    job = EraseJob(subject=bare, edits=edits, soft=None, images=1, steps=1)
    said = job.run(tmp_path / "bare").audits[0].verdict.caveats
    assert [s.split()[0] for s in said if "can protect" in s] == ["uce"]
    (kept,) = [s for s in said if "was told nothing to preserve" in s]
    assert kept.startswith("near ")
    assert kept.endswith(f"{', '.join(nearest_words(bare.original, bare.concepts, 2))}.")
    assert not (tmp_path / "run" / "attacks.json").exists()
    assert "No attack was tried" in (tmp_path / "run" / "report.md").read_text()


def test_pipelines_in_folders_are_read_when_they_are_needed_and_not_before(monkeypatch) -> None:
    import unweave.jobs.pipelines as module

    read: list[Path] = []

    def load(path: Path, **how: Any) -> Any:
        read.append(path)
        return load_pipeline(path, **how)

    monkeypatch.setattr(module, "load_pipeline", load)
    opened = open_pipeline(
        folder(), CONCEPTS.only("cat"), oracles=[folder(), folder()], dtype="bfloat16", slim=True
    )
    assert (opened.original.dtype, opened.original.vae.use_slicing) == (torch.bfloat16, True)
    assert (len(read), len(opened.never)) == (1, 2)
    assert [m.layout for m in opened.never.values()] == ["unet", "unet"]
    assert len(read) == 3
    at_hand = subject(oracles=(pipeline("sd"), folder()))
    assert next(iter(at_hand.never.values())) is at_hand.oracles[0]
    assert at_hand.inputs()["oracle 1"] == folder()
    with pytest.raises(InputError, match="no pipeline folder"):
        open_pipeline(folder(), CONCEPTS, oracles=[Path("nowhere")])


def test_an_adapter_is_written_and_the_pipeline_with_it_is_audited(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = subject()
    edit = ESD(steps=2, lr=1e-3, sampler_steps=2, train="cross_kv")
    job = EraseJob(subject=made, edits={"esd": edit}, output="lora", images=1, steps=1, soft=None)
    assert job.plan() != EraseJob(subject=made, edits={"esd": edit}, images=1, steps=1, soft=None).plan()
    done = job.run(tmp_path / "run")
    tensors = load_file(done.folder / "lora" / "pytorch_lora_weights.safetensors")
    written, before = load_pipeline(done.model), dict(made.original.named_parameters())
    assert [e["method"] for e in written.erased] == ["ESD"]
    for name, weight in written.named_parameters():
        at = name.replace("denoiser", "unet").removesuffix(".weight")
        change = 0.0
        if f"{at}.lora_A.weight" in tensors:
            change = tensors[f"{at}.lora_B.weight"] @ tensors[f"{at}.lora_A.weight"]
            assert change.abs().max() > 1e-5
        torch.testing.assert_close(weight, before[name] + change, atol=1e-6, rtol=1e-5)
    assert {n.rpartition(".lora_")[0] for n in tensors} == {
        f"unet.{n}" for n in made.original.linears("cross_kv")
    }
    with pytest.raises(InputError, match="no linear layer of the denoiser"):
        EraseJob(subject=made, edits={"esd": ESD(train="all")}, output="lora")


def test_the_small_world_is_kept_where_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unweave.embedded import drawn_digits as world
    from unweave.jobs.pipelines import embedded_pipeline

    asked: list[Path | None] = []

    def made(*_: Any, cache: Path | None = None, **__: Any) -> Any:
        asked.append(cache)
        return pipeline("sd")

    monkeypatch.setattr(world, "small_world", made)
    monkeypatch.setattr(world, "judge", made)
    monkeypatch.setattr(Concepts, "require_seen", lambda *_: None)
    embedded_pipeline(Concepts(erase=("three",)), cache=tmp_path)
    assert asked == [tmp_path / "testbed"] * 3
    embedded_pipeline(Concepts(erase=("three",)))
    assert asked[3:] == [None] * 3
