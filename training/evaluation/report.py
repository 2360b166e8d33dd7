"""An evaluation as one HTML page that needs nothing else: figures, charts, and the retrievals that people look at."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from dual_encoder.image import open_image
from training.evaluation.charts import histogram, interval_chart, line_chart
from training.evaluation.examples import Example, examples, score_shares
from training.evaluation.gallery import Gallery
from training.evaluation.retrieval import WAYS, Retrieved

_CURVE = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 80, 100)
_THUMBNAIL = 112  # px
_ARROWS = {"text_to_image": "text → picture", "image_to_text": "picture → text"}
_HEADINGS = {
    "recall@1": "recall@1",
    "recall@5": "recall@5",
    "recall@10": "recall@10",
    "median_rank": "median rank",
    "map": "mAP",
    "ndcg@10": "nDCG@10",
}

_STYLE = """
:root { color-scheme: light dark; --ground: #f7f7f5; --panel: #fff; --ink: #1d1f24; --quiet: #5f6570; --line: #d9dbe0;
  --s0: #2b5fd0; --s1: #c2571a; --right: #1c7a43; }
@media (prefers-color-scheme: dark) { :root { --ground: #15171b; --panel: #1f2228; --ink: #eceef2; --quiet: #a2a8b3;
  --line: #363b45; --s0: #8fb2ff; --s1: #f0a26b; --right: #6fce95; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; } h2 { font-size: 1.125rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: .9375rem; margin: 1.25rem 0 .5rem; }
.quiet { color: var(--quiet); margin: 0 0 .5rem; overflow-wrap: anywhere; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: .625rem; padding: .75rem 1rem; }
.wide { overflow-x: auto; }
.charts { margin-top: 1rem; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); }
.charts h3 { margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .75rem; vertical-align: top; }
td { border-top: 1px solid var(--line); }
th { font-weight: 600; color: var(--quiet); white-space: nowrap; }
th.name, td.name { text-align: left; } td.way { white-space: nowrap; }
td small { display: block; color: var(--quiet); font-size: .75rem; white-space: nowrap; }
svg { width: 100%; height: auto; display: block; max-width: 44rem; }
.rule { stroke: var(--line); } .dash { stroke: var(--quiet); stroke-dasharray: 4 3; }
text { font-size: 11px; fill: var(--quiet); } text.name { font-size: 12px; fill: var(--ink); }
.line { fill: none; stroke-width: 2.25; } .line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); }
.dot.s0 { fill: var(--s0); } .area { fill-opacity: .28; stroke-width: 1.5; }
.area.s0 { fill: var(--s0); stroke: var(--s0); } .area.s1 { fill: var(--s1); stroke: var(--s1); }
.keys { margin: 0 0 .25rem; display: flex; gap: 1.25rem; font-size: .8125rem; color: var(--quiet); }
.key::before { content: ""; display: inline-block; width: .75rem; height: .75rem; border-radius: .2rem;
  margin-right: .4rem; vertical-align: -.05rem; }
.key.s0::before { background: var(--s0); } .key.s1::before { background: var(--s1); }
.example { display: grid; grid-template-columns: 15rem 1fr; gap: 1rem; padding: .75rem 0;
  border-bottom: 1px solid var(--line); }
.example:last-child { border-bottom: 0; }
.query { overflow-wrap: anywhere; } .query img { display: block; margin-bottom: .25rem; }
.hits { list-style: none; margin: 0; padding: 0; display: flex; gap: .75rem; flex-wrap: wrap; }
.hits.texts { display: block; } .hits.texts li { padding: .1rem .5rem; overflow-wrap: anywhere; }
.hits li { border-left: 3px solid transparent; padding-left: .375rem; } .hits li.right { border-color: var(--right); }
.score { color: var(--quiet); font-size: .75rem; font-variant-numeric: tabular-nums; }
.right .score { color: var(--right); font-weight: 600; }
img { width: 6rem; height: 6rem; object-fit: contain; background: var(--ground); border-radius: .375rem;
  display: block; }
ul.plain { margin: .25rem 0; padding-left: 1.25rem; }
@media (max-width: 40rem) { .example { grid-template-columns: 1fr; } img { width: 4.5rem; height: 4.5rem; } }
"""


def html_report(figures: dict[str, Any], found: Retrieved | None = None) -> str:
    """The page of `figures`, as `crossmodal evaluate --json` prints them; `found` adds curves and retrievals."""
    title = f"Evaluation of {figures.get('model', 'a model')}"
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="quiet">{escape(_subtitle(figures))}</p>']
    if "text_to_image" in figures:
        parts.append(f"<h2>Retrieval</h2>{_retrieval_table(figures)}")
    if found:
        parts.append(_curves(found))
    if "comparison" in figures:
        parts.append(_comparison(figures["comparison"]))
    parts += [_slices(column, rows) for column, rows in figures.get("by", {}).items() if rows]
    for key, heading in (("classification", "Zero-shot classification"), ("linear_probe", "A linear probe")):
        if key in figures:
            parts.append(_classification(heading, figures[key]))
    for key, heading in (("probes", "Hard negatives: drawn scenes"), ("probe_data", "Hard negatives: table")):
        if key in figures:
            parts.append(_probes(heading, figures[key]))
    if found:
        parts += [_examples(found, way) for way in WAYS]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _subtitle(figures: dict[str, Any]) -> str:
    said = []
    if "images" in figures:
        said.append(f"{figures.get('data', 'data')}: {figures['images']:,} pictures, {figures['texts']:,} captions")
        said.append(f"language: {figures['language']}")
    return " · ".join([*said, "small figures: 95 % intervals"])


def _cell(value: Any, bounds: Sequence[float] | None = None, digits: int = 3) -> str:
    shown = f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"
    extra = f"<small>{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}</small>" if bounds else ""
    return f"<td>{shown}{extra}</td>"


def _table(headings: Sequence[str], rows: Sequence[str], names: int = 1) -> str:
    head = "".join(f"<th{' class=name' if i < names else ''}>{escape(h)}</th>" for i, h in enumerate(headings))
    return f'<div class="panel wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _name(text: object, rows: int = 1) -> str:
    return f'<td class="name"{f" rowspan={rows}" if rows > 1 else ""}>{escape(str(text))}</td>'


def _way(way: str) -> str:
    return f'<td class="name way">{_ARROWS[way]}</td>'


def _way_cells(figures: dict[str, Any], way: str) -> str:
    bounds = figures["intervals"][way]
    return "".join(_cell(figures[way][n], bounds[n], 1 if n == "median_rank" else 3) for n in _HEADINGS)


def _retrieval_table(figures: dict[str, Any]) -> str:
    cells = [f"<tr>{_way(way)}{_way_cells(figures, way)}</tr>" for way in WAYS]
    return _table(["", *_HEADINGS.values()], cells)


def _slices(column: str, rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        f"<tr>{_name(row['value'], 2) if way == 'text_to_image' else ''}{_way(way)}"
        f"{_cell(row['texts'] if way == 'text_to_image' else row['images'])}{_way_cells(row, way)}</tr>"
        for row in rows
        for way in WAYS
    ]
    return f"<h2>By {escape(column)}</h2>{_table([column, '', 'queries', *_HEADINGS.values()], cells, 2)}"


def _curves(found: Retrieved) -> str:
    series = []
    for way in WAYS:
        items = len(found.vectors.images if way == "text_to_image" else found.vectors.texts)
        first = found.asked[way].ranks.first
        series.append((_ARROWS[way], [(k, float(np.mean(first <= k))) for k in _CURVE if k <= max(items, 1)]))
    matched, unmatched, low, high = score_shares(found)
    scores = [("matched", matched), ("unmatched (sample)", unmatched)]
    recall = line_chart("Recall at k", series, "k")
    shares = histogram("Scores of pairs", scores, low, high, "cosine similarity")
    return (
        f'<div class="charts"><div class="panel"><h3>Recall@k</h3>{recall}</div>'
        f'<div class="panel"><h3>Scores of pairs</h3>{shares}</div></div>'
    )


def _comparison(comparison: dict[str, Any]) -> str:
    a, b = comparison["models"]
    rows, verdicts = [], []
    for way in WAYS:
        part = comparison[way]
        cells = "".join(
            f"<td>{value:+.3f}<small>{part['intervals'][n][0]:+.3f} to {part['intervals'][n][1]:+.3f}</small></td>"
            for n, value in part["difference"].items()
        )
        rows.append(f"<tr>{_way(way)}{cells}{_cell(part['only_a'])}{_cell(part['only_b'])}"
                    f"<td>{part['p']:.2g}</td></tr>")  # fmt: skip
        verdicts.append(f"<li>{escape(part['verdict'])}</li>")
    names = [_HEADINGS[n] for n in comparison["text_to_image"]["difference"]]
    table = _table(["", *names, "only A right", "only B right", "McNemar p"], rows)
    return f"<h2>{escape(b)} (B) against {escape(a)} (A)</h2>{table}<ul class=plain>{''.join(verdicts)}</ul>"


def _classification(heading: str, figures: dict[str, Any]) -> str:
    cells = "".join(_cell(figures[n], figures["intervals"].get(n)) for n in ("top1", "top5", "mean_class_recall"))
    table = _table(["top-1", "top-5", "mean class recall"], [f"<tr>{cells}</tr>"], 0)
    rows = [
        f"<tr>{_name(c['class'])}{_name(c['taken_for'])}{_cell(c['count'])}{_cell(c['share'])}</tr>"
        for c in figures["confusions"]
    ]
    worst = _table(["class", "taken for", "pictures", "share of the class"], rows, 2) if rows else ""
    counts = f"<p class=quiet>{figures['classes']} classes, {figures['images']:,} pictures</p>"
    return f"<h2>{heading}</h2>{counts}{table}{f'<h3>Confusions</h3>{worst}' if worst else ''}"


def _probes(heading: str, figures: dict[str, Any]) -> str:
    rows = [row for row in figures["probes"] if row["wording"] == "all"]
    bars = [
        (" · ".join(filter(None, [row["probe"] or "pairs", row["language"]])), row["accuracy"], *row["interval"])
        for row in rows
    ]
    chance = 0.5 if figures.get("choices", 2) == 2 else None
    return (
        f"<h2>{escape(heading)}</h2><p class=quiet>How often a picture scores higher with its caption than with one"
        f" that says nearly the same, wrongly{'; dashed: chance' if chance else ''}.</p>"
        f'<div class="panel">{interval_chart(heading, bars, chance)}</div>'
    )


def _examples(found: Retrieved, way: str) -> str:
    best, worst = examples(found, way)
    images = _Thumbnails(found.gallery)
    sections = [
        f'<h3>{title}</h3><div class="panel">{"".join(_example(found.gallery, images, way, e) for e in group)}</div>'
        for title, group in (("Worst", worst), ("Best", best))
    ]
    return f"<h2>Queries, {_ARROWS[way]}</h2>{''.join(sections)}"


def _example(gallery: Gallery, images: _Thumbnails, way: str, example: Example) -> str:
    where = f'<span class="score">right at rank {example.rank:,}</span>'
    hits = []
    if way == "text_to_image":
        query = f"{escape(gallery.texts[example.query])}<br>{where}"
        if not any(right for _, _, right in example.hits):
            query += f'{images.tag(example.picture)}<span class="score">the right one</span>'
        for item, score, right in example.hits:
            hits.append(_hit(f"{images.tag(item)}", score, right))
    else:
        query = f"{images.tag(example.picture)}{where}"
        if not any(right for _, _, right in example.hits):
            own = gallery.texts[int(np.flatnonzero(gallery.owner == example.picture)[0])]
            query += f"<br>{escape(own)}"
        for item, score, right in example.hits:
            hits.append(_hit(escape(gallery.texts[item]), score, right))
    kind = "hits" if way == "text_to_image" else "hits texts"
    return f'<div class="example"><div class="query">{query}</div><ol class="{kind}">{"".join(hits)}</ol></div>'


def _hit(content: str, score: float, right: bool) -> str:
    mark = " ✓" if right else ""
    return f'<li{" class=right" if right else ""}>{content} <span class="score">{score:.3f}{mark}</span></li>'


class _Thumbnails:
    """Small JPEGs as data URIs, each made once."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._made: dict[int, str] = {}

    def tag(self, picture: int) -> str:
        if picture not in self._made:
            image = open_image(self._gallery.pairs[picture].read(), _THUMBNAIL).image
            image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
            out = io.BytesIO()
            image.save(out, "JPEG", quality=80)
            self._made[picture] = base64.b64encode(out.getvalue()).decode()
        return f'<img alt="picture {picture + 1}" src="data:image/jpeg;base64,{self._made[picture]}">'
