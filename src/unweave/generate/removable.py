"""Units of a denoiser that can go so that diffusers' own settings still describe what is left.

Plain diffusers must read the smaller pipeline, so a unit is what its config.json can leave out:

    transformer   any block                                       num_layers
    UNet          all attention of one stage                      down_block_types, up_block_types
                  the k-th layer (k > 0) of a down stage with     layers_per_block
                  one of the mirrored up stage
                  the middle block                                mid_block_type

The first layers of a stage, which change the width, its last up layer, and samplers stay. Attention and layers of a
stage share weights: such overlaps are counted once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from torch.nn import Module, ModuleList

from ..errors import InputError
from ..models.text_to_image.layers import is_joint
from ..models.text_to_image.layouts import kind_of
from ..random import global_seed

_DOWN = {"CrossAttnDownBlock2D": "DownBlock2D"}
_UP = {"CrossAttnUpBlock2D": "UpBlock2D"}


@dataclass(frozen=True)
class Unit:
    """What is removed together.

    Attributes:
        name: for reports.
        modules: names of the modules in the denoiser that go.
        weights: parameter name -> numbers in it, of these.
        setting: field of the config, position in it (-1: the whole), and its new value; None counts one down.
        reads_prompts: whether it holds all of a stage's attention to the prompt; one such unit has to stay.
    """

    name: str
    modules: tuple[str, ...]
    weights: Mapping[str, int] = field(repr=False)
    setting: tuple[str, int, Any] = ("", -1, None)
    reads_prompts: bool = True

    @property
    def size(self) -> int:
        """Parameters that go with it."""
        return sum(self.weights.values())

    def shared(self, other: Unit) -> int:
        """Parameters of both."""
        return sum(n for name, n in self.weights.items() if name in other.weights)


def units_of(denoiser: Module) -> tuple[Unit, ...]:
    """The units of a denoiser of diffusers, in its own order.

    Raises:
        InputError: if it has none that its settings can leave out, or is no UNet or transformer.
    """
    if is_joint(denoiser):
        raise InputError(
            f"layers of a {type(denoiser).__name__} are not removed: its text and picture attend to each other, and "
            "its last block is made otherwise."
        )
    found = tuple(_blocks(denoiser) if kind_of(denoiser) == "transformer" else _stages(denoiser))
    if not found:
        raise InputError(
            f"{type(denoiser).__name__} has no layer that its config.json could leave out: no attention "
            "stage, no second "
            "layer of a stage, no middle block. Use a larger one."
        )
    return found


def without(denoiser: Module, removed: Collection[Unit]) -> Module:
    """A new denoiser without these units, made by its own class from its own settings; the others' weights are copied.

    Raises:
        InputError: if what is left does not fit what the settings describe.
    """
    kind: Any = type(denoiser)
    config = settings_without(denoiser, removed)
    known = signature(kind.__init__).parameters
    with global_seed(0):  # its first weights, which are replaced, are not drawn from the caller's generator
        made: Module = kind(**{name: config[name] for name in known if name in config})
    gone = [f"{name}." for unit in removed for name in unit.modules]
    renamed = renaming(denoiser, removed)
    state = {
        _new(name, renamed): value.clone()
        for name, value in denoiser.state_dict().items()
        if not any(name.startswith(prefix) for prefix in gone)
    }
    try:
        made.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InputError(
            f"{type(denoiser).__name__} without {', '.join(u.name for u in removed)} is not what its settings say; "
            f"its layers may have been changed by hand ({str(error)[:200]})."
        ) from error
    made.to(next(denoiser.parameters()).device).train(denoiser.training)
    flags, tables = dict(denoiser.named_parameters()), dict(denoiser.named_buffers())
    back = {new: old for old, new in renamed.items()}
    for name, weight in made.named_parameters():
        weight.requires_grad_(flags[_new(name, back)].requires_grad)
    for name, table in made.named_buffers():
        table.data = table.data.to(tables[_new(name, back)].dtype)  # those that no file holds
    return made


def settings_without(denoiser: Module, removed: Collection[Unit]) -> dict[str, Any]:
    """The config of a denoiser without these units."""
    described: Any = denoiser.config
    config: dict[str, Any] = dict(described)
    for unit in removed:
        key, at, value = unit.setting
        if at < 0:
            config[key] = config[key] - 1 if value is None and isinstance(config[key], int) else value
            continue
        stages = list(_each(config[key], len(config["down_block_types"])))
        stages[at] = stages[at] - 1 if value is None else value
        config[key] = tuple(stages)
    return config


def renaming(denoiser: Module, removed: Collection[Unit]) -> dict[str, str]:
    """Prefix of an old name -> that of the new: layers after a removed one move up in their list."""
    gone = {name for unit in removed for name in unit.modules}
    found = dict[str, str]()
    for name, module in denoiser.named_modules():
        if isinstance(module, ModuleList):
            kept = [i for i in range(len(module)) if f"{name}.{i}" not in gone]
            found |= {f"{name}.{old}.": f"{name}.{new}." for new, old in enumerate(kept) if new != old}
    return found


def _blocks(denoiser: Any) -> list[Unit]:
    """Every block of the one stack of a transformer."""
    layers = denoiser.config.get("num_layers")
    stacks = [n for n, m in denoiser.named_children() if isinstance(m, ModuleList) and len(m) == layers]
    if len(stacks) != 1 or layers < 2:
        return []
    return [
        _unit(denoiser, f"{stacks[0]}.{i}", (f"{stacks[0]}.{i}",), ("num_layers", -1, None))
        for i in range(layers)
    ]


def _stages(denoiser: Any) -> list[Unit]:
    """What the settings of a UNet can leave out."""
    config, found = denoiser.config, []
    downs, ups = config["down_block_types"], config["up_block_types"]
    layers, depths = (
        _each(config["layers_per_block"], len(downs)),
        config.get("transformer_layers_per_block", 1),
    )
    even = config.get("reverse_transformer_layers_per_block") is None
    even = even and not any(isinstance(d, list | tuple) for d in _each(depths, len(downs)))
    for key, side, types, plain in (
        ("down_block_types", "down_blocks", downs, _DOWN), ("up_block_types", "up_blocks", ups, _UP),
    ):  # fmt: skip
        for i, kind in enumerate(types):
            if kind in plain:
                names: tuple[str, ...] = (f"{side}.{i}.attentions",)
                found.append(_unit(denoiser, f"attention of {side}.{i}", names, (key, i, plain[kind])))
    for i, many in enumerate(layers):
        j, known = len(downs) - 1 - i, {*_DOWN, *_DOWN.values()}
        if not even or downs[i] not in known or ups[j] not in {*_UP, *_UP.values()}:
            continue
        for k in range(1, many):
            both = (f"down_blocks.{i}.{{}}.{k}", f"up_blocks.{j}.{{}}.{many - k}")
            names = tuple(b.format(part) for b in both for part in ("resnets", "attentions"))
            names = tuple(n for n in names if _has(denoiser, n))
            found.append(
                _unit(denoiser, f"layer {k} of stage {i}", names, ("layers_per_block", i, None), False)
            )
    if config.get("mid_block_type") is not None and _has(denoiser, "mid_block"):
        found.append(_unit(denoiser, "mid_block", ("mid_block",), ("mid_block_type", -1, None)))
    return found


def _unit(
    denoiser: Module, name: str, modules: tuple[str, ...], setting: tuple[str, int, Any], reads: bool = True
) -> Unit:
    own = {
        n: p.numel() for n, p in denoiser.named_parameters() if any(n.startswith(f"{m}.") for m in modules)
    }
    return Unit(name, modules, own, setting, reads and any(".attn2." in n for n in own))


def _each(value: Any, n: int) -> Sequence[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * n


def _has(module: Module, name: str) -> bool:
    return any(n == name for n, _ in module.named_modules())


def _new(name: str, renamed: Mapping[str, str]) -> str:
    for old, new in renamed.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name
