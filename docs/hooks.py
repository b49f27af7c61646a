"""What the site makes of the code: tables of hyperparameters, results of claims, overview and navigation.

mkdocs calls the functions whose names begin with `on_`; the tests call the others.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from docstring_parser import parse

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# for `claims` and the files beside this one, which are not installed; mkdocs takes it back after this file is read
sys.path[:0] = [str(p) for p in (DOCS, ROOT) if str(p) not in sys.path]

import api  # noqa: E402
import chosen  # noqa: E402
import maths  # noqa: E402

from claims import claim_names  # noqa: E402
from claims.pages import FAMILY, card_text, family_names, signed_status  # noqa: E402

GUIDE = (
    "guide/which-method.md",
    "guide/deletion-requests.md",
    "guide/request-after-request.md",
    "guide/bring-your-own-images.md",
    "guide/bring-your-own-loop.md",
    "guide/bring-your-own-data.md",
    "guide/bring-your-own-text-classifier.md",
    "guide/forgetting-a-reviewer.md",
    "guide/bring-your-own-table.md",
    "guide/reading-the-report.md",
    "guide/error-rates.md",
    "guide/frontier.md",
    "guide/a-real-run.md",
    "guide/delivering-video.md",
    "guide/erasing-concepts.md",
    "guide/looking-inside-and-drawing.md",
    "guide/forgetting-texts.md",
    "guide/pruning.md",
    "guide/pruning-a-language-model.md",
    "guide/training-and-comparing.md",
    "guide/restoring.md",
    "guide/writing-a-method.md",
)


@dataclasses.dataclass(frozen=True)
class Card:
    """A method's page.

    Attributes:
        path: below docs/, with forward slashes.
        meta: its front matter.
        body: the rest.
    """

    path: str
    meta: dict[str, Any]
    body: str

    @property
    def claim(self) -> str:
        """Name of its claim, "family/method"."""
        _, family, slug = self.path.removesuffix(".md").split("/")
        return f"{family}/{slug.replace('-', '_')}"

    @property
    def classes(self) -> list[type[Any]]:
        """The classes it describes: `class` in the front matter, one name or several, dotted or bare.

        Raises:
            ValueError: if a name is not exported by the family.
        """
        family = import_module(f"unweave.{self.meta['family']}")
        named = self.meta["class"]
        names = named if isinstance(named, list) else str(named).split(",")
        names = [n.strip().removeprefix(f"{family.__name__}.") for n in names]
        missing = [n for n in names if n not in family.__all__]
        if missing:
            raise ValueError(f"{self.path}: unweave.{self.meta['family']} has no {', '.join(missing)}")
        return [getattr(family, n) for n in names]


def split(text: str, path: str) -> Card:
    """Cut a page into front matter and body.

    Raises:
        ValueError: if it does not begin with front matter that is a mapping.
    """
    found = re.match(r"---\n(.*?)\n---\n(.*)\Z", text, re.DOTALL)
    meta = yaml.safe_load(found[1]) if found else None
    if found is None or not isinstance(meta, dict):
        raise ValueError(f"{path} must begin with front matter between two lines of ---")
    return Card(path, meta, found[2])


def cards() -> list[Card]:
    """All method cards, by family and name."""
    found = sorted(p for p in DOCS.glob("methods/*/*.md"))
    return [split(p.read_text(encoding="utf-8"), p.relative_to(DOCS).as_posix()) for p in found]


def fields_table(cls: type[Any]) -> str:
    """Hyperparameters of a method as a Markdown table, from its fields and its docstring.

    Raises:
        ValueError: if a field has no prose in the docstring.
    """
    prose = {p.arg_name: p.description or "" for p in parse(inspect.getdoc(cls) or "").params}
    rows = ["| field | default | what it is |", "| --- | --- | --- |"]
    for name, default in settings(cls).items():
        if not prose.get(name):
            raise ValueError(f"{cls.__name__}.{name} has no line in the docstring's Attributes or Args")
        rows.append(f"| `{name}` | {default} | {_cell(prose[name])} |")
    return "\n".join(rows) if len(rows) > 2 else "It has no hyperparameter."


def settings(cls: type[Any]) -> dict[str, str]:
    """Hyperparameters and their defaults in Markdown: a dataclass's fields, else its constructor's, `params` aside."""
    if dataclasses.is_dataclass(cls):
        return {field.name: _default(field) for field in dataclasses.fields(cls)}
    return {
        p.name: "needed" if p.default is p.empty else _value(p.default)
        for p in inspect.signature(cls).parameters.values()
        if p.kind is not p.VAR_KEYWORD and p.name != "params"
    }


def overview() -> str:
    """The page that lists every method: with a link to its card where it has one."""
    from unweave.catalogue import methods

    pages, known = cards(), methods()
    covered = {cls for card in pages for cls in card.classes}
    lines = [
        "# Methods",
        "",
        "Every method, and the status of its claim as [measured here](../claims/index.md).",
    ]
    families = dict.fromkeys([*FAMILY, *(c.meta["family"] for c in pages), *(m.family for m in known)])
    for family in families:
        rows = [
            (
                f"[{_cell(c.meta['name'])}]({c.path.removeprefix('methods/')})",
                _summary(c.classes[0]),
                c.meta["needs"],
                c.claim,
            )
            for c in pages
            if c.meta["family"] == family
        ]
        rows += [
            (f"`{m.cls.__name__}`", m.summary, m.needs, f"{family}/{m.name.replace('-', '_')}")
            for m in known
            if m.family == family and m.cls not in covered
        ]
        if rows:
            lines += ["", f"## {FAMILY.get(family, family.capitalize())}", ""]
            lines += ["| method | what it does | needs | claim |", "| --- | --- | --- | --- |"]
            lines += [f"| {a} | {_cell(b)} | {_words(c) or 'data'} | {_signed(d)} |" for a, b, c, d in rows]
    return "\n".join(lines) + "\n"


def expand(card: Card) -> str:
    """A card's body with `<!-- fields -->` and `<!-- claim -->` replaced."""
    tables = []
    for cls in card.classes:
        heading = f"`{cls.__name__}`\n\n" if len(card.classes) > 1 else ""
        tables.append(heading + fields_table(cls))
    body = card.body.replace("<!-- fields -->", "\n\n".join(tables))
    return body.replace("<!-- claim -->", card_text(card.claim))


def on_config(config: Any) -> Any:
    """Make the navigation: home, guide, methods by family, claims; reference; the main family first."""
    families: dict[str, list[Any]] = {family: [] for family in FAMILY}
    for card in cards():
        families.setdefault(card.meta["family"], []).append({str(card.meta["name"]): card.path})
    methods = [{FAMILY.get(f, f.capitalize()): pages} for f, pages in families.items()]
    config.nav = [
        {"Home": "index.md"},
        {"Guide": list(GUIDE)},
        {"Methods": [{"All methods": "methods/index.md"}, *methods]},
        {
            "Claims": [
                {"All claims": "claims/index.md"},
                *({FAMILY.get(f, f.capitalize()): f"claims/{f}.md"} for f in family_names()),
            ]
        },
        {"Reference": [{slug: f"api/{slug}.md"} for slug in api.PAGES]},
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    carded = {cls: card.path for card in cards() for cls in card.classes}
    made = {"methods/index.md": overview()}
    made |= {f"api/{slug}.md": api.page(slug, carded) for slug in api.PAGES}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the generated parts of a card or of the tables of methods, and set the equations."""
    path = page.file.src_uri
    if path == chosen.PAGE:
        markdown = chosen.widened(markdown)
    if re.fullmatch(r"methods/[^/]+/[^/]+\.md", path):
        card = Card(path, dict(page.meta), markdown)
        page.meta.pop("status", None)  # the theme would draw a sign of its own in the navigation
        markdown = expand(card)
    return markdown if path.startswith("api/") else maths.set_equations(markdown, path)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value: Any = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "needed"
    return _value(value)


def _value(value: Any) -> str:
    named = getattr(value, "__name__", None)
    return f"`{named or repr(value)}`".replace("|", "\\|")


def _summary(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def _signed(claim: str) -> str:
    return signed_status(claim) if claim in claim_names() else "no claim"


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _cell(text: object) -> str:
    return _line(text).replace("|", "\\|")


def _words(value: Any) -> str:
    return _cell(", ".join(map(str, value))) if isinstance(value, list | tuple) else _cell(value)
