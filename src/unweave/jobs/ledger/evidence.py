"""What shows that a request was served: a bundle for an auditor and an answer for the person, and what checks both.

A bundle holds hashes, figures and words of ours: no id, no value of a column, no name of the user's files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ...errors import InputError, IntegrityError
from ...io.files import folder_written_beside, sha256, sha256_of
from ...io.identities import fingerprints
from .book import Ledger
from .due import Term, due
from .log import Entry
from .merkle import leads_to, leaf, path, root
from .plan import LEVELS
from .signing import Signer
from .state import Asked, Version

BUNDLE, ANSWER = "bundle.json", "answer.md"
NOT_LEGAL = "This is technical evidence of what was done, and no finding of compliance with any law."
_FORMAT = 1
_NOTICE = ("name", "old", "new", "step", "method", "level", "outcome", "why")


def write_evidence(ledger: Ledger) -> list[Path]:
    """Write the evidence of every served request that has none, and note its hash in the log.

    Returns:
        The folders that were written.
    """
    entries = list(ledger.log.entries())
    noted = {e.body["request"] for e in entries if e.kind in ("evidence", "expired")}
    state, written = ledger.state(), []
    for name in state.served:
        if name in noted:
            continue
        folder = ledger.folder / "evidence" / name
        bundle = _bundle(ledger, entries, state.requests[name])
        with folder_written_beside(folder) as beside:
            (beside / ANSWER).write_text(_answer(bundle), encoding="utf-8")
            bundle["answer"] = sha256(beside / ANSWER)
            (beside / BUNDLE).write_text(json.dumps(bundle, indent=1) + "\n", encoding="utf-8")
        ledger.log.append("evidence", {"request": name, "bundle": sha256(folder / BUNDLE)})
        written.append(folder)
    return written


def old_evidence(ledger: Ledger, now: datetime) -> list[str]:
    """Requests whose evidence was kept for as long as the policy says; () where it says nothing."""
    keep = ledger.policy.get("keep", "")
    if not keep:
        return []
    state = ledger.state()
    served = {e.number: datetime.fromisoformat(e.time) for e in ledger.log.entries() if e.kind == "served"}
    ends = {r: due(served[state.requests[r].served], Term.parse(keep)) for r in state.served}
    return [r for r, end in ends.items() if now > end and r not in state.expired]


def remove_evidence(ledger: Ledger, now: datetime) -> list[str]:
    """Remove evidence whose time is over, and say so in the log; fingerprints stay, by which examples are kept out."""
    gone = old_evidence(ledger, now)
    for request in gone:
        shutil.rmtree(ledger.folder / "evidence" / request, ignore_errors=True)
        ledger.log.append("expired", {"request": request})
    return gone


def _bundle(ledger: Ledger, entries: list[Entry], asked: Asked) -> dict[str, Any]:
    served = next(e for e in entries if e.number == asked.served)
    own = [e for e in entries if _concerns(e, asked.name)]
    last = entries[-1]
    state = ledger.state()
    lineage = [
        {k: getattr(v, k) for k in ("name", "digest", "how", "parent", "data", "recipe", "without", "entry")}
        for v in state.versions
        if v in ledger.models.impact(ledger.log.scope(asked.name)) or asked.name in v.without
    ]
    body = served.body
    return {
        "format": _FORMAT,
        "about": NOT_LEGAL,
        "request": {
            "name": asked.name, "entry": asked.entry, "received": asked.received.isoformat(),
            "due": asked.due.isoformat(),
            "served": served.time, "in time": datetime.fromisoformat(served.time) <= asked.due,
            "examples": asked.examples, "root": asked.root, "ground": asked.ground, "verified": asked.verified,
            "extended": asked.extended,
        },
        "level": body["level"], "level means": LEVELS[body["level"]],
        "models": [{**{k: m[k] for k in _NOTICE}, "lost": m.get("lost", [])} for m in body["models"]],
        "relapse": body["relapse"],
        "notices": [
            {"to": to, "model": m["name"], "stop using": m["old"], "use instead": m["new"] or "nothing: withdrawn"}
            for m in body["models"] if m["old"] != m["new"] and m["step"] != "leave" for to in m["recipients"]
        ],
        "audits": _audits(ledger, body["models"], state.versions, asked.served),
        "lineage": lineage,
        "limits": _limits(body),
        "public key": ledger.public,
        "head": {"number": last.number, "hash": last.hash, "signature": last.signature},
        "entries": [_raw(e) for e in own],
    }  # fmt: skip


def _concerns(entry: Entry, request: str) -> bool:
    body = entry.body
    if entry.kind == "request":
        return bool(body["name"] == request)
    return body.get("request") == request or request in body.get("requests", ())


def _raw(entry: Entry) -> dict[str, Any]:
    return {
        "number": entry.number, "time": entry.time, "kind": entry.kind, "body": entry.body,
        "previous": entry.previous, "hash": entry.hash, "signature": entry.signature,
    }  # fmt: skip


def _audits(
    ledger: Ledger, models: list[Mapping[str, Any]], versions: list[Version], served: int
) -> dict[str, Any]:
    """Model -> what its audit found, in figures, or the comparison of bits."""
    found = {}
    for m in models:
        version = next((v for v in reversed(versions) if v.digest == m["new"] and v.entry < served), None)
        run = ledger.models.place(version).parent if version else Path()
        file = run / "audit.json"
        if (
            version is not None and (run / "proof.json").is_file()
        ):  # of a model in shards: its bits were compared
            proof = json.loads((run / "proof.json").read_text(encoding="utf-8"))
            found[m["name"]] = {"sha256": sha256(run / "proof.json"), **proof}
        if version is None or not file.is_file():
            continue
        audit = json.loads(file.read_text(encoding="utf-8"))
        first = audit["audits"][0] if isinstance(audit, dict) and "audits" in audit else audit[0]
        found[m["name"]] = {
            "sha256": sha256(file),
            **{k: first[k] for k in ("verdict", "controls", "rates", "measurements") if k in first},
        }
    return found


def _limits(body: Mapping[str, Any]) -> list[str]:
    level = body["level"]
    told = [
        "It says which algorithm was run on which data, not that no other copy exists.",
        "Whoever holds a model from before and one from after can compare them, and learn something of what went.",
        "Settings that were once chosen on the data, such as a learning rate, were not chosen anew.",
    ]
    if level < "E3":
        told.append("The method is approximate: its verdict has error rates, which the audit names.")
    if any(r["outcome"] == "not judged" for r in body["relapse"]):
        told.append("Some earlier requests could not be judged again; the reasons stand beside them.")
    return told


def _answer(bundle: Mapping[str, Any]) -> str:
    asked, models = bundle["request"], bundle["models"]
    changed = [m for m in models if m["step"] in ("edit", "make anew")]
    gone = [m for m in models if m["step"] == "withdraw"]
    day = asked["served"][:10]
    n = asked["examples"]
    lines = [
        f"# Answer to request {asked['name']}",
        "",
        f"Your request of {asked['received'][:10]} is entry {asked['entry']} of our log. It was carried out on {day}"
        + ("." if asked["in time"] else f", later than the {asked['due'][:10]} on which it was due."),
        "",
        f"**What was removed:** {n:,} training example{'s' if n != 1 else ''}.",
        "",
        "**From which models:** "
        + (", ".join(m["name"] for m in changed) or "from none: no model in use was trained on them")
        + f". The new versions are in use since {day}." * bool(changed),
    ]
    if gone:
        lines += [
            "",
            f"**Withdrawn:** {', '.join(m['name'] for m in gone)}, which could not be made again without them.",
        ]
    if asked["extended"]:
        lines += ["", f"**Why it took longer:** {asked['extended']}"]
    lines += [
        "",
        f"**How sure this is:** level {bundle['level']}: {LEVELS[bundle['level']]}.",
        "",
        "**What cannot be said:**",
        "",
        *(f"- {limit}" for limit in bundle["limits"]),
        "",
        bundle["about"],
        "",
    ]
    return "\n".join(lines)


def verify(ledger: Ledger) -> list[str]:
    """What is wrong with a ledger: entries, scopes, models in use, evidence; empty if it is sound.

    Each sentence names the entry. Linear in the number of entries and of fingerprints.
    """
    public = (
        (ledger.folder / "signing.pub").read_text().strip()
        if (ledger.folder / "signing.pub").exists()
        else ""
    )
    wrong = ledger.log.verify(public or ledger.public)
    if public != ledger.public:
        wrong.append("entry 1 names another public key than signing.pub")
    if wrong:
        return wrong  # what follows would only repeat it
    state = ledger.state()
    for asked in state.requests.values():
        salt = ledger.salt(asked.name)
        leaves = [leaf(salt, p) for p in ledger.log.scope(asked.name)]
        if root(leaves).hex() != asked.root:
            wrong.append(
                f"entry {asked.entry}: the examples of {asked.name} are not those that were asked for"
            )
    for version in state.in_use():
        place = ledger.models.place(version)
        if not place.exists():
            wrong.append(f"entry {version.entry}: {version.name} is gone from {place}")
        elif sha256_of(place) != version.files:
            wrong.append(f"entry {version.entry}: the files of {version.name} at {place} were altered")
    for entry in ledger.log.entries():
        if entry.kind == "evidence":
            wrong += _evidence_wrong(ledger, entry)
    wrong += _against_heads(ledger)
    kept = [r for r in state.served if r not in state.expired]
    missing = [r for r in kept if not (ledger.folder / "evidence" / r / BUNDLE).is_file()]
    return wrong + [f"the evidence of {r} is missing" for r in missing]


def _against_heads(ledger: Ledger) -> list[str]:
    """Whether the newest entry of when a bundle was written is still there: a log put back from before lacks it."""
    there, wrong = {e.number: e.hash for e in ledger.log.entries()}, []
    for file in sorted((ledger.folder / "evidence").glob(f"*/{BUNDLE}")):
        try:
            head = json.loads(file.read_text(encoding="utf-8"))["head"]
            same = there.get(head["number"]) == head["hash"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # told as altered
        if not same:
            wrong.append(f"entry {head['number']} is gone or another than it was when {file} was written")
    return wrong


def _evidence_wrong(ledger: Ledger, entry: Entry) -> list[str]:
    folder = ledger.folder / "evidence" / entry.body["request"]
    if not (folder / BUNDLE).is_file():
        return []
    if sha256(folder / BUNDLE) != entry.body["bundle"]:
        return [f"entry {entry.number}: {folder / BUNDLE} was altered"]
    return [f"entry {entry.number}: {w}" for w in verify_bundle(folder)]


def verify_bundle(folder: Path) -> list[str]:
    """What is wrong with the evidence of one request, by what lies in it alone; empty if nothing is.

    Raises:
        InputError: if it is none.
    """
    file = Path(folder) / BUNDLE
    try:
        bundle = json.loads(file.read_text(encoding="utf-8"))
        public, entries = bundle["public key"], [Entry(**e) for e in bundle["entries"]]
        answer = bundle["answer"]
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no evidence: it has no {BUNDLE}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{file} is damaged ({' '.join(str(error).split())[:100]}).") from error
    wrong, signer = [], Signer(Path(folder))
    for entry in entries:
        if entry.reckoned != entry.hash:
            wrong.append(f"entry {entry.number} in it was altered")
        elif public and not signer.agrees(entry.signature, bytes.fromhex(entry.hash), public):
            wrong.append(f"entry {entry.number} in it is not signed by the key that it names")
    if not (Path(folder) / ANSWER).is_file() or sha256(Path(folder) / ANSWER) != answer:
        wrong.append(f"{Path(folder) / ANSWER} was altered or is gone")
    return wrong


def included(ledger: Ledger, request: str, identity: str) -> dict[str, Any] | None:
    """Proof that an example belongs to a request: a leaf, the path to the root, and the entry; None if it does not.

    Args:
        ledger: with the request.
        request: its name.
        identity: id of the example.
    """
    asked, salt = ledger.known(request), ledger.salt(request)
    leaves = [leaf(salt, p) for p in ledger.log.scope(request)]
    own = leaf(salt, fingerprints([identity.encode()], ledger.key)[0])
    if own not in leaves:
        return None
    proof = path(leaves, leaves.index(own))
    assert leads_to(own, proof, bytes.fromhex(asked.root))
    return {
        "request": request, "entry": asked.entry, "leaf": own.hex(), "root": asked.root,
        "path": [["left" if left else "right", beside.hex()] for left, beside in proof],
    }  # fmt: skip
