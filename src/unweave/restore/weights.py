"""A trained restorer in one safetensors file, with what it was made of: nothing else is needed to read it back."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch.nn import Module

from ..errors import InputError, IntegrityError
from ..io.nested import load_nested, save_nested


class Restorer(Protocol):
    """A network of this family, as `save_restorer` and `unweave restore` take it.

    Attributes:
        method: name of its method.
        made: the arguments that make it anew.
    """

    method: ClassVar[str]
    made: dict[str, Any]

    def restore(self, degraded: Any, **options: Any) -> Any:
        """What was degraded, restored; the keyword arguments are what can be asked for."""
        ...


def save_restorer(net: Module, path: Path) -> None:
    """Write a network of this family, whole or not at all.

    Args:
        net: with `method` and `made`.
        path: a file that ends in .safetensors.

    Raises:
        InputError: if it is no network of this family.
        StorageError: if the file cannot be written.
    """
    kept: Any = net
    if type(net) not in networks().values():
        raise InputError(
            f"save_restorer writes {', '.join(c.__name__ for c in networks().values())}; got {type(net).__name__}."
        )
    save_nested({"method": kept.method, "made": kept.made, "weights": net.state_dict()}, Path(path))


def load_restorer(path: Path) -> Any:
    """Read what `save_restorer` wrote, in eval mode.

    Raises:
        InputError: if there is no such file.
        IntegrityError: if it is damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file of weights {path}.")
    told = load_nested(path)
    if not isinstance(told, dict) or not {"method", "made", "weights"} <= told.keys():
        raise IntegrityError(f"{path} holds no network of the restore family. Write one by save_restorer.")
    known = networks()
    if told["method"] not in known:
        raise IntegrityError(
            f"{path} is of the method {told['method']!r}; known are {', '.join(sorted(known))}."
        )
    try:
        net = known[told["method"]](**told["made"])
        net.load_state_dict(told["weights"])
    except (TypeError, RuntimeError, InputError) as error:
        raise IntegrityError(
            f"{path}: the weights are not those of the network it names ({' '.join(str(error).split())[:200]})."
        ) from error
    return net.eval()


def networks() -> dict[str, type[Any]]:
    """Name of a method -> the class of its network, found among what the family exports."""
    family = vars(import_module("unweave.restore")).values()
    found: list[Any] = [kind for kind in family if inspect.isclass(kind) and issubclass(kind, Module)]
    return {kind.method: kind for kind in found if isinstance(getattr(kind, "method", None), str)}
