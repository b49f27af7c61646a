"""transformers loaded quietly, with errors of ours: what images and folders share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError, IntegrityError, MissingExtraError, UnweaveError, require

_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")


def config_of(folder: Path) -> Any:
    """Configuration of a transformers folder.

    Raises:
        InputError: if it has none.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no transformers folder: it has no config.json.")
    auto = transformers_class("AutoConfig")
    with loading(folder), quiet():
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def transformers_class(name: str) -> Any:
    """A class of transformers by name, or an error that names the extra."""
    transformers = require("transformers", extra="vision", purpose="reading a transformers folder")
    try:
        return getattr(transformers, name)
    except Exception as error:  # its modules are imported when first asked for
        raise _broken(error) from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's files."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a transformers folder.

    Raises:
        InputError: if it has none.
    """
    if not has_tokenizer(folder):
        raise InputError(
            f"{folder} has no tokenizer, so how its texts were cut into tokens is not known. Save the tokenizer of its "
            "training there (tokenizer.save_pretrained)."
        )
    auto = transformers_class("AutoTokenizer")
    with loading(folder), quiet():
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def loading(where: Path) -> Iterator[None]:
    """Turn whatever goes wrong while `where` is read into an error of ours."""
    try:
        yield
    except UnweaveError:
        raise
    except Exception as error:
        if any(isinstance(cause, ImportError) or "torchvision" in str(cause) for cause in _chain(error)):
            raise _broken(error) from error
        if "trust_remote_code" in str(error):
            raise IntegrityError(
                f"{where} holds a model of its own code, which would run when read, so it was not. "
                "Only architectures of transformers itself can be used."
            ) from error
        raise IntegrityError(
            f"{where} cannot be read ({short(error)}). Save or download it again."
        ) from error


def _broken(error: BaseException) -> MissingExtraError:
    root = _chain(error)[-1]
    return MissingExtraError(
        "reading a transformers folder needs transformers, which is installed but does not import "
        f"({short(root)}). "
        "Run: unweave doctor."
    )


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and reports of transformers, where it is loaded."""
    import sys

    undo: list[Callable[[], Any]] = []
    if (logging := sys.modules.get("transformers.utils.logging")) is not None:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(50)
        logging.disable_progress_bar()
        undo.append(lambda: logging.set_verbosity(level))
        undo += [logging.enable_progress_bar] if bars else []
    try:
        yield
    finally:
        for step in undo:
            step()


def short(error: BaseException) -> str:
    """An error's message on one line, at most 200 characters."""
    return " ".join((str(error) or type(error).__name__).split())[:200]
