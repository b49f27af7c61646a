"""Derivatives over a data set, written once.

Two views: by parameter name (`probe`, `batch_gradients`, `mean_named_gradient`,
`named_hessian_product`), as scores want them, and as flat
vectors [d] of the weights that may move (`Point`, `Space`), as second-order methods want them.
"""

from __future__ import annotations

from .named import (
    Norms,
    batch_gradients,
    mean_named_gradient,
    named_hessian_product,
    probe,
    spaced,
    summed_gradients,
)
from .point import Curvature, Point
from .products import (
    Function,
    example_gradients,
    fisher_diagonal,
    functional,
    gradient_rows,
    hessian_product,
    mean_gradient,
    softmax_ggn_product,
)
from .solvers import Product, conjugate_gradients, woodfisher
from .space import Space, Weights

__all__ = [
    "Curvature",
    "Function",
    "Norms",
    "Point",
    "Product",
    "Space",
    "Weights",
    "batch_gradients",
    "conjugate_gradients",
    "example_gradients",
    "fisher_diagonal",
    "functional",
    "gradient_rows",
    "hessian_product",
    "mean_gradient",
    "mean_named_gradient",
    "named_hessian_product",
    "probe",
    "softmax_ggn_product",
    "spaced",
    "summed_gradients",
    "woodfisher",
]
