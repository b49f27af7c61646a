"""Errors a user can act on: each message says who expected what, what was given, and how to mend it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class UnweaveError(Exception):
    """Root of the errors the command line prints as one message, without a traceback."""


class InputError(UnweaveError, ValueError):
    """Something the user gave cannot be used; nothing was changed."""


class EmptyDataError(InputError):
    """A data set that must hold examples holds none."""


class IntegrityError(InputError):
    """A file is damaged, changed since it was recorded, or would run code when read."""


class StorageError(UnweaveError, OSError):
    """A file could not be written (disk full, no permission); what was there before is still whole."""


class NonFiniteError(UnweaveError, ArithmeticError):
    """A loss, gradient or weight became infinite or NaN; the last good state was kept."""


class MissingExtraError(UnweaveError, ImportError):
    """An optional package is absent or broken."""


class LeftDenseWarning(UnweaveError, UserWarning):
    """Weights stay dense since the pattern does not fit them; a refusal where warnings are errors."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Args:
        module: dotted name to import.
        extra: name of the `unweave` extra that installs it.
        purpose: what the user was about to do, as the subject of a sentence ("reading parquet").

    Returns:
        The imported module.

    Raises:
        MissingExtraError: if the import fails, also when the package is there but broken.
    """
    try:
        return import_module(module)
    except Exception as error:  # a torchvision built for another torch raises RuntimeError, not ImportError
        absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        state = "is not installed" if absent else f"is installed but does not import ({error})"
        cure = f"Run: pip install 'unweave[{extra}]'." if absent else "Run: unweave doctor."
        raise MissingExtraError(f"{purpose} needs {module}, which {state}. {cure}") from error
