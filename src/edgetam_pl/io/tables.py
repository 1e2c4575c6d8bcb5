"""Tables for people: aligned columns for a terminal, Markdown for a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; `|` within a cell is escaped.

    >>> print(markdown_table(["model", "J"], [["toy", "60.0"]]), end="")
    | model | J |
    | --- | --- |
    | toy | 60.0 |
    """
    names = list(head)
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int) -> str:
    """Aligned columns: the first `words` of them to the left, numbers after them to the right.

    >>> print(text_table(["model", "J"], [["toy", "60.0"]], words=1))
    model     J
    toy    60.0
    """
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )
