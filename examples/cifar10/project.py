"""A user's own project: CIFAR-10, a ResNet-20, pruned to the sparsity in the environment variable SPARSITY (or dense).

    CIFAR10=./cifar10 SPARSITY=0.95 unweave forget examples/cifar10/project.py --random 500
    CIFAR10=./cifar10 unweave forget examples/cifar10/project.py --classes dog

The folder CIFAR10 holds train.npz and test.npz: `label` [n], and the JPEG files one after another in `jpeg`, beginning
at `offset` [n + 1]. EXAMPLES and EPOCHS make it smaller.
"""

import io
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unweave import Data, Supervised
from unweave.embedded.nets import ResNet, shift_and_flip
from unweave.prune import Global, Prune
from unweave.tasks import Classify

folder = Path(os.environ.get("CIFAR10", Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"))
sparsity = float(os.environ.get("SPARSITY", "0"))
epochs = int(os.environ.get("EPOCHS", "14"))
mean, std = torch.tensor((0.4914, 0.4822, 0.4465)), torch.tensor((0.2470, 0.2435, 0.2616))


def read(name: str, n: int) -> Data[Classify]:
    """The first n images (the classes are balanced), normalised."""
    packed = np.load(folder / f"{name}.npz")
    at, raw = packed["offset"], packed["jpeg"].tobytes()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(raw[at[i] : at[i + 1]]))) for i in range(n)])
    inputs = (torch.from_numpy(pixels).float() / 255 - mean) / std
    labels = torch.from_numpy(packed["label"][:n].astype(np.int64))
    images = torch.utils.data.TensorDataset(inputs.permute(0, 3, 1, 2).contiguous(), labels)
    return Data(images, Classify(classes=10), batch_size=64)


def resnet20() -> torch.nn.Module:
    return ResNet(20).to(memory_format=torch.channels_last)


train, heldout = read("train", int(os.environ.get("EXAMPLES", "8000"))), read("test", 3000)
class_names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
columns = {"class": [class_names[label] for label in train.examples.tensors[1].tolist()]}
recipe = Supervised(
    network=resnet20,
    epochs=epochs,
    lr=0.1,
    augment=partial(shift_and_flip, pad=4),
    init_seed=0,
    prune=Prune(budget=Global(sparsity)) if sparsity else None,
    recover_epochs=max(2, epochs // 3) if sparsity else 0,
    recover_lr=0.05,
)
