"""The report as one HTML file: it needs no network, reads well without its script, and is a function of the report.

What the report quotes from strangers' files passes `markup.text`; pictures have to be data: URIs.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

from data_pipelines.common.files import write_text
from data_pipelines.common.text import LONG
from expressnet_jax.config import ConfigError
from expressnet_jax.report import sections_run, sections_study
from expressnet_jax.report.markup import Html, bullets, get, join, label, paragraph, span, text
from expressnet_jax.report.style import SCRIPT, STYLE

_NOT_TROUBLE = ("planned", "done")
_MOST_LISTED = 30  # runs that are not done, at the top


def write(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes the page, whole or not at all. Raises ConfigError where it cannot be written."""
    where = Path(path).expanduser()
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        write_text(where, render(report))
    except OSError as error:
        raise ConfigError(f"{where}: cannot be written ({error.strerror or error}); choose another file") from error


def render(report: dict[str, Any]) -> str:
    """The page's text, in ASCII: it is the same file in any locale."""
    title = text(report.get("title") or "Report")
    found = report.get("runs") or []
    parts = [("study", "Study", report.get("study")), ("against", "Published figures", report.get("against"))]
    links = [f'<a href="#{key}">{words}</a>' for key, words, part in [*parts, ("runs", "Runs", found)] if part]
    study = sections_study.study(report["study"]) if report.get("study") else Html("")
    main = join([study, sections_study.against(report.get("against")), sections_run.runs(found)])
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{title}</h1>
{_state(report)}{_notes(report)}</header>
{f'<nav aria-label="Contents">{bullets(links)}</nav>' if len(links) > 1 else ""}
<main id="main">
{main or paragraph("There is nothing to report: no run was found.")}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _state(report: dict[str, Any]) -> Html:
    """How many runs are done, and which are not, and why."""
    found = report.get("runs") or []
    counts = get(report, "study", "counts") or {}
    total = counts.get("planned", len(found))
    done = counts.get("done", sum(run.get("state") == "done" for run in found))
    sentences = sections_run.states(found)
    if not total and not sentences:
        return Html("")
    states = [str(run.get("state") or "in a state not known") for run in found]
    others = counts or {state: states.count(state) for state in dict.fromkeys(states)}
    rest = "".join(
        f", {span(count, 'count')} {text(state)}"
        for state, count in others.items()
        if count and state not in _NOT_TROUBLE
    )
    line = paragraph(f"{span(done, 'count')} of {span(total, 'count')} runs done{rest}.")
    if not sentences and not rest:
        return line
    more = len(sentences) - _MOST_LISTED
    listed = [*sentences[:_MOST_LISTED], *([Html(f"and {more:,} more, in the table of runs")] if more > 0 else [])]
    return Html(f'<div class="state">\n{line}{bullets(listed)}</div>\n')


def _notes(report: dict[str, Any]) -> Html:
    """The notes, less those that `_state` says already."""
    said = [f"{run.get('name')}: {run.get('state')}" for run in report.get("runs") or [] if run.get("state") != "done"]
    notes = [note for note in report.get("notes") or [] if not label(note).startswith(tuple(said))]
    return bullets(text(note, LONG) for note in notes)
