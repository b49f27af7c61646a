"""Audits of the first version of audit.json, one for classifiers and another for pipelines, as of the second."""

from __future__ import annotations

from typing import Any


def converted(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The audits of a record of version 1.

    Raises:
        KeyError, TypeError, AttributeError: if an entry is missing or of the wrong kind.
    """
    if record["format"] == "unweave audit":
        return [_classifier(entry) for entry in record["audits"]]
    found = [_drawing(entry) for entry in record["audits"]]
    if record["in turn"]:
        found[0]["panels"].append({"name": "turns", "unit": "%", "rows": record["in turn"]})
    return found


def _classifier(entry: dict[str, Any]) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    if entry["scores"]:
        samples = {"holders" if k == "held" else k: row for k, row in entry["scores"].items()}
        panels.append({"name": "scores", "unit": "nats", "samples": samples})
    for name, key, unit in (("classes", "per_class", "%"), ("layers", "layers", "share")):
        if entry[key]:
            panels.append({"name": name, "unit": unit, "rows": entry[key]})
    return {**entry, "kind": "classifier", "verdict": {**entry["verdict"], **_NEW}, "panels": panels}


def _drawing(entry: dict[str, Any]) -> dict[str, Any]:
    verdict = {"outcome": entry["verdict"], "reason": entry["reason"], **_NEW}
    return {
        "kind": "drawing",
        "method": entry["method"],
        "verdict": {**verdict, "position": None, "accepted": None, "rejected": None, "caveats": []},
        "controls": [
            {"name": text, "expected": "so", "got": "so" if passed else "not so", "passed": passed}
            for text, passed in entry["controls"]
        ],
        "rates": None,
        "measurements": entry["measurements"],
        "panels": [{"name": "concepts", "unit": "%", "rows": entry["concepts"]}] if entry["concepts"] else [],
    }


_NEW: dict[str, Any] = {"checks": [], "next_step": ""}
