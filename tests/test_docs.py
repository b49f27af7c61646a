from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from claims.framework import claim_status
from claims.pages import signed_status
from unweave.catalogue import find
from unweave.cli import COMMANDS
from unweave.errors import InputError

pytest.importorskip("latex2mathml", reason="the docs extra is not installed")
ROOT = Path(__file__).resolve().parent.parent


def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


hooks = _hooks()
FRONT = ["name", "class", "family", "acts_on", "needs", "paper", "status", "results"]
PARTS = {
    "example": r"example",
    "hyperparameters": r"hyperparameter",
    "how it works": r"how it works",
    "against the paper": r"against the paper",
    "differences from the paper": r"differ",
    "cost": r"cost",
    "known failures": r"fail",
    "citation": r"cit",
}
CARDS = hooks.cards()
PAGES = sorted((ROOT / "docs").rglob("*.md"))
PAGES += [p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if p.exists()]


def _fences(text: str) -> list[tuple[str, str, str | None]]:
    """Language, code and, where a `text` block or one without language follows at once, what it prints."""
    found: list[tuple[str, str, str | None]] = []
    language, inside, after = None, [], False
    for line in text.splitlines():
        if language is None and line.startswith("```"):
            language, inside = line[3:].strip(), []
        elif line.rstrip() == "```":
            if language in ("", "text") and after:
                found[-1] = (*found[-1][:2], "\n".join(inside))
            else:
                found.append((str(language), "\n".join(inside), None))
            after, language = found[-1][2] is None, None
        elif language is not None:
            inside.append(line)
        elif line.strip():
            after = False
    return found


def _blocks(language: str) -> list[object]:
    found = []
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        blocks = [b for b in _fences(page.read_text(encoding="utf-8")) if b[0] in language.split()]
        found += [
            pytest.param(code, printed, id=f"{name}-{k}") for k, (_, code, printed) in enumerate(blocks)
        ]
    return found


def _words(text: str) -> list[str]:
    """The words of a printed output: figures may differ in the last digit from machine to machine."""
    return re.sub(r"[-−+]?\d[\d.,]*(e[-+]?\d+)?", "#", text).split()


def test_blocks_are_found_with_what_they_print() -> None:
    page = "a\n```python\nx\n```\n\n```\n1\n```\n```sh\ny\n```\nwords\n```text\nz\n```\n"
    assert _fences(page) == [("python", "x", "1"), ("sh", "y", None), ("text", "z", None)]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "printed"), _blocks("python"))
def test_python_block_runs_and_prints_what_the_page_says(
    code, printed, capsys, tmp_path, tmp_path_factory, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # one cache for all pages, as a reader has: the same world's references are trained once
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path_factory.getbasetemp() / "pages"))
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    exec(compile(code, "page", "exec"), module.__dict__)
    if printed is not None:
        assert _words(capsys.readouterr().out) == _words(printed)


@pytest.mark.parametrize(("code", "printed"), _blocks("sh console bash"))
def test_commands_on_the_page_exist(code, printed) -> None:
    for line in code.splitlines():
        words = line.removeprefix("$ ").split()
        if words[:1] != ["unweave"] or len(words) < 2:
            continue
        assert words[1] in COMMANDS or words[1].startswith("-")
        for flag, value in zip(words, words[1:], strict=False):
            if flag in ("--method", "--compare"):
                assert [find(name) for name in value.split("+")]


@pytest.mark.parametrize("card", CARDS, ids=lambda c: c.path)
def test_card_has_its_front_matter_and_parts_in_order(card) -> None:
    assert list(card.meta) == FRONT
    assert all(card.meta[key] not in (None, "", []) for key in FRONT)
    assert card.meta["family"] == card.path.split("/")[1]
    text = re.sub(r"^```.*?^```", "", card.body, flags=re.MULTILINE | re.DOTALL)
    first = re.split(r"^#+ .*$", text, maxsplit=2, flags=re.MULTILINE)
    opening = "".join(first[:2]).strip()
    assert opening, "a card begins with one sentence on what the method does"
    assert re.search(r"\buse\b", opening, re.IGNORECASE), "then it says when to use it and when not"
    headings = [h.lower() for h in re.findall(r"^## (.+)$", text, flags=re.MULTILINE)]
    at = 0
    for part, pattern in PARTS.items():
        places = [k for k in range(at, len(headings)) if re.search(pattern, headings[k])]
        assert places, f"no section {part!r} (in this order) among {headings}"
        at = places[0] + 1
    assert card.body.count("<!-- fields -->") == 1
    assert card.body.count("<!-- claim -->") == 1
    assert "TODO" not in card.body


@pytest.mark.parametrize("card", CARDS, ids=lambda c: c.path)
def test_card_agrees_with_the_code_and_the_stored_claim(card) -> None:
    for cls in card.classes:
        for name in hooks.settings(cls):
            assert f"| `{name}` |" in hooks.expand(card)
    assert card.meta["status"] == claim_status(card.claim)
    assert card.meta["results"] == f"claims/results/{card.claim}.json"
    assert "<!--" not in hooks.expand(card)


def test_fields_become_a_table() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Method:
        """One.

        Attributes:
            rate: how fast,
                in 1/s.
            names: a | b.
            size: needed by all.
        """

        size: int
        rate: float = 0.5
        names: tuple[str, ...] = field(default_factory=tuple)
        paper: ClassVar[str] = "x"

    assert hooks.fields_table(Method).splitlines()[2:] == [
        "| `size` | needed | needed by all. |",
        "| `rate` | `0.5` | how fast, in 1/s. |",
        "| `names` | `()` | a \\| b. |",
    ]


def test_a_constructors_arguments_become_a_table() -> None:
    class Method:
        """One.

        Args:
            params: to train.
            base: that steps.
            rate: how fast.
            keywords: for the base.
        """

        def __init__(
            self, params: list[int], base: type = int, *, rate: float, **keywords: float
        ) -> None: ...

    assert hooks.fields_table(Method).splitlines()[2:] == [
        "| `base` | `int` | that steps. |",
        "| `rate` | needed | how fast. |",
    ]


def test_field_without_prose_is_refused() -> None:
    @dataclass
    class Method:
        """One."""

        rate: float = 0.5

    with pytest.raises(ValueError, match=r"Method\.rate has no line"):
        hooks.fields_table(Method)


def test_overview_names_every_method_with_its_claims_status() -> None:
    from unweave.catalogue import methods

    page = hooks.overview()
    carded = {cls for card in CARDS for cls in card.classes}
    for method in methods():
        assert method.cls in carded or f"`{method.cls.__name__}`" in page
    for card in CARDS:
        row = next(r for r in page.splitlines() if f"({card.path.removeprefix('methods/')})" in r)
        assert row.endswith(f"{signed_status(card.claim)} |")


def test_navigation_has_the_main_family_first() -> None:
    from types import SimpleNamespace

    nav = {k: v for part in hooks.on_config(SimpleNamespace()).nav for k, v in part.items()}
    families = [next(iter(part)) for part in nav["Methods"]]
    assert families == ["All methods", *hooks.FAMILY.values()]
    assert families[1] == "Forget data and classes"
    assert nav["Guide"][:2] == ["guide/which-method.md", "guide/deletion-requests.md"]


def test_home_says_what_the_embedded_example_takes_out() -> None:
    from unweave.embedded.digits import digits
    from unweave.tasks import read_labels

    gone = int((read_labels(digits()[0]) == 3).sum())
    told = "takes class 3 out again ({} of the {} training examples)"
    assert told.format(gone, len(read_labels(digits()[0]))) in (ROOT / "docs" / "index.md").read_text(
        encoding="utf-8"
    )


def _advised(family: str) -> list[str]:
    """Names of the methods in the table of a family, after the columns from the code were added."""
    rows = hooks.chosen.widened((ROOT / "docs" / hooks.chosen.PAGE).read_text(encoding="utf-8")).splitlines()
    return [
        re.findall(r"`([\w-]+)`", row)[0]
        for row in rows
        if row.startswith("|") and f"methods/{family}/" in row
    ]


@pytest.mark.parametrize("family", ["unlearn", "prune", "erase", "experts", "generate", "interpret"])
def test_every_method_is_in_its_table_of_which_method_once(family) -> None:
    from unweave.catalogue import methods

    assert sorted(_advised(family)) == sorted(m.name for m in methods() if m.family == family)


def test_tables_of_which_method_link_to_the_card_of_the_method_and_tell_what_the_code_says() -> None:
    page = (ROOT / "docs" / hooks.chosen.PAGE).read_text(encoding="utf-8")
    described = {cls: card.path for card in CARDS for cls in card.classes}
    for name, card in re.findall(r"^\| \[`([\w-]+)`\]\(\.\./([^)]+)\)", page, re.MULTILINE):
        method = find(name)
        assert (ROOT / "docs" / card).is_file()
        if method.name != "synflow":  # the score alone, on the card of the pruner that repeats it
            assert described[method.cls] == card
    wide = hooks.chosen.widened(page)
    salun = next(row for row in wide.splitlines() if "[`salun`]" in row)
    assert salun.endswith(f" | Edit | forget | {signed_status('unlearn/salun')} |")
    columns = [
        [row.count("|") for row in part.splitlines()] for part in re.findall(r"(?:^\|.*\n)+", wide, re.M)
    ]
    assert len(columns) == 8
    assert all(len(set(part)) == 1 for part in columns)


def test_a_row_of_which_method_without_a_known_method_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin with"):
        hooks.chosen.widened("| method | advice |\n| --- | --- |\n| salun | x |\n")
    with pytest.raises(InputError, match="no method 'salum'"):
        hooks.chosen.widened(
            "| method | advice |\n| --- | --- |\n| [`salum`](../methods/unlearn/salun.md) | x |\n"
        )


def test_equations_become_mathml_and_code_stays() -> None:
    page = "Take $x_1^2$ of\n```sh\n$ make $x$\n```\nand `$y$`, at \\$5.\n\n$$\\frac{a}{b}$$\n"
    made = hooks.maths.set_equations(page, "p.md")
    assert "<msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup>" in made
    assert "```sh\n$ make $x$\n```\nand `$y$`, at \\$5." in made
    assert re.search(
        r'^<div class="equation"><math [^>]*display="block"><mrow><mfrac>.*</math></div>$', made, re.M
    )


def test_equations_reach_the_page_as_they_are_set() -> None:
    from xml.etree import ElementTree

    from markdown import Markdown

    page = "a $a*b*c$ and $\\lvert x_i \\rvert + p(y|x)$\n$k$ d\n\n| t |\n| --- |\n| $p(y|x)$ |\n"
    shown = Markdown(extensions=["tables"]).convert(hooks.maths.set_equations(page, "p.md"))
    tree = ElementTree.fromstring(f"<page>{shown}</page>")
    found = ["".join(m.itertext()) for m in tree.iter("{http://www.w3.org/1998/Math/MathML}math")]
    assert found == ["a*b*c", "|xi|+p(y|x)", "k", "p(y|x)"]
    bars = [o for o in tree.iter("{http://www.w3.org/1998/Math/MathML}mo") if o.text == "|"]
    assert [bar.get("form") for bar in bars] == ["prefix", "postfix", None, None]
    assert not list(tree.iter("em"))
    assert len(tree.findall("p")) == 1


@pytest.mark.parametrize(
    ("equation", "why"),
    [
        (r"\frac{a}{b", "braces do not match"),
        (r"a}{", "braces do not match"),
        (r"\nosuch x", r"unknown command \\nosuch"),
        (r"a_1_2", "DoubleSubscripts"),
        (r"a & b", "not well-formed"),
    ],
)
def test_a_malformed_equation_is_refused_with_its_page(equation, why) -> None:
    with pytest.raises(ValueError, match=rf"methods/x/y\.md: cannot read the equation .*{why}") as caught:
        hooks.maths.set_equations(f"a\n\nSo ${equation}$ it is", "methods/x/y.md")
    assert equation.replace("\\", "\\\\") in str(caught.value)


def test_a_lone_dollar_is_refused_with_its_line() -> None:
    with pytest.raises(ValueError, match=r"p\.md, line 3: a dollar sign"):
        hooks.maths.set_equations("a\n\ncosts $5\n", "p.md")


@pytest.mark.parametrize("page", [p for p in PAGES if "docs" in p.parts], ids=lambda p: p.stem)
def test_equations_of_every_page_can_be_read(page) -> None:
    text = page.read_text(encoding="utf-8")
    made = hooks.maths.set_equations(text, page.name)
    assert made.count("<math ") == len(
        re.findall(r"\$\$.+?\$\$|(?<!\$)\$[^\s$][^$]*\$", _without_code(text), re.S)
    )


def test_cards_hold_no_equation_in_plain_text() -> None:
    for card in CARDS:
        part = re.search(r"^## How it works\n(.*?)^## ", card.body, re.M | re.S)
        assert part is not None
        words = re.sub(r"\$\$.+?\$\$|\$[^$]+\$", "", _without_code(part[1]), flags=re.S)
        assert not re.findall(r"\^|\|\||sqrt|<-|\b\w_\w|\bgrad |\bsum_|\blambda\b", words), card.path


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.M | re.S)


@cache
def _reference(slug: str) -> str:
    return hooks.api.page(slug, {})


UNTOLD = {"unweave.__main__", "unweave.cli", "unweave.moved"}
"""Modules that nobody imports from: the command line, and names of former releases."""


@pytest.mark.parametrize("slug", hooks.api.PAGES)
def test_reference_has_an_entry_for_every_public_name_with_what_it_is(slug) -> None:
    wanted = {name for module in hooks.api.PAGES[slug] for name in hooks.api.names(import_module(module))}
    entries = re.split(r"^### ", _reference(slug), flags=re.M)[1:]
    assert sorted(e.split(" ", 1)[0] for e in entries) == sorted(wanted)
    for entry in entries:
        name = entry.split(" ", 1)[0]
        assert re.search(rf"^```python\n(class )?{re.escape(name)}\b", entry, re.M), name


def test_reference_covers_every_package_and_module_of_the_first_level() -> None:
    import unweave

    told = {".".join(module.split(".")[:2]) for modules in hooks.api.PAGES.values() for module in modules}
    there = {f"unweave.{m.name}" for m in pkgutil.iter_modules(unweave.__path__)}
    assert there - told == UNTOLD


def test_an_entry_tells_signature_ranges_arguments_returns_and_errors() -> None:
    influence = _reference("unlearn").partition("### Influence ")[2].partition("\n### ")[0]
    assert "    scale: Positive | Literal['retain', 'heldout'] = 'retain',\n" in influence
    teacher = _reference("unlearn").partition("### BadTeacher ")[2].partition("\n### ")[0]
    assert re.search(r"^    retain_share: float = ", teacher, re.M)
    assert "| `retain_share` | above 0 and at most 1 |" in teacher
    assert '| `scale` | above 0, or "retain" or "heldout" | length of the step (a);' in influence
    assert "Influence.apply(model: Module, data: Request[Any], *, rng: Generator) -> Module" in influence
    assert "**Raises** `EmptyDataError` if the forget or the retain set is empty." in influence
    lowest = _reference("masks").partition("### lowest ")[2].partition("\n### ")[0]
    assert "| `n` | a whole number | how many; none or fewer choose nothing. |" in lowest
    assert "**Returns** Bool of that shape." in lowest
    sam = _reference("optim").partition("### SAM ")[2].partition("\n### ")[0]
    assert "| `rho` | at least 0 | " in sam


def test_reference_shows_what_stands_beside_a_constant_and_keeps_tags_out(tmp_path, monkeypatch) -> None:
    module = ModuleType("unweave_shown")
    source = tmp_path / "unweave_shown.py"
    source.write_text(
        '"""Of a <b> and `<i>`."""\n__all__ = ["ENDS", "f"]\nENDS = (1, 2)\n"""First and last."""\n'
        'def f(a: int, *, b: str = "x|y") -> int:\n    """Do.\n\n    Args:\n        a: one | two.\n    """\n'
    )
    module.__file__ = str(source)
    monkeypatch.setitem(sys.modules, "unweave_shown", module)
    exec(compile(source.read_text(), str(source), "exec"), module.__dict__)
    monkeypatch.setitem(hooks.api.PAGES, "shown", ("unweave_shown",))
    shown = hooks.api.page("shown", {module.f: "methods/x/f.md"})
    assert "Of a &lt;b> and `<i>`." in shown
    assert "ENDS = (1, 2)\n```\n\nFirst and last." in shown
    assert "f(a: int, *, b: str = 'x|y') -> int" in shown
    assert "| `a` | a whole number | one \\| two. |" in shown
    assert "[The method's card](../methods/x/f.md)" in shown


def test_reference_links_methods_to_their_cards() -> None:
    page = hooks.api.page("unlearn", {cls: card.path for card in CARDS for cls in card.classes})
    salun = page.partition("### SalUn ")[2].partition("\n### ")[0]
    assert "(../methods/unlearn/salun.md)" in salun


def _made_by(target: str) -> list[str]:
    """The commands that `make` would run for a target, in this environment."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", target, f"VENV={sys.prefix}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_make_command_on_a_page_is_one() -> None:
    named = {
        target
        for page in PAGES
        for target in re.findall(
            r"(?:^|`|&& )make ([a-z][\w-]*)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {"forget", "test", "test-fast", "newest", "docs", "lint"} <= named
    for target in named:
        assert _made_by(target), target


def test_ci_runs_what_the_readme_says() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    made = [line.split()[-1] for line in lines if re.match(r"(time )?make ", line)]
    assert made == ["lint", "docs", "test"]


@pytest.mark.slow
def test_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path) -> None:
    pytest.importorskip("material", reason="the docs extra is not installed")
    command = [*_made_by("docs")[-1].split(), "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(CARDS) + 7
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r"<(?:script|img|iframe)[^>]+src=\"?([^\s\">]+)", text)
        loads += [
            address
            for tag, address in re.findall(r"(<link[^>]*href=\"?([^\s\">]+)[^>]*>)", text)
            if re.search(r"rel=\"?(stylesheet|preconnect|icon|preload)", tag)
        ]
        assert not [address for address in loads if re.match(r"(https?:)?//", address)], page
    assert not list((tmp_path / "site").rglob("*.py"))
