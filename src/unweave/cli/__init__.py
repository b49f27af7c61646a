"""The command line: one file a command, all in one visible table."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from rich.console import Console

from ._commands import COMMANDS
from ._plain import make_printable

EXIT_OK, EXIT_BUG, EXIT_USE, EXIT_AUDIT, EXIT_STOPPED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if all went well, 2 on wrong use or unusable input, 3 if an audit did not find that the model forgot,
        130 if interrupted (the run can be resumed), 1 (with a traceback) on a bug of ours.
    """
    make_printable()
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # the module `list` hides the builtin here
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        Console(highlight=False, soft_wrap=True).print(usage(), markup=False)
        return EXIT_OK
    if arguments[0] in ("-V", "--version"):
        from .. import __version__

        Console(highlight=False).print(f"unweave {__version__}")
        return EXIT_OK
    command, *rest = arguments
    if command not in COMMANDS:
        console.print(f"error: no command {command!r}. There are: {', '.join(COMMANDS)}.", markup=False)
        return EXIT_USE
    return _guarded(command, rest, console)


def usage() -> str:
    """The text of `unweave --help`."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: unweave COMMAND [options]\n\n"
        "Take data and weights out of trained neural networks, and prove what was done.\n\n"
        f"{table}\n\n"
        "Start with:  unweave forget               everything made on the spot, from data to report\n"
        "Then:        unweave COMMAND --help       each shows an example\n\n"
        "Exit codes: 0 done, 2 wrong use or unusable input, 3 the audit did not find that the model forgot,\n"
        "130 interrupted (run the same command again to go on), 1 a bug of ours."
    )


def in_flags(message: str) -> str:
    """A message about a job's fields in the words of the command line.

    Example:
        >>> in_flags("PruneJob.recover_epochs must be a whole number at least 0; got -1.")
        '--recover-epochs must be a whole number at least 0; got -1.'
        >>> in_flags("ForgetJob.several must be a whole number at least 1; got 0.")
        '--edits must be a whole number at least 1; got 0.'
        >>> in_flags("PruneJob.width=False would do nothing without shrink. Leave it at True.")
        '--no-width would do nothing without shrink. Leave it out.'
    """
    message = re.sub(r"(\w+Job)\.(\w+)=False (.*)Leave it at True\.", r"\1.no_\2 \3Leave it out.", message)
    message = re.sub(r"\bScanJob\.(sparsities|examples)", r"ScanJob.scan_\1", message)
    fields = r"\b(?:\w+Job|Subject|PipelineSubject)\.(\w+)"
    names = {
        "several": "edits", "given_oracles": "oracle", "given_holders": "holder", "scan_sparsities": "scan-at",
    }  # fmt: skip
    return re.sub(fields, lambda found: "--" + names.get(found[1], found[1]).replace("_", "-"), message)


def _guarded(command: str, rest: Sequence[str], console: Console) -> int:
    from ..errors import UnweaveError
    from ._blame import in_users_code

    try:
        code: int = import_module(f"unweave.cli.{command}").run(rest)
        return code
    except UnweaveError as error:
        console.print(f"error: {in_flags(str(error))}", markup=False)
        return EXIT_USE
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        console.print(
            f"error: {error.strerror or error}{place}. Nothing was left half-written.", markup=False
        )
        return EXIT_USE
    except KeyboardInterrupt:
        console.print("stopped. Run the same command again to go on from here.", markup=False)
        return EXIT_STOPPED
    except SystemExit as stop:  # tyro's own help and usage errors
        return stop.code if isinstance(stop.code, int) else EXIT_USE
    except BrokenPipeError:
        return EXIT_OK
    except Exception as error:
        if told := in_users_code(error):
            console.print(f"error: {told}", markup=False)
            return EXIT_USE
        traceback.print_exc()
        console.print("this is a bug in unweave: please report it with the lines above.", markup=False)
        return EXIT_BUG
