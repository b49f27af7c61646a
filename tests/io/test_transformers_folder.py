from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.faults import contents, damages, each_full_disk, one_line, partials
from tests.processes import run_python
from unweave import Mask, fit_, seeded
from unweave.errors import InputError, IntegrityError, MissingExtraError, StorageError
from unweave.fit.recipe import mean_loss
from unweave.io.checkpoint import mask_beside
from unweave.io.transformers_folder import (
    TransformersRecipe,
    is_model_folder,
    load_images,
    load_model,
    save_model_folder,
)
from unweave.tasks import predict, read_labels

pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

KINDS = ("vit", "swin", "resnet", "convnext")
_CLASSES = ("beagle", "cat", "owl")


def make_model(
    kind: str, folder: Path, seed: int = 0, names: tuple[str, ...] = _CLASSES, processor: bool = True
) -> Path:
    """A tiny classifier of 32-pixel images, saved as transformers would."""
    import transformers as t

    labels: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {n: i for i, n in enumerate(names)},
    }
    configs = {
        "vit": lambda: t.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
            patch_size=8,
            **labels,
        ),
        "swin": lambda: t.SwinConfig(
            embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=32, patch_size=4, **labels
        ),
        "resnet": lambda: t.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels
        ),
        "convnext": lambda: t.ConvNextConfig(
            hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32, **labels,
        ),
    }  # fmt: skip
    torch.manual_seed(seed)
    t.AutoModelForImageClassification.from_config(configs[kind]()).save_pretrained(folder)
    if processor:
        kinds = {"vit": "ViTImageProcessor", "swin": "ViTImageProcessor"}
        size = {"height": 32, "width": 32} if kind in kinds else {"shortest_edge": 32}
        (folder / "preprocessor_config.json").write_text(
            json.dumps(
                {
                    "image_processor_type": kinds.get(kind, "ConvNextImageProcessor"), "size": size,
                    "crop_pct": 0.875,
                    "do_resize": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
                }
            )
        )  # fmt: skip
    return folder


def make_images(
    root: Path, splits: tuple[str, ...] = ("train", "test"), each: int = 4, size: int = 24
) -> Path:
    """Class folders of coloured noise: each class has a colour of its own."""
    rng = np.random.default_rng(0)
    for split in splits:
        for c, name in enumerate(_CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(each):
                pixels = rng.integers(0, 90, (size, size + 4, 3), dtype=np.uint8)
                pixels[..., c] += 120
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("pets"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("vit", tmp_path_factory.mktemp("vit"))


def _bits(model: nn.Module) -> dict[str, bytes]:
    return {
        k: v.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_goes_in_and_comes_out(tmp_path: Path, pets: Path, kind: str) -> None:
    from transformers import AutoModelForImageClassification

    folder = make_model(kind, tmp_path / kind)
    assert is_model_folder(folder)
    assert not is_model_folder(pets)
    model = load_model(folder)
    images = load_images(f"imagefolder:{pets}", folder, batch_size=4)
    assert (len(images.train), len(images.heldout)) == (12, 12)
    logits = predict(model, images.heldout)
    assert logits.shape == (12, 3)
    frozen = Mask({n: torch.rand(p.shape) < 0.5 for n, p in model.named_parameters() if p.ndim > 1})
    frozen.apply_(model)
    fit_(
        model, images.train, mean_loss(images.train), torch.optim.AdamW(model.parameters(), 1e-2), epochs=2,
        rng=seeded(0),
        hold=frozen,
    )  # fmt: skip
    save_model_folder(model, tmp_path / "out", mask=frozen)
    assert mask_beside(tmp_path / "out") == frozen
    assert (tmp_path / "out" / "preprocessor_config.json").read_bytes() == (
        folder / "preprocessor_config.json"
    ).read_bytes()
    again = load_model(tmp_path / "out")
    assert _bits(again) == _bits(model)
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(predict(theirs, images.heldout), predict(model, images.heldout))
    save_model_folder(model, tmp_path / "out2", mask=frozen)
    assert contents(tmp_path / "out2") == contents(tmp_path / "out")


def test_pixels_are_those_of_the_processor(pets: Path, vit: Path) -> None:
    images = load_images(f"imagefolder:{pets}", vit)
    assert images.ids[0] == "train/beagle/0.png"
    assert images.class_names == _CLASSES
    assert read_labels(images.train).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with Image.open(pets / images.ids[5]) as opened:
        picture = opened.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    expected = (np.asarray(picture, dtype=np.float64) / 255 - 0.5) / 0.25
    got = images.train.examples[5]["pixel_values"].numpy()
    assert np.abs(got - expected.transpose(2, 0, 1)).max() < 1e-5
    assert images.train.examples.ids == images.ids
    import pickle

    clone = pickle.loads(pickle.dumps(images.train.examples))
    assert torch.equal(clone[5]["pixel_values"], images.train.examples[5]["pixel_values"])


def test_labels_follow_the_model_not_the_alphabet(tmp_path: Path, pets: Path) -> None:
    folder = make_model("resnet", tmp_path / "m", names=("owl", "dog", "cat", "beagle"))
    images = load_images(f"imagefolder:{pets}", folder)
    assert images.train.task.classes == 4
    assert {i.split("/")[1]: int(y) for i, y in zip(images.ids, read_labels(images.train), strict=True)} == {
        "owl": 0, "cat": 2, "beagle": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    "damage", ["model", "names", "processor", "spec", "folder", "empty", "picture", "one class"]
)
def test_input_that_does_not_fit(tmp_path: Path, pets: Path, vit: Path, damage: str) -> None:
    root, folder, spec = tmp_path / "pets", tmp_path / "m", None
    shutil.copytree(pets, root)
    shutil.copytree(vit, folder)
    expected = {
        "model": "has no config.json",
        "names": r"the classes .*, which the model does not know; it knows x, y, z",
        "processor": r"has no preprocessor_config\.json", "spec": "--data must be imagefolder:FOLDER",
        "folder": "there is no image folder", "empty": "it holds no image",
        "picture": r"train/cat/1\.png is not a whole image", "one class": "have no labels",
    }[damage]  # fmt: skip
    if damage == "model":
        (folder / "config.json").unlink()
    elif damage == "names":
        shutil.rmtree(folder)
        make_model("vit", folder, names=("x", "y", "z"))
    elif damage == "processor":
        (folder / "preprocessor_config.json").unlink()
    elif damage == "spec":
        spec = f"csv:{root}"
    elif damage == "folder":
        spec = f"imagefolder:{root}/none"
    elif damage == "empty":
        shutil.rmtree(root)
        root.mkdir()
    elif damage == "picture":
        path = root / "train/cat/1.png"
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "one class":
        flat = tmp_path / "flat"
        shutil.copytree(root / "train/cat", flat)
        root = flat
    with pytest.raises(InputError, match=expected) as caught:
        list(load_images(spec or f"imagefolder:{root}", folder).train.batches())
    one_line(caught.value)


@pytest.mark.parametrize("damage", [d for d in damages(b"0123456789") if d != "one bit flipped"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_files(tmp_path: Path, vit: Path, name: str, damage: str) -> None:
    folder = tmp_path / "m"
    shutil.copytree(vit, folder)
    (folder / name).write_bytes(damages((folder / name).read_bytes())[damage])
    if name == "config.json" and damage in ("one byte short",):
        pytest.skip("a line end less is no damage to JSON")
    with pytest.raises(InputError) as caught:
        load_model(folder)
    assert str(folder) in one_line(caught.value)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "nan"])
def test_weights_that_do_not_fit(tmp_path: Path, vit: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "m"
    shutil.copytree(vit, folder)
    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        del weights["classifier.weight"]
    elif change == "extra":
        weights["decoder.weight"] = torch.ones(3)
    elif change == "shape":
        weights["classifier.weight"] = torch.ones(5, 16)
    else:
        weights["classifier.weight"][1, 1] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    messages = {
        "missing": "lack classifier.weight", "extra": "have decoder.weight, which the model lacks",
        "shape": "have another shape at classifier.weight", "nan": "hold 1 values that are NaN or infinite",
    }  # fmt: skip
    with pytest.raises(InputError, match=messages[change]) as caught:
        load_model(folder)
    one_line(caught.value)


def test_code_in_a_folder_never_runs(tmp_path: Path, vit: Path) -> None:
    canary = tmp_path / "canary"
    folder = tmp_path / "m"
    shutil.copytree(vit, folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="mine", auto_map={
        "AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model",
    })  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    with pytest.raises(IntegrityError, match="which would run when read, so it was not") as caught:
        load_model(folder)
    one_line(caught.value)
    with pytest.raises(IntegrityError):
        load_images(f"imagefolder:{make_images(tmp_path / 'pets', each=1)}", folder)
    assert not canary.exists()


class _Command:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_pickle_in_a_folder_never_runs(tmp_path: Path, vit: Path) -> None:
    folder, canary = tmp_path / "m", tmp_path / "canary"
    shutil.copytree(vit, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"classifier.weight": _Command(str(canary))}, folder / "pytorch_model.bin")
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_model(folder)
    assert not canary.exists()


def test_a_script_among_the_images_never_runs(tmp_path: Path, vit: Path) -> None:
    root = make_images(tmp_path / "pets", each=2)
    (root / "pets.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    assert len(load_images(f"imagefolder:{root}", vit).train) == 6
    assert not (tmp_path / "canary").exists()


def test_removed_structure_comes_back(tmp_path: Path, vit: Path) -> None:
    from unweave.io.structure import restructure_

    model = load_model(vit)
    up, down = [m for m in model.modules() if isinstance(m, nn.Linear) and 32 in m.weight.shape][:2]
    names = {id(m): n for n, m in model.named_modules()}
    cut = {"of": 32, "kept": list(range(5, 32))}  # in the first block alone, so no configuration can say it
    structure = {
        "format": 1,
        "layers": {names[id(up)]: {"out": cut}, names[id(down)]: {"in": cut}},
        "biases": [],
    }
    restructure_(model, structure)
    save_model_folder(model, tmp_path / "out", structure=structure)
    assert _bits(load_model(tmp_path / "out")) == _bits(model)
    assert sorted(contents(tmp_path / "out")) == [
        "config.json", "model.safetensors", "preprocessor_config.json", "structure.json",
    ]  # fmt: skip


def test_full_disk_keeps_the_old_folder(tmp_path: Path, vit: Path) -> None:
    old, out = load_model(vit), tmp_path / "out"
    new = load_model(make_model("vit", tmp_path / "other", seed=1))
    save_model_folder(new, out)
    after = contents(out)
    for failing in each_full_disk(lambda: save_model_folder(new, out)):
        save_model_folder(old, out)
        before = contents(out)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            failing()
        one_line(caught.value)
        assert contents(out) in (before, after)
        assert not partials(tmp_path)


def test_what_cannot_be_saved(tmp_path: Path, vit: Path) -> None:
    with pytest.raises(InputError, match="is no transformers model"):
        save_model_folder(nn.Linear(2, 2), tmp_path / "out")
    model = load_model(vit)
    with pytest.raises(InputError, match="not zero in classifier.weight"):
        save_model_folder(model, tmp_path / "out", mask=Mask({"classifier.weight": torch.zeros(3, 16) > 0}))
    assert not (tmp_path / "out").exists()


def test_recipe_makes_oracles(tmp_path: Path, pets: Path, vit: Path) -> None:
    images = load_images(f"imagefolder:{pets}", vit, batch_size=4)
    recipe = TransformersRecipe(folder=vit, epochs=12, lr=3e-3, init_seed=3)
    assert _bits(recipe.initial(seeded(0))) == _bits(recipe.initial(seeded(1)))
    free = TransformersRecipe(folder=vit, epochs=1)
    assert _bits(free.initial(seeded(0))) != _bits(free.initial(seeded(1)))
    assert _bits(free.initial(seeded(0))) == _bits(free.initial(seeded(0)))
    model = recipe.build(images.train, rng=seeded(0))
    assert _bits(model) == _bits(recipe.build(images.train, rng=seeded(0)))
    accuracy = [
        float((predict(m, images.heldout).argmax(1) == read_labels(images.heldout)).float().mean())
        for m in (model, recipe.initial(seeded(0)))
    ]
    assert accuracy[0] >= accuracy[1] + 0.3  # a class is a colour
    based = TransformersRecipe(folder=vit, base=vit)
    assert _bits(based.initial(seeded(0))) == _bits(load_model(vit))
    for wrong in ({"epochs": 0}, {"lr": 0.0}, {"recover_lr": -1.0}):
        with pytest.raises(InputError, match=f"TransformersRecipe.*{next(iter(wrong))}"):
            TransformersRecipe(folder=vit, **wrong)  # type: ignore[arg-type]


_USE = """
import sys
from pathlib import Path
from unweave.errors import MissingExtraError
from unweave.io.transformers_folder import load_images, load_model
model, pets = Path(sys.argv[1]), sys.argv[2]
try:
    load_model(model)
    images = load_images("imagefolder:" + pets, model)
    list(images.train.batches())
except MissingExtraError as error:
    print(error)
else:
    print("works")
"""


@pytest.mark.slow
def test_a_broken_torchvision_is_named(tmp_path: Path, vit: Path, pets: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "torchvision").mkdir(parents=True)
    (broken / "torchvision" / "__init__.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")\n'
    )
    info = broken / "torchvision-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    done = run_python(_USE, str(vit), str(pets), env={"PYTHONPATH": str(broken)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(
        "transformers, which is installed but does not import (operator torchvision::nms does not exist). "
        "Run: unweave doctor."
    )
    assert run_python(_USE, str(vit), str(pets)).stdout.strip() == "works"  # control: without it all is well


@pytest.mark.parametrize(("module", "named"), [("transformers",) * 2, ("PIL.Image", "PIL.Image")])
def test_an_absent_package_is_named(
    vit: Path, pets: Path, monkeypatch: pytest.MonkeyPatch, module: str, named: str
) -> None:
    images = load_images(f"imagefolder:{pets}", vit)
    monkeypatch.setitem(sys.modules, module, None)
    cure = r"not installed\. Run: pip install 'unweave\[vision\]'" if "." not in module else "Run: "
    with pytest.raises(MissingExtraError, match=f"needs {named}, which .*{cure}") as caught:
        list((images if module == "PIL.Image" else load_images(f"imagefolder:{pets}", vit)).train.batches())
    one_line(caught.value)
