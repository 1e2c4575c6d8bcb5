"""The report as one page that needs no network."""

from __future__ import annotations

import base64
import html

from edgetam_pl.evaluation.report import Report


def page(report: Report) -> str:
    """HTML with everything inside."""
    rows = "".join(
        f"<tr><td>{html.escape(r.sequence)}</td><td>{html.escape(r.object)}</td><td>{r.score:.1f}</td></tr>"
        for r in report.worst_first()
    )
    pictures = "".join(
        f'<figure><img src="data:image/jpeg;base64,{base64.b64encode(s.picture).decode()}"><figcaption>{html.escape(s.name)}</figcaption></figure>'
        for s in report.sequences
        if s.picture is not None
    )
    return f"<!doctype html><meta charset=utf-8><title>{html.escape(report.title)}</title><table>{rows}</table>{pictures}"
