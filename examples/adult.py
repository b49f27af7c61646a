"""A table: who earns above 50,000 (UCI Adult), and rows taken out of a network trained on it.

Set ADULT to a folder with adult_train.csv.gz and adult_test.csv.gz (with a header); without it a table of
the same columns is drawn on the spot. As a project file: unweave forget examples/adult.py --where occupation=Sales
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from unweave import Supervised
from unweave.embedded.nets import mlp

NUMBERS = {"age": (38, 14), "education_num": (10, 3), "hours_per_week": (40, 12)}  # fixed middle and spread
KINDS = {
    "sex": ["Female", "Male"],
    "marital_status": [
        "Never-married", "Married-civ-spouse", "Divorced", "Separated", "Widowed", "Married-spouse-absent",
        "Married-AF-spouse",
    ],
    "occupation": [
        "Adm-clerical", "Armed-Forces", "Craft-repair", "Exec-managerial", "Farming-fishing", "Handlers-cleaners",
        "Machine-op-inspct", "Other-service", "Priv-house-serv", "Prof-specialty", "Protective-serv", "Sales",
        "Tech-support", "Transport-moving",
    ],
}  # fmt: skip
"""Categories fixed beforehand, so that no row decides how another is read."""


def drawn(count, seed):
    """A table with the columns of Adult, for machines without it."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({name: rng.normal(a, b, count).round() for name, (a, b) in NUMBERS.items()})
    for name, kinds in KINDS.items():
        frame[name] = rng.choice(kinds, count)
    score = (frame["education_num"] - 10) / 3 + (frame["age"] - 38) / 14 + (frame["sex"] == "Male")
    frame["income"] = np.where(score + rng.normal(size=count) > 1.5, ">50K", "<=50K")
    return frame


def read(name, count, seed):
    folder = os.environ.get("ADULT", "")
    frame = pd.read_csv(Path(folder) / f"adult_{name}.csv.gz", nrows=count) if folder else drawn(count, seed)
    frame["income"] = frame["income"].str.strip().str.removesuffix(".")
    for column, (middle, spread) in NUMBERS.items():
        frame[column] = (frame[column] - middle) / spread
    for column, kinds in KINDS.items():
        values = frame[column].str.strip()
        for kind in kinds:  # what is none of these ("?") is 0 in all of them
            frame[f"{column} {kind}"] = (values == kind).astype("float32")
        frame[column] = values
    return frame


rows = int(os.environ.get("ROWS", "2000"))
train, heldout = read("train", rows, 0), read("test", rows, 1)
label = "income"
inputs = [*NUMBERS, *(f"{column} {kind}" for column, kinds in KINDS.items() for kind in kinds)]
recipe = Supervised(network=partial(mlp, len(inputs), 64, 2), epochs=20, lr=0.05)
