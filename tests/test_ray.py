"""`--engine ray`: a local cluster of two nodes gives the bits that one machine's processes give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.contract import world
from tests.test_parallel import RECIPE, assert_same
from unweave.parallel import build_models, engine, parallel_map

ray: Any = pytest.importorskip("ray", reason="the ray extra is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address)
    try:
        made.wait_for_nodes()
        yield
    finally:
        ray.shutdown()
        made.shutdown()


def node_of(_: int) -> str:
    import time

    time.sleep(0.5)
    return str(ray.get_runtime_context().get_node_id())


@pytest.mark.usefixtures("cluster")
def test_two_nodes_give_the_bits_of_one_machine() -> None:
    train, _ = world.points()
    here = build_models(RECIPE, train, range(4), jobs=2)
    with engine("ray"):
        nodes = set(parallel_map(node_of, range(4), jobs=2))
        there = build_models(RECIPE, train, range(4), jobs=2)
    assert len(nodes) == 2
    assert_same(here, there)
    assert not torch.equal(next(there[0].parameters()), next(there[1].parameters()))
