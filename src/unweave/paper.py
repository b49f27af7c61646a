"""Where a method comes from, kept on the method itself so that `unweave cite` can print it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A published source.

    Attributes:
        title: full title.
        authors: first authors, as one would cite them in a sentence.
        venue: where it appeared.
        year: of publication.
        arxiv: arXiv identifier, or "" if it has none.
    """

    title: str
    authors: str
    venue: str
    year: int
    arxiv: str = ""

    @property
    def url(self) -> str:
        """Link to the paper, or "" when it has no arXiv entry."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    def bibtex(self, key: str) -> str:
        """One BibTeX entry under the given key."""
        lines = [f"  title = {{{self.title}}}", f"  author = {{{self.authors}}}", f"  year = {{{self.year}}}"]
        lines.append(f"  howpublished = {{{self.venue}}}")
        if self.arxiv:
            lines += [f"  eprint = {{{self.arxiv}}}", "  archivePrefix = {arXiv}"]
        return f"@misc{{{key},\n" + ",\n".join(lines) + "\n}"

    def __str__(self) -> str:
        link = f", {self.url}" if self.arxiv else ""
        return f"{self.authors}. {self.title}. {self.venue} {self.year}{link}"
