"""`unweave erase` from end to end where text and picture attend to each other; diffusers draws what was judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

from tests.erase.pipelines import folder
from tests.zoo_diffusers import SIDE, TOKENS
from unweave import seeded
from unweave.cli import main
from unweave.io.pipeline_folder import load_pipeline

JUDGE = """
import numpy
shown = []
labels = ["cat", "dog"]
def names(images):
    shown.append(images.numpy())
    numpy.savez("shown.npz", *shown)
    return ["cat" if image.mean() > 0 else "" for image in images]
def features(images):
    return images.flatten(1)[:, :4]
"""
TEMPLATES = ("a photo of a {}", "a {} on a table")
FEW = (
    "--templates", "prompts.txt",     "--judge", "judge.py", "--images", "1", "--steps", "2", "--guidance", "3", "--attack-prompts", "4",
    "--soft-vector.steps", "2", "--soft-vector.batch-size", "2",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("sd3", ()),
        ("flux", ("--method", "esd", "--esd.steps", "1", "--esd.sampler-steps", "2", "--esd.lr", "0.1")),
    ],
)
def test_the_whole_command(
    kind: Any, method: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers
    import numpy

    monkeypatch.chdir(tmp_path)
    Path("judge.py").write_text(JUDGE)
    Path("prompts.txt").write_text("\n".join(TEMPLATES))
    pipeline = str(folder(kind))
    asked = ("--concepts", "cat=bird", "--preserve", "dog", "--oracle", pipeline, "--out", "run", *method)
    assert main(("erase", pipeline, *asked, *FEW)) in (0, 3)
    audit = json.loads(Path("run/audit.json").read_text())["audits"][0]
    figures = {m["name"]: m for m in audit["measurements"]}
    assert figures["attack success: soft-vector"]["oracle_mean"] is not None
    assert json.loads(Path("run/attacks.json").read_text())["skipped"] == ""
    plain = diffusers.DiffusionPipeline.from_pretrained("run/model", local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    edited, original = load_pipeline(Path("run/model")), load_pipeline(folder(kind))
    assert any((a != b).any() for a, b in zip(edited.parameters(), original.parameters(), strict=True))
    prompts = [t.replace("{}", "cat") for t in TEMPLATES]
    noise = edited.noise(len(prompts), seeded(0))
    if kind == "flux":
        noise = plain._pack_latents(noise, *noise.shape)
    images = plain(
        prompts, latents=noise, height=SIDE, width=SIDE, num_inference_steps=2, guidance_scale=3.0, output_type="pt",
        max_sequence_length=TOKENS,
    ).images  # fmt: skip
    with numpy.load("shown.npz") as shown:
        judged = [(torch.from_numpy(v) / 2 + 0.5).clamp(0, 1) for v in shown.values()]
    alike = [torch.allclose(v, images, atol=1e-3) for v in judged if v.shape == images.shape]
    assert sum(alike) == 1
    assert len(alike) >= 3  # the original's and the retrained one's are others
