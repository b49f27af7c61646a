"""Drawing before and after: the command, the report, the pictures, and each option doing what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

import numpy as np
import torch
from PIL import Image

from tests.erase.pipelines import folder, loaded, pipeline
from unweave import seeded
from unweave.cli import EXIT_OK, EXIT_USE, main
from unweave.errors import InputError
from unweave.generate import APG, CFG, Informed, OneMoreStep, draw
from unweave.io.pipeline_folder import save_pipeline
from unweave.jobs import GenerateJob
from unweave.jobs.generate import Generated, real_from
from unweave.report.images import save_png

PROMPTS = ("a photo of a cat", "a red church")


def psi() -> OneMoreStep:
    made = OneMoreStep("mlp", (4, 8, 8), 16, 16, 8)
    with torch.no_grad():
        for weight in made.parameters():
            weight.fill_(0.1)
    return made.eval()


def test_a_job_in_six_lines(tmp_path: Path) -> None:
    model = pipeline("sd")
    job = GenerateJob(
        pipeline=model, prompts=PROMPTS, guidance=APG(scale=10.0, threshold=1e-4), steps=2, images=2
    )
    found = job.run(tmp_path / "run")
    assert list(found.figures) == ["before", "apg"]
    assert len(found.pictures) == 4
    asked = [p for p in PROMPTS for _ in range(2)]
    images = draw(model, asked, guidance=job.guidance, steps=2, rng=seeded(0), batch_size=16)
    shown = np.asarray(Image.open(tmp_path / "run" / found.pictures[1]))
    expected = ((images[1].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.array_equal(shown, expected.astype(np.uint8))
    assert found.figures["apg"]["brightness"] == pytest.approx(float(images.double().mean()), abs=1e-6)
    plain = draw(model, asked, guidance=CFG(scale=10.0), steps=2, rng=seeded(0), batch_size=16)
    assert found.figures["before"]["brightness"] == pytest.approx(float(plain.double().mean()), abs=1e-6)
    assert any("100 % were capped. Guidance is mostly lost" in note for note in found.notes)
    assert Generated.read(tmp_path / "run") == found
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png") == 4, "two prompts in two columns"
    assert "seconds an image" in page
    assert "images/0001.png" in (tmp_path / "run" / "report.md").read_text()


def test_start_and_auxiliary_change_the_second_column_alone(tmp_path: Path) -> None:
    model, other = pipeline("sd"), pipeline("sd", 1)
    asked = {"pipeline": model, "prompts": PROMPTS[:1], "steps": 2, "images": 1, "guidance": CFG(scale=3.0)}
    jobs = [
        GenerateJob(**asked, start=Informed(psi())),  # type: ignore[arg-type]
        GenerateJob(**asked, auxiliary=other, away=0.5),  # type: ignore[arg-type]
    ]
    found = [job.run(tmp_path / str(i)) for i, job in enumerate(jobs)]
    assert [list(f.figures)[1] for f in found] == ["cfg+oms", "cfg+sims"]
    assert found[0].figures["before"]["brightness"] == found[1].figures["before"]["brightness"]
    for one in found:
        before, after = one.figures.values()
        assert before["brightness"] != after["brightness"]
    changed = psi()
    with torch.no_grad():
        changed.inner[0].weight.add_(1)  # type: ignore[index]
    again = GenerateJob(**asked, start=Informed(changed))  # type: ignore[arg-type]
    assert again.plan() != jobs[0].plan(), "other weights of the network are another run"


@pytest.mark.slow
def test_command_draws_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    psi().save(tmp_path / "psi.safetensors")
    save_pipeline(pipeline("sd", 1), tmp_path / "copy")
    (tmp_path / "photos").mkdir()
    for i in range(6):
        save_png(torch.rand(3, 20, 24, generator=seeded(i)) * 2 - 1, tmp_path / "photos" / f"{i}.png")
    judge = tmp_path / "inception.py"
    judge.write_text("def names(x):\n    return [''] * len(x)\ndef features(x):\n    return x.mean((2, 3))\n")
    asked = [
        "generate",
        str(folder("sd")),
        "--prompts",
        *PROMPTS,
        "--steps",
        "2",
        "--images",
        "2",
        "--scale",
        "9",
    ]
    asked += ["--guidance", "apg", "--apg.threshold", "5", "--oms", str(tmp_path / "psi.safetensors")]
    asked += ["--sims", str(tmp_path / "copy"), "--real", str(tmp_path / "photos"), "--judge", str(judge)]
    asked += ["--out", str(tmp_path / "run")]
    assert main(asked) == EXIT_OK
    said = capsys.readouterr().out
    assert "apg+oms+sims" in said
    assert "recall (inception features)" in said
    assert main([*asked, "--json"]) == EXIT_OK
    told = json.loads(capsys.readouterr().out)
    assert {"saturation", "Fréchet distance (inception features)"} <= set(told["figures"]["before"])
    assert real_from(tmp_path / "photos", loaded()).shape == (6, 3, 16, 16)


def test_command_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known, prompt = str(folder("sd")), ["--prompts", "a cat"]
    for more, told in (
        ([], "give the folder of a diffusers pipeline"),
        ([known], "--prompts is needed"),
        ([known, *prompt, "--guidance", "cfg"], "both columns would be the same"),
        ([known, *prompt, "--scale", "1"], "both columns would be the same"),
        ([known, *prompt, "--scale", "0.5"], "scale must be"),
        ([known, *prompt, "--sims-weight", "1"], "without --sims"),
        ([known, *prompt, "--judge", "j.py"], "give their folder too"),
        ([known, *prompt, "--real", str(tmp_path)], "holds no PNG"),
        ([known, *prompt, "--steps", "5000"], "the sampler takes 1 to"),
        ([known, *prompt, "--sims", known], "has the weights of the denoiser itself"),
    ):
        assert main(["generate", *more, "--out", str(tmp_path / "run")]) == EXIT_USE
        assert not (tmp_path / "run").exists(), "refused before anything is written"
        assert told in capsys.readouterr().err.replace("\n", " "), told

    class Blind:
        def names(self, images: torch.Tensor) -> list[str]:
            return [""] * len(images)

        def features(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    with pytest.raises(InputError, match="give `real` too"):
        GenerateJob(pipeline=loaded(), prompts=PROMPTS, judge=Blind())
