"""What deleting 1, 10 and 100 examples from a tiny ViT costs, beside a retraining: python -m benchmarks.exact_deletion"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch.nn import Module
from torch.optim import AdamW

from unweave import Data, Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.io.files import write_text
from unweave.random import global_seed
from unweave.tasks import accuracy
from unweave.unlearn import S3T
from unweave.unlearn.exact import Ensemble, open_service, prove, save_exact, update_exact_

HOW = S3T(
    pretrained_on="500 clean digits, none of them in the data",
    shards=10, slices=6, epochs=3, rank=4, lr=5e-3,
)  # fmt: skip


def vit() -> Module:
    """Six blocks of width 32, over the sixteen 2 x 2 patches of an 8 x 8 image."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=6, num_attention_heads=4, intermediate_size=64, image_size=8, patch_size=2,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    with global_seed(0):
        model: Module = ViTForImageClassification(config).eval()
    return model


def digits() -> list[Data[Any]]:
    """Digits as images [1, 8, 8]: 500 clean ones to pretrain on; with noise, 1,000 to train on and 297 held out."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(bunch.target, dtype=torch.long)
    order = torch.randperm(len(x), generator=seeded(0))
    noisy = x + 0.25 * torch.randn(x.shape, generator=seeded(1))
    parts = ((x, order[:500]), (noisy, order[500:1500]), (noisy, order[1500:]))
    return [of_tensors(pixels[at], y[at], classes=10, batch_size=32) for pixels, at in parts]


def timed(work: Any) -> tuple[Any, dict[str, float]]:
    """What `work` returns, and the seconds it took."""
    began, began_cpu = perf_counter(), process_time()
    found = work()
    return found, {"seconds": perf_counter() - began, "cpu_seconds": process_time() - began_cpu}


def main() -> None:
    torch.set_num_threads(1)
    public, train, heldout = digits()
    pretraining = Supervised(network=vit, epochs=30, lr=2e-3, optimizer=AdamW)
    base = pretraining.build(public, rng=seeded(0)).eval()
    model, retraining = timed(lambda: HOW.adapt(base, train, rng=seeded(0)))
    plain = S3T(pretrained_on=HOW.pretrained_on, shards=1, slices=1, epochs=HOW.epochs, rank=4, lr=5e-3)
    one, once = timed(lambda: plain.adapt(base, train, rng=seeded(0)))
    told: dict[str, Any] = {
        "stages": len(model.service.states), "retraining of all stages": retraining,
        "fine-tuning of one model, once": once, "held-out accuracy of the base, %": accuracy(base, heldout), "held-out accuracy, %": accuracy(model, heldout),
        "held-out accuracy of one model, %": accuracy(one, heldout), "threads": 1,
    }  # fmt: skip
    print(told, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        save_exact(model.service, whole)
        ids = torch.randperm(len(train), generator=seeded(1)).tolist()
        for n in (1, 10, 100):
            at = Path(shutil.copytree(whole, Path(folder) / str(n)))

            def delete(at: Path = at, n: int = n) -> Ensemble:
                left, _ = open_service(at, vit()).without(ids[:n])
                update_exact_(left, at, log=())
                return Ensemble.of(left, HOW.aggregate)

            left, spent = timed(delete)
            assert left.service is not None
            found, proof = timed(lambda left=left: prove(left.service, train))
            mean, least = left.service.requests_left(seeded(0))
            told[f"{n} ids"] = {
                **spent,
                "share of a retraining": spent["cpu_seconds"] / retraining["cpu_seconds"],
                "share of one fine-tuning": spent["cpu_seconds"] / once["cpu_seconds"],
                "shards that live": len(left.members), "orders that live": sum(map(bool, sum(left.service.lengths(), []))),
                "held-out accuracy, %": accuracy(left, heldout), "requests left, expected": mean,
                "requests left, at least": least, "comparison of all that serves": proof,
                "tensors that differ": len(found.differing), "tensors compared": found.tensors,
            }  # fmt: skip
            print(n, told[f"{n} ids"], flush=True)
    write_text(Path(__file__).parent / "results" / "exact_deletion.json", json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
