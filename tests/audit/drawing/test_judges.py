"""A transformers classifier as the judge: its processor's settings are used, in every form, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults import one_line
from unweave.audit.drawing.judges import ClassifierJudge
from unweave.erase import Concepts
from unweave.errors import IntegrityError

transformers = pytest.importorskip("transformers")
CONCEPTS = Concepts(erase=("cat",), preserve=("dog",))
GOOD: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "do_resize": True,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.25] * 3, "image_std": [0.5] * 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
        id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(place)
    return place


@pytest.mark.parametrize(
    ("change", "size", "first"),
    [
        ({}, (16, 16), (0.75 - 0.25) / 0.5),
        ({"size": 16}, (16, 16), 1.0),
        ({"size": {"shortest_edge": 16}}, (16, 16), 1.0),
        ({"size": {"height": 8, "width": 16}}, (8, 16), 1.0),
        ({"do_normalize": False}, (16, 16), 0.75),
        ({"image_mean": [0.75] * 3}, (16, 16), 0.0),
        ({"rescale_factor": 1 / 127.5}, (16, 16), (1.5 - 0.25) / 0.5),
    ],
)
def test_images_are_prepared_as_the_settings_say(
    folder: Path, change: dict[str, Any], size: tuple[int, int], first: float
) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({**GOOD, **change}))
    judge = ClassifierJudge(folder, CONCEPTS)
    ready = judge._ready(torch.full((1, 3, 8, 8), 0.5))
    assert ready.shape == (1, 3, *size)
    assert float(ready[0, 0, 0, 0]) == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD)[:60], "[]", "[" * 50_000, json.dumps({**GOOD, "image_mean": ["a", "b", "c"]}),
        json.dumps({**GOOD, "image_std": [0.0] * 3}), json.dumps({**GOOD, "image_mean": [0.1] * 7}),
        json.dumps({**GOOD, "size": {"height": -3, "width": 16}}), json.dumps({**GOOD, "rescale_factor": "x"}),
    ],
)  # fmt: skip
def test_damaged_settings_are_refused_in_a_sentence(folder: Path, text: str) -> None:
    (folder / "preprocessor_config.json").write_text(text)
    with pytest.raises(IntegrityError) as caught:
        ClassifierJudge(folder, CONCEPTS)
    assert str(folder) in one_line(caught.value)


def test_without_settings_the_model_says_the_size(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    assert ClassifierJudge(folder, CONCEPTS)._ready(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 16, 16)
