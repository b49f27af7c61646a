"""Lists of ids, folders of images, of transformers' models and of diffusers' pipelines, for `fuzz_readers`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fuzz_readers import Reader
from unweave.io.requests import read_ids

CLASSES = ("ant", "bee", "cat")


def _ids(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        ids = [f"p{i:03d}" for i in range(20)]
        if name.endswith(".txt"):
            (folder / name).write_text("# to go\n" + "\n".join(ids) + "\n")
        elif name.endswith(".csv"):
            (folder / name).write_text("name,id\n" + "".join(f'"a, b",{i}\n' for i in ids))
        else:
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table({"n": list(range(20)), "id": ids}), folder / name)

    return make


def _images(folder: Path, end: str = "png", metadata: str = "") -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for side in ("train", "test"):
        names = []
        for c, name in enumerate(CLASSES):
            (folder / side / name).mkdir(parents=True)
            pixels = rng.integers(0, 90, (8, 9, 3), dtype=np.uint8)
            pixels[..., c] += 120
            Image.fromarray(pixels).save(folder / side / name / f"0.{end}")
            names.append(f"{name}/0.{end}")
        rows = [{"file_name": n, "user": f"0{i}", "age": i} for i, n in enumerate(names)]
        if metadata == "csv":
            text = "file_name,user,age\n" + "".join(
                f"{r['file_name']},{r['user']},{r['age']}\n" for r in rows
            )
            (folder / side / "metadata.csv").write_text(text)
        elif metadata == "jsonl":
            (folder / side / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        elif metadata == "parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / side / "metadata.parquet")


@cache
def _classifier() -> Path:
    import transformers as t

    folder = Path(tempfile.mkdtemp(prefix="fuzz-model-"))
    torch.manual_seed(0)
    names = dict(enumerate(CLASSES))
    config = t.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        id2label=names, label2id={n: i for i, n in names.items()},
    )  # fmt: skip
    t.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "do_resize": True,
                "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
            }
        )
    )  # fmt: skip
    return folder


def _read_images(folder: Path) -> Any:
    from unweave.io.images import load_images

    found = load_images(f"imagefolder:{folder}", _classifier())
    both = [[data.examples[i] for i in range(len(data))] for data in (found.train, found.heldout)]
    return [both, found.ids, found.columns, found.class_names, found.facts]


def _listed_images(folder: Path) -> Any:
    from unweave.io.image_folder import read_image_folder

    found = read_image_folder(folder)
    return [[s.files, s.classes, s.columns] for s in (found.train, found.heldout)] + [found.facts]


def _model(folder: Path) -> None:
    shutil.copytree(_classifier(), folder, dirs_exist_ok=True)


def _read_model(folder: Path) -> Any:
    from unweave.io.transformers_folder import load_model

    return load_model(folder)


@cache
def _pets() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-pets-"))
    _images(folder)
    return folder


def _processor(folder: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(_classifier() / name, folder / name)


def _read_processor(folder: Path) -> Any:
    from unweave.io.images import load_images

    found = load_images(f"imagefolder:{_pets()}", folder)
    return [[found.train.examples[i] for i in range(len(found.train))], found.class_names]


def _pipeline(folder: Path) -> None:
    from tests.erase.pipelines import folder as made

    shutil.copytree(made("sd"), folder, dirs_exist_ok=True)


def _read_pipeline(folder: Path) -> Any:
    from unweave.io.pipeline_folder import load_pipeline

    model = load_pipeline(folder)
    words = [t(["a cat"]).input_ids for t in model.tokenizers]
    return [dict(model.state_dict()), words, dict(model.scheduler.config), model.index]


def folders() -> dict[str, Reader]:
    """Readers of folders and lists."""
    ids = {
        name: Reader(_ids(name), lambda f, n=name: read_ids(f / n))
        for name in ("ids.txt", "ids.csv", "ids.parquet")
    }
    return {
        **ids,
        "images": Reader(_images, _read_images, sealed=True),
        "images.jpg": Reader(lambda f: _images(f, "jpg"), _read_images),
        "metadata.csv": Reader(lambda f: _images(f, metadata="csv"), _listed_images),
        "metadata.jsonl": Reader(lambda f: _images(f, metadata="jsonl"), _listed_images),
        "metadata.parquet": Reader(lambda f: _images(f, metadata="parquet"), _listed_images),
        "transformers": Reader(_model, _read_model),
        "processor": Reader(_processor, _read_processor),
        "pipeline": Reader(_pipeline, _read_pipeline),
    }
