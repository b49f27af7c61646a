"""A user's own project: CIFAR-10, a ResNet-20, pruned to the sparsity in the environment variable SPARSITY (or dense).

    SPARSITY=0.95 unweave forget examples/cifar10/project.py --random 500 --method unprune+fine-tune
    unweave forget examples/cifar10/project.py --classes dog --method salun

The data are the CIFAR-10 subset of the shared data folder; see benchmarks/cifar.py.
EXAMPLES and EPOCHS make it smaller.
"""

import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.cifar import cifar10, resnet20  # noqa: E402
from unweave import Supervised  # noqa: E402
from unweave.embedded.nets import shift_and_flip  # noqa: E402
from unweave.prune import Global, Prune  # noqa: E402

sparsity = float(os.environ.get("SPARSITY", "0"))
epochs = int(os.environ.get("EPOCHS", "14"))

train, heldout = cifar10(int(os.environ.get("EXAMPLES", "8000")))
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
