"""`unweave restore`: every method from its weights file to a file, training on a folder, and wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from unweave import seeded
from unweave.cli import main
from unweave.errors import InputError, IntegrityError
from unweave.jobs.restore import Restored, RestoreJob
from unweave.random import global_seed
from unweave.restore import (
    CUENet,
    EDiffSRNet,
    ESSAformerNet,
    FastFullSubNetNet,
    MLSIMNet,
    PCSRNet,
    SESRNet,
    SuperInpaintNet,
    load_restorer,
    save_restorer,
)
from unweave.restore.weights import networks

Image = pytest.importorskip("PIL.Image")

NETS = {
    "sesr": lambda: SESRNet(features=4, blocks=1, width=8),
    "pcsr": lambda: PCSRNet(backbone="convs", width=4, depth=1, heavy=(4,), light=(2,), scale=2.0),
    "superinpaint": lambda: SuperInpaintNet(features=4, blocks=0, hidden=4, layers=1),
    "ediffsr": lambda: EDiffSRNet(scale=2, width=8, encoder=(1,), decoder=(1,)),
    "cue": lambda: CUENet(width=2, hidden=2, prior=2),
    "essaformer": lambda: ESSAformerNet(scale=2, bands=3, dim=4, rounds=0),
    "ml-sim": lambda: MLSIMNet(groups=1, blocks=1, features=4),
    "fast-fullsubnet": lambda: FastFullSubNetNet(rate=1000, window=64, mels=8, full=(4, 4), sub=4, merge=4),
}
MORE = {"ediffsr": ["--steps", "2"], "superinpaint": ["--mask", "mask.png"]}
MADE = {"sesr": (32, 24, 3), "pcsr": (32, 24, 3), "superinpaint": (32, 24, 3), "ediffsr": (32, 24, 3), "cue": (16, 12, 3), "essaformer": (16, 12, 3), "ml-sim": (16, 12)}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with weights of every method and something to restore for each."""
    folder = tmp_path_factory.mktemp("restore")
    with global_seed(0):
        for name, make in NETS.items():
            save_restorer(make(), folder / f"{name}.safetensors")
    rng = seeded(0)
    dark = (60 * torch.rand(16, 12, 3, generator=rng)).byte().numpy()
    for name in ("sesr", "pcsr", "superinpaint", "ediffsr", "cue"):
        Image.fromarray(dark).save(folder / f"{name}.png")
    mask = np.zeros((16, 12), np.uint8)
    mask[4:8, 3:9] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    np.savez(
        folder / "essaformer.npz", scene=(4000 * torch.rand(8, 6, 3, generator=rng)).numpy().astype("uint16")
    )
    np.save(folder / "ml-sim.npy", torch.rand(9, 16, 12, generator=rng).numpy())
    wavfile.write(
        folder / "fast-fullsubnet.wav",
        1000,
        (3000 * torch.randn(300, generator=rng)).numpy().astype(np.int16),
    )
    return folder


def test_every_network_of_the_family_is_tried() -> None:
    assert set(NETS) == set(networks())


@pytest.mark.filterwarnings("ignore:no fringes:UserWarning")
@pytest.mark.parametrize("name", list(NETS))
def test_every_method_restores_a_file(place, name, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)
    source = next(p for p in place.glob(f"{name}.*") if p.suffix not in (".safetensors", ".json"))
    assert main(["restore", source.name, "--weights", f"{name}.safetensors", *MORE.get(name, [])]) == 0
    said = capsys.readouterr().out
    assert f"restored by {name}" in said
    out = next(p for p in place.glob(f"{name}-restored.*") if p.suffix != ".json")
    assert f"Written and read back: {out.name}" in said
    done = Restored.read(out.with_name(out.name + ".json"))
    assert done.file.name == out.name
    if name == "fast-fullsubnet":
        assert wavfile.read(out)[1].shape == (300,)
    elif name == "essaformer":
        assert np.load(out)["scene"].shape == MADE[name]
        assert float(np.load(out)["scene"].max()) > 10  # the file's own unit
    else:
        assert np.asarray(Image.open(out)).shape == MADE[name]


def test_weights_come_back_with_all_they_were_made_of(place, tmp_path) -> None:
    for name in NETS:
        net = load_restorer(place / f"{name}.safetensors")
        assert net.method == name
        assert not net.training
        again = type(net)(**json.loads(json.dumps(net.made)))
        again.load_state_dict(net.state_dict())
    file = tmp_path / "cut.safetensors"
    whole = (place / "sesr.safetensors").read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(IntegrityError, match="cut"):
        load_restorer(file)
    with pytest.raises(InputError, match=r"save_restorer writes .*got Linear"):
        save_restorer(torch.nn.Linear(2, 2), file)


def test_colours_through_a_luma_network_keep_their_chroma(place, tmp_path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "red.png")
    net = SESRNet(features=4, blocks=1, width=0)
    torch.nn.init.zeros_(net.tail.weight)
    save_restorer(net, tmp_path / "w.safetensors")
    done = RestoreJob(input=tmp_path / "red.png", weights=tmp_path / "w.safetensors").run(
        tmp_path / "out.png"
    )
    made = np.asarray(Image.open(done.file)).astype(int)
    assert made.shape == (16, 16, 3)
    assert abs(made - np.array([200, 0, 0])).max() <= 2
    Image.fromarray(red[..., 0]).save(tmp_path / "grey.png")
    job = RestoreJob(
        input=tmp_path / "grey.png", weights=place / "pcsr.safetensors", options={"knob": -25.0, "scale": 1.5}
    )
    assert np.asarray(Image.open(job.run(tmp_path / "g.png").file)).shape == (12, 12)


def _paths(given):
    return {k: Path(v) if k in ("input", "weights", "mask") else v for k, v in given.items()}


def test_wrong_use_is_one_sentence(place, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    wavfile.write("slow.wav", 500, np.zeros(100, np.int16))
    Image.fromarray(np.full((16, 12), 99, np.uint8)).save("grey.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("little.png")
    for given, told in (
        ({"input": "sesr.png", "weights": "sesr.safetensors", "method": "pcsr"}, "are weights of sesr, not of pcsr"),
        ({"input": "sesr.png", "weights": "none.safetensors"}, "there is no file of weights"),
        ({"input": "sesr.png", "weights": "sesr.safetensors", "options": {"scale": 3.0}}, "--scale would do nothing for sesr; it takes no options"),
        ({"input": "sesr.png", "weights": "pcsr.safetensors", "options": {"steps": 3}}, "it takes --scale, --knob, --adaptive, --refine"),
        ({"input": "sesr.png", "weights": "superinpaint.safetensors"}, r"needs a picture of the holes \(--mask\)"),
        ({"input": "sesr.png", "weights": "sesr.safetensors", "mask": "mask.png"}, "fills no holes"),
        ({"input": "sesr.png", "weights": "superinpaint.safetensors", "mask": "grey.png"}, "must be black and white"),
        ({"input": "sesr.png", "weights": "superinpaint.safetensors", "mask": "little.png"}, r"the mask little.png is \(4, 4\)"),
        ({"input": "slow.wav", "weights": "fast-fullsubnet.safetensors"}, "has 500 Hz; the weights are for 1000 Hz"),
        ({"input": "sesr.png", "weights": "essaformer.safetensors"}, "a cube is read from"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            RestoreJob(**_paths(given)).run(
                out := tmp_path / f"out{'.wav' if 'slow.wav' in given.values() else '.png'}"
            )
        assert not out.exists()
    job = RestoreJob(input=Path("sesr.png"), weights=Path("sesr.safetensors"))
    with pytest.raises(InputError, match="the input itself"):
        job.run("sesr.png")
    with pytest.raises(InputError, match="which keep every value; got 'x.jpg'"):
        job.run("x.jpg")
    for argv, code in (
        (["restore", "--weights", "w"], 2),
        (["restore", "sesr.png", "--weights", "sesr.safetensors", "--crops", "5"], 2),
        (["restore", "--train", ".", "--weights", "w.safetensors"], 2),
        (["restore", "--train", ".", "--weights", "w.safetensors", "--method", "essaformer"], 2),
        (["restore", "--train", ".", "--weights", "w.safetensors", "--method", "sesr", "--knob", "1"], 2),
        (["restore", "--train", ".", "--weights", "w.pt", "--method", "sesr"], 2),
    ):
        assert main(argv) == code, argv


TRAINED = {
    "sesr": ["--sesr.features", "4", "--sesr.blocks", "1", "--sesr.width", "8", "--sesr.epochs", "1"],
    "superinpaint": ["--superinpaint.features", "4", "--superinpaint.blocks", "0", "--superinpaint.hidden", "4", "--superinpaint.layers", "1", "--superinpaint.queries", "50", "--superinpaint.epochs", "1"],
    "ml-sim": ["--ml-sim.groups", "1", "--ml-sim.blocks", "1", "--ml-sim.features", "4", "--ml-sim.epochs", "1"],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:no fringes:UserWarning")
@pytest.mark.parametrize("name", list(TRAINED))
def test_a_folder_of_pictures_trains_weights(tmp_path, monkeypatch, capsys, name) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for k in range(3):
        picture = torch.randint(256, (30, 28, 3), generator=seeded(k)).byte().numpy()
        Image.fromarray(picture).save(tmp_path / "in" / f"{k}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "small.png")
    argv = [
        "restore",
        "--train",
        "in",
        "--method",
        name,
        "--weights",
        "w.safetensors",
        "--crops",
        "4",
        "--side",
        "16",
        *TRAINED[name],
    ]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "Held-out pictures: 1" in said
    assert "Passed over: 1 pictures smaller than 16 pixels" in said
    assert load_restorer(tmp_path / "w.safetensors").method == name
