"""A user's own project: CIFAR-10, a ResNet-20, pruned to the sparsity in the environment variable SPARSITY (or dense).

    SPARSITY=0.95 unweave forget examples/cifar10/project.py --random 500 --method unprune+fine-tune
    unweave forget examples/cifar10/project.py --classes dog --method salun

The data are read from the folder in the environment variable CIFAR10, which holds train.npz and test.npz, each with
`jpeg` (bytes of all images), `offset` (where each begins) and `label`. EXAMPLES and EPOCHS make it smaller.
"""

import io
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unweave import Supervised
from unweave.embedded.nets import ResNet, shift_and_flip
from unweave.prune import Global, Prune

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read(name, count):
    packed = np.load(Path(os.environ["CIFAR10"]) / f"{name}.npz")
    at, raw = packed["offset"], packed["jpeg"].tobytes()
    images = np.stack([np.asarray(Image.open(io.BytesIO(raw[at[i] : at[i + 1]]))) for i in range(count)])
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    inputs = (inputs - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return inputs.contiguous(), torch.from_numpy(packed["label"][:count].astype(np.int64))


def resnet20():
    return ResNet(20).to(memory_format=torch.channels_last)


sparsity = float(os.environ.get("SPARSITY", "0"))
epochs = int(os.environ.get("EPOCHS", "14"))

train, heldout = read("train", int(os.environ.get("EXAMPLES", "8000"))), read("test", 3000)
class_names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
columns = {"class": [class_names[label] for label in train[1].tolist()]}
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
