"""A pipeline without some of its layers: from the command line, to a folder that diffusers itself draws from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

from tests.erase.pipelines import folder
from unweave.cli import EXIT_OK, EXIT_USE, main
from unweave.jobs import ShrinkPipelineJob
from unweave.jobs.shrink_pipeline import Shrunk

TINY = [
    "--pictures", "4", "--steps", "2", "--laptop-diff.calibration", "4", "--laptop-diff.steps", "2",
    "--laptop-diff.batch-size", "2",
]  # fmt: skip


@pytest.mark.slow
def test_command_writes_a_pipeline_that_diffusers_draws_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import StableDiffusionPipeline

    from unweave import seeded

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of a cat\n\na red church\n")
    out = tmp_path / "run"
    asked = [
        "prune",
        str(folder("sd")),
        "--method",
        "laptop-diff",
        "--keep",
        "0.75",
        "--prompts",
        str(prompts),
    ]
    asked += [*TINY, "--out", str(out)]
    assert main(asked) == EXIT_OK
    said = capsys.readouterr().out
    assert "Removed: " in said
    found = Shrunk.read(out)
    before, after, _ = found.figures["parameters of the denoiser"]
    assert after <= 0.75 * before
    assert set(found.removed) <= {"attention of down_blocks.1", "attention of up_blocks.0", "mid_block"}
    page = (out / "report.html").read_text()
    assert "a red church" in page
    assert "data:image/png" in page
    pipe = StableDiffusionPipeline.from_pretrained(out / "model", safety_checker=None)
    assert sum(p.numel() for p in pipe.unet.parameters()) == after
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        "a cat", num_inference_steps=1, height=16, width=16, generator=seeded(0), output_type="pt"
    ).images
    assert bool(drawn.isfinite().all())
    assert main([*asked, "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["removed"] == dict(found.removed)


def test_command_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, told in (
        ([str(tmp_path)], "holds no model_index.json"),
        ([str(folder("sd"))], "--prompts is needed"),
        ([str(folder("sd")), "--prompts", "no.txt"], "cannot be read as text"),
        ([str(folder("sd")), "--prompts", "a cat", "--keep", "1.5"], "keep must be"),
        ([str(folder("sd")), "--prompts", "a cat", "--keep", "0.01", *TINY], "Keep at least"),
    ):
        assert main(["prune", *more, "--method", "laptop-diff", "--out", str(tmp_path / "run")]) == EXIT_USE
        assert told in capsys.readouterr().err.replace("\n", " ")


def test_job_needs_prompts() -> None:
    from tests.erase.pipelines import pipeline
    from unweave.errors import InputError

    with pytest.raises(InputError, match="prompts is empty"):
        ShrinkPipelineJob(pipeline=pipeline("sd"), prompts=())
