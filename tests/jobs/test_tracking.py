"""What trackers are told, read back with their own readers."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from unweave.errors import InputError, MissingExtraError
from unweave.jobs import PruneJob
from unweave.jobs.tracking import FOLDER, _flat, _tag, figures, tracked

from .subjects import subject

JOB = PruneJob(subject=subject(model=True), sparsity=0.5, recover_epochs=2)
STEPS = 2 * 10  # 150 examples in batches of 16


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tracked("tensorboard", tmp_path / "run", JOB.plan()) as tracking:
            assert tracking is not None
            done = JOB.run(tmp_path / "run")
            tracking.tell(done)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / FOLDER / "run"))
        events.Reload()
    tags = events.Tags()["scalars"]
    (curve,) = [t for t in tags if t.startswith("loss/training 1")]
    told = events.Scalars(curve)
    assert [e.step for e in told] == list(range(1, STEPS + 1))
    assert told[-1].value < told[0].value
    for name, (before, after, _) in done.figures.items():
        got = [
            events.Scalars(t)[0].value for t in tags if t in (_tag(f"{name} before"), _tag(f"{name} after"))
        ]
        assert sorted(got) == pytest.approx(sorted((before, after)), rel=1e-5)


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # without a database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tracked("mlflow", tmp_path / "run", JOB.plan()) as tracking:
            assert tracking is not None
            done = JOB.run(tmp_path / "run")
            tracking.tell(done)
        client = mlflow.MlflowClient()
        (experiment,) = [e for e in client.search_experiments() if e.name == "unweave"]
        (run,) = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(
            run.info.run_id, next(n for n in run.data.metrics if n.startswith("loss/"))
        )
    assert run.info.run_name == "run"
    assert (tmp_path / "mlruns").is_dir()
    assert [m.step for m in history] == list(range(1, STEPS + 1))
    assert run.data.params["recover_epochs"] == "2"
    told = figures(done)
    assert len(told) == 2 * len(done.figures)
    for name, value in told.items():
        assert run.data.metrics[_tag(name)] == pytest.approx(value)


def test_mlflow_without_a_database_writes_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    seen: list[str] = []

    def made(*_: object) -> None:
        seen.append(os.environ.get("MLFLOW_TRACKING_URI", ""))
        raise RuntimeError("far enough")

    monkeypatch.setattr("unweave.jobs.tracking._made", made)
    for database in (None, object()):  # one that can be had is mlflow's own matter
        monkeypatch.setattr("unweave.jobs.tracking.find_spec", lambda name, found=database: found)
        with pytest.raises(InputError, match="far enough"):
            tracked("mlflow", tmp_path / "run", {}).__enter__()
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert seen == [(tmp_path / "mlruns").as_uri(), ""]


def test_nothing_is_told_where_no_tracker_is_named(tmp_path: Path) -> None:
    with tracked(None, tmp_path, {}) as tracking:
        assert tracking is None
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_absent_or_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import wandb  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="--tracker wandb needs wandb, which is not installed"):
            tracked("wandb", tmp_path, {}).__enter__()
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file" / "mlruns").as_uri())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="mlflow cannot be told of this run"):
        tracked("mlflow", tmp_path / "run", {}).__enter__()


def test_names_and_settings() -> None:
    assert _tag("membership, threshold attack (AUC)/µ") == "membership_ threshold attack _AUC_/µ"
    assert _flat({"a": {"b": 1, "c": None}, "d": [1, 2], "e": True}) == {
        "a.b": 1,
        "a.c": "None",
        "d": "[1, 2]",
        "e": True,
    }
