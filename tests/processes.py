"""Python in a process of its own, without paying for its imports each time.

One server a test worker imports the heavy libraries once; every run is forked from it, with its own session, folder,
environment, arguments and streams. Variables that the interpreter or its imports read (PYTHON*, LC_*) take a new interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])
Done = subprocess.CompletedProcess[str]


def run_module(module: str, *arguments: str, cwd: Path, timeout: float = 300, **environment: str) -> Done:
    """`python -m module arguments` in that folder, with these variables beside the ones of this process."""
    return _run(["-m", module, *arguments], cwd, environment, timeout)


def run_python(
    script: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> Done:
    """`python -c script arguments`."""
    return _run(["-c", script, *arguments], cwd, env or {}, timeout)


def run_file(path: Path, *arguments: str, cwd: Path, timeout: float = 600, **environment: str) -> Done:
    """`python path arguments`."""
    return _run([str(path), *arguments], cwd, environment, timeout)


def run_ranks(path: Path, *arguments: str, cwd: Path, processes: int = 2, timeout: float = 200) -> None:
    """`torchrun --nproc-per-node processes path arguments`: processes that are told who they are in its variables.

    One process is told nothing, as without torchrun.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    run_at_once(
        [str(path), *arguments],
        [{**told, "RANK": str(r), "LOCAL_RANK": str(r)} if processes > 1 else {} for r in range(processes)],
        cwd=cwd,
        timeout=timeout,
    )


def run_at_once(
    command: list[str], environments: Sequence[Mapping[str, str]], *, cwd: Path, timeout: float = 300
) -> None:
    """`python command` several times at once, each with variables of its own; all must end well."""
    with tempfile.TemporaryDirectory() as streams:
        folders = [Path(streams, str(i)) for i in range(len(environments))]
        processes = []
        for folder, environment in zip(folders, environments, strict=True):
            folder.mkdir()
            processes.append(_started(command, cwd, environment, folder))
        end = time.monotonic() + timeout
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        ends = [process.exitcode for process in processes]
        for process in processes:
            _kill(process)
        assert set(ends) == {0}, (ends, [(f / "err").read_text()[-3000:] for f in folders])


def run_and_kill(
    script: str,
    *arguments: str,
    ready: Callable[[], bool],
    after: float,
    cwd: Path | None = None,
    timeout: float = 120,
) -> bool:
    """Start `python -c script arguments`; `after` seconds after `ready()` turns true, kill -9 its whole session.

    Returns:
        True if it was killed, False if it ended by itself before that.
    """
    with tempfile.TemporaryDirectory() as streams:
        process = _started(["-c", script, *arguments], cwd, {}, Path(streams))
        try:
            end = time.monotonic() + timeout
            while not ready() and process.is_alive():
                assert time.monotonic() < end, "it never got ready"
                time.sleep(0.005)
            process.join(after)
            if process.is_alive():
                return True
            assert process.exitcode == 0, Path(streams, "err").read_text()
            return False
        finally:
            _kill(process)


def _run(command: list[str], cwd: Path | None, environment: Mapping[str, str], timeout: float) -> Done:
    if any(name.startswith(("PYTHON", "LC_")) for name in environment):
        return subprocess.run(
            [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=timeout,
            env=_variables(environment), check=False,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as streams:
        process = _started(command, cwd, environment, Path(streams))
        process.join(timeout)
        ended = process.exitcode
        if ended is None:
            _kill(process)
        out, err = (Path(streams, name).read_text(encoding="utf-8") for name in ("out", "err"))
    if ended is None:
        raise subprocess.TimeoutExpired(command, timeout, out, err)
    return subprocess.CompletedProcess([sys.executable, *command], ended, out, err)


def _started(
    command: list[str], cwd: Path | None, environment: Mapping[str, str], streams: Path
) -> ForkServerProcess:
    variables = _variables(environment)
    process = SERVER.Process(target=_begin, args=(command, str(cwd or Path.cwd()), variables, str(streams)))
    process.start()
    return process


def _begin(command: list[str], cwd: str, variables: Mapping[str, str], streams: str) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    sys.stdout, sys.stderr = (
        open(Path(streams, name), "w", encoding="utf-8", buffering=1) for name in ("out", "err")
    )
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    sys.stdin = open(os.devnull)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test worker may ignore it
    kind, *rest = command
    sys.path.insert(0, str(Path(kind).parent) if kind not in ("-m", "-c") else cwd)
    sys.argv = [kind, *rest] if kind not in ("-m", "-c") else [kind, *rest[1:]]
    if kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy.run_path(kind, run_name="__main__")


def _kill(process: ForkServerProcess) -> None:
    if process.is_alive():
        assert process.pid is not None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # before it has a session of its own
            process.kill()
    process.join()


def _variables(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}
