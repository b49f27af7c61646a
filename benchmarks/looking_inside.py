"""SMDL's search in batches against one region at a time; a step of our sparse autoencoder beside sae-lens'.

    python -m benchmarks.looking_inside

The second part needs sae-lens, which unweave does not: without it only our own step is timed, and that is said.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.embedded.nets import small_cnn
from unweave.interpret import SMDL, Dictionary, Viewer
from unweave.interpret.regions import squares
from unweave.random import global_seed

VECTORS, WIDTH, LATENTS, K, BATCH = 200_000, 256, 1024, 32, 2048


def seconds(work, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        began = perf_counter()
        work()
        times.append(perf_counter() - began)
    return median(times)


def search() -> None:
    """One search over 49 regions of a picture of 28 x 28 pixels, 64 images at once and one at a time."""
    with global_seed(0):
        net = small_cnn(classes=10, width=8).eval()
    image = torch.rand(3, 28, 28, generator=seeded(0))
    taken = {}
    for size in (1, 64):
        viewer = Viewer.of(net, image, squares(28, 28, 49), batch_size=size)
        taken[size] = seconds(lambda viewer=viewer: SMDL().search(viewer, 0, rng=seeded(0)))
    print(
        f"SMDL, 49 regions: {taken[1]:.2f} s one at a time, {taken[64]:.2f} s in batches: {taken[1] / taken[64]:.1f} times"
    )


def ours(x: torch.Tensor) -> float:
    """Seconds a step of TopK with AuxK, on vectors in memory."""
    how = Dictionary(latents=LATENTS, k=K, batch_size=BATCH, buffer=2 * BATCH)
    data = Data(TensorDataset(x), None, BATCH)
    return seconds(lambda: how.fit(data, rng=seeded(0)), 1) / (len(x) / BATCH)


def theirs(x: torch.Tensor) -> float | None:
    """The same of sae-lens' TopK, forward, backward and Adam; None where it is not installed."""
    try:
        from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.saes.sae import TrainStepInput
    except ImportError:
        return None
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=WIDTH, d_sae=LATENTS, k=K))
    optimizer = torch.optim.Adam(sae.parameters(), 1e-3)
    silent = torch.zeros(LATENTS)

    def run() -> None:
        nonlocal silent
        for at, batch in enumerate(x.split(BATCH)):
            told = TrainStepInput(
                sae_in=batch,
                coefficients={},
                dead_neuron_mask=silent > 20_000,
                n_training_steps=at,
                is_logging_step=False,
            )
            found = sae.training_forward_pass(told)
            optimizer.zero_grad()
            found.loss.backward()
            optimizer.step()
            silent = (silent + len(batch)) * (found.feature_acts.detach().to_dense() <= 0).all(0)

    return seconds(run, 1) / (len(x) / BATCH)


def main() -> None:
    torch.set_num_threads(1)
    search()
    x = torch.randn(VECTORS, WIDTH, generator=seeded(0)) @ torch.randn(WIDTH, WIDTH, generator=seeded(1)) / 16
    own, other = ours(x), theirs(x)
    beside = (
        "sae-lens is not installed: not compared"
        if other is None
        else f"{other * 1000:.0f} ms in sae-lens, ratio {own / other:.2f}"
    )
    print(f"a step of {BATCH} vectors of width {WIDTH}, {LATENTS} latents: {own * 1000:.0f} ms; {beside}")


if __name__ == "__main__":
    main()
