"""How fast deliveries are played: 240p to 480p on two cores by ONNX Runtime and torch, and Dy-DCA's planned paths.

    python -m benchmarks.play_video [--frames 20]

Prints and writes results/play_video.json: frames a second of the networks alone and with decoding, peak memory above
what was there before, planned and unplanned bytes of Dy-DCA's paths.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from time import perf_counter

import torch

from unweave.io.files import strict_json, write_text
from unweave.random import global_seed
from unweave.restore.delivery import Backbone, Upscaler
from unweave.restore.delivery.backbones import folded, macs
from unweave.restore.delivery.patches import Grid
from unweave.restore.delivery.upscale import on_onnxruntime, on_torch
from unweave.restore.dy_dca import compiled

RESULTS = Path(__file__).parent / "results" / "play_video.json"
HEIGHT, WIDTH, CELL = 240, 426, 60
NETS = {
    "espcn 1 x 8 + bicubic": Backbone(name="espcn", blocks=1, width=8, residual=True),
    "espcn 2 x 16 + bicubic": Backbone(name="espcn", blocks=2, width=16, residual=True),
    "sesr 3 x 16": Backbone(name="sesr", blocks=3, width=16),
    "espcn, published": Backbone(name="espcn"),
}


def _speed(upscale: Upscaler, frames: int) -> float:
    low = torch.randint(256, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    labels = torch.zeros(upscale.grid.shape, dtype=torch.uint8)
    upscale(low, labels)
    began = perf_counter()
    for _ in range(frames):
        upscale(low, labels)
    return frames / (perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=20)
    frames = parser.parse_args().frames
    torch.set_num_threads(2)
    grid, rows = Grid(HEIGHT, WIDTH, CELL, CELL), {}
    for name, backbone in NETS.items():
        with global_seed(0):
            net = folded(backbone.build(2)).eval()
        ort = Upscaler(grid, 2, [on_onnxruntime(net, (CELL, CELL), threads=2)], (1,))
        own = Upscaler(grid, 2, [on_torch(net)], (1,))
        rows[name] = {
            "weights": sum(p.numel() for p in net.parameters()),
            "multiplications a frame": macs(net, HEIGHT, WIDTH),
            "frames a second, ONNX Runtime": _speed(ort, frames),
            "frames a second, torch": _speed(own, frames),
        }
        print(name, rows[name], flush=True)
    paths = {}
    for blocks, side in ((4, 30), (2, 60)):
        with global_seed(0):
            net = folded(Backbone(name="wdsr", blocks=blocks, width=8).build(2)).eval()
        _, plan = compiled(net, torch.zeros(8, 3, side, side))
        paths[f"wdsr {blocks} x 8, {side} pixels"] = {
            "planned": plan.peak,
            "least": plan.live,
            "no plan": plan.naive,
        }
    told = {
        "size": [HEIGHT, WIDTH], "cell": CELL, "rows": rows, "paths": paths, "cores": os.cpu_count(),
        "load when it began": os.getloadavg()[0],
    }  # fmt: skip
    write_text(RESULTS, strict_json(told))
    print(json.dumps(paths))


if __name__ == "__main__":
    main()
