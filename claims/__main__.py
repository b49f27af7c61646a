"""Run and list claims: `python -m claims run unlearn/salun`, `... run --all`, `... list`, `... table`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from claims.effects import NOT_RUN, STATUSES, status
from claims.forest import figures
from claims.framework import Result, claim_names, claim_status, read_claim, run_claim
from claims.pages import DOCS, counts, pages
from unweave.errors import UnweaveError
from unweave.io.files import write_text

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PACKAGED = ROOT / "src" / "unweave" / "claims.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m claims", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure claims and store the results")
    run.add_argument("names", nargs="*", help="as in `python -m claims list`, for example unlearn/salun")
    run.add_argument("--all", action="store_true", help="every claim")
    run.add_argument("--dry", action="store_true", help="print, do not store")
    commands.add_parser("list", help="every claim with its status")
    commands.add_parser("table", help="write from the stored results what the repository says of them")
    asked = parser.parse_args()
    try:
        if asked.command == "list":
            for name in claim_names():
                print(f"{name:40} {claim_status(name)}")
            return 0
        if asked.command == "table":
            for path, text in written().items():
                write_text(path, text)
                print(path.relative_to(ROOT))
            return 0
        names = claim_names() if asked.all else asked.names
        if not names:
            run.error("name a claim, or give --all")
        for name in names:
            show(run_claim(name, store=not asked.dry))
    except UnweaveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def show(result: Result) -> None:
    claim = read_claim(result.name)
    found = [effect.on(result.rows) for effect in claim.effects]
    print(f"{result.name}: {status(found)}   ({len(result.rows)} seeds, {result.seconds:.0f} s)")
    print(f"  claim: {claim.statement}\n  criterion: {claim.criterion}")
    for one in found:
        words = one.effect.name if one.effect.headline else f"{one.effect.name} (beside)"
        asked = f", margin {one.margin:.3g}" if one.margin else ""
        print(f"  {one.status:13} {words}: {figures(one)} {one.effect.unit}{asked}")
    for figure, meaning in claim.figures.items():
        print(f"  {figure:36} {result.mean[figure]:10.3f} +- {result.spread[figure]:.3f}   {meaning}")


def written() -> dict[Path, str]:
    """Every file that repeats what the stored results say -> what it should say."""
    statuses = {name: claim_status(name) for name in claim_names()}
    found = {DOCS / path: text for path, text in pages().items()}
    found[PACKAGED] = json.dumps(statuses, indent=1) + "\n"
    found[README] = filled(README.read_text(encoding="utf-8"))
    for name, state in statuses.items():
        card = DOCS / "methods" / f"{name.replace('_', '-')}.md"
        if card.exists():
            found[card] = re.sub(
                r"^status: .*$", f"status: {state}", card.read_text(encoding="utf-8"), count=1, flags=re.M
            )
    return found


def filled(readme: str) -> str:
    """The README with its generated parts: families with their claims, and the verdict's error rates."""
    from unweave.audit.rates import published
    from unweave.catalogue import FAMILIES, methods

    families = [f"| family | methods | {' | '.join(STATUSES)} |", f"| --- | --- |{' --- |' * len(STATUSES)}"]
    for family in FAMILIES:
        names = {f"{family}/{m.cls.__module__.rpartition('.')[2]}" for m in methods() if m.family == family}
        states = counts(names & set(claim_names()))
        states[NOT_RUN] += len(names - set(claim_names()))
        families.append(f"| `{family}` | {' | '.join(map(str, (len(names), *states.values())))} |")
    rates = [
        "| models that took no part in setting the threshold | retrained: accepted | unedited: rejected "
        "| inconclusive | wrong |"
    ]
    rates.append("| --- | --- | --- | --- | --- |")
    for r in published():
        accepted = f"{100 * r.oracles_accepted:.0f} % of {r.oracles} ({_range(r.oracles_interval)})"
        rejected = f"{100 * r.unedited_rejected:.0f} % of {r.unedited} ({_range(r.unedited_interval)})"
        rates.append(
            f"| {r.source} | {accepted} | {rejected} | {100 * r.inconclusive:.0f} % | {100 * r.wrong:.1f} % |"
        )
    for name, lines in (("families", families), ("rates", rates)):
        head, _, rest = readme.partition(f"<!-- {name} -->")
        readme = (
            f"{head}<!-- {name} -->\n"
            + "\n".join(lines)
            + f"\n<!-- /{name} -->"
            + rest.partition(f"<!-- /{name} -->")[2]
        )
    return readme


def _range(interval: tuple[float, float]) -> str:
    return f"95 % interval {100 * interval[0]:.0f} to {100 * interval[1]:.0f} %"


if __name__ == "__main__":
    sys.exit(main())
