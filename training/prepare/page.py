"""report.html: the report to look at, one file with no script and nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5f6570;--line:#d9dce1;--ground:#fff;--bar:#3b6fd4;--out:#c2412d}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a0a6b0;--line:#3a3f47;--ground:#16181b;--bar:#7aa5ff;
--out:#ff8a73}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);margin:0 auto;max-width:68rem;
padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.3rem 0}.soft{color:var(--soft);font-size:.875rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0;position:sticky;left:0;
background:var(--ground)}tr.none td{color:var(--soft)}
.charts,.cards{display:grid;gap:1rem}
.charts{grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr))}
.cards{grid-template-columns:repeat(auto-fill,minmax(min(13rem,100%),1fr))}
figure{margin:0;min-width:0}figcaption{font-size:.875rem}svg{width:100%;height:auto;display:block}
svg rect{fill:var(--bar)}svg text{fill:var(--soft);font-size:11px}
.card{border:1px solid var(--line);border-radius:6px;padding:.6rem}.card img{max-width:100%;height:112px;
object-fit:contain;display:inline-block;margin-right:.4rem}.why{color:var(--out)}
ul{margin:.3rem 0;padding-left:1.1rem}
"""
_NAMES = {
    "width": "Width, px", "height": "Height, px", "aspect": "Width over height",
    "caption_length": "Length of captions, characters", "cosine": "Cosine of picture and caption, all compared",
    "captions_a_picture": "Captions a picture", "languages": "Languages of captions", "formats": "Formats",
}  # fmt: skip
_SHOWN_CAPTIONS = 4


def render_page(
    report: dict[str, Any], kept: Sequence[dict[str, Any]], rejected: dict[str, list[dict[str, Any]]]
) -> str:
    """`kept` and `rejected` (by step) are sample lines with JPEG bytes in `thumbnail`."""
    title = f"Prepared data: {report['kept']['pictures']:,} pictures, {report['kept']['captions']:,} captions"
    charts = "".join(_chart(_NAMES.get(name, name), value) for name, value in report["histograms"].items())
    lost = "".join(
        f"<h3>{escape(step)}</h3><div class=cards>{''.join(map(_card, lines))}</div>"
        for step, lines in rejected.items()
    )
    return f"""<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class=soft>Source: {escape(str(report["source"]))}. {_near(report)}</p>
<h2>Splits</h2>{_splits(report)}
<h2>Steps</h2>{_steps(report)}
<h2>What stays</h2><div class=charts>{charts}</div>
<h2>Some that stay</h2><div class=cards>{"".join(map(_card, kept))}</div>
{f"<h2>Some that were left out</h2>{lost}" if lost else ""}
<h2>Options</h2><div class=wide><table>{_options(report["options"])}</table></div>
</body></html>
"""


def _near(report: dict[str, Any]) -> str:
    near = report["near_duplicates"]
    if not near["groups"]:
        return "No groups of near duplicates."
    return f"{near['groups']:,} groups of near duplicates, the largest of {near['largest']:,} pictures."


def _splits(report: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{s['pairs']:,}<td>{s['captions']:,}<td>{s['shards']:,}"
        for name, s in report["splits"].items()
    )
    return f"<div class=wide><table><tr><th>split<th>pictures<th>captions<th>shards{rows}</table></div>"


def _steps(report: dict[str, Any]) -> str:
    pictures, captions = report["records"], report["captions"]
    rows = [f"<tr><td>read<td><td><td>{pictures:,}<td><td><td>{captions:,}"]
    for row in report["steps"]:
        none = "" if row["pictures"] or row["captions"] else " class=none"
        rows.append(
            f"<tr{none}><td>{escape(row['step'])}<td>{row['pictures']:,}<td>{escape(_share(row['pictures'], pictures))}"
            f"<td>{row['pictures_left']:,}<td>{row['captions']:,}<td>{escape(_share(row['captions'], captions))}"
            f"<td>{row['captions_left']:,}"
        )
    head = "<tr><th>step<th>pictures out<th>share<th>left<th>captions out<th>share<th>left"
    return f"<div class=wide><table>{head}{''.join(rows)}</table></div>"


def _share(part: int, whole: int) -> str:
    if not part:
        return ""
    return f"{part / whole:.2%}" if part / whole >= 0.0001 else "<0.01%"


def _chart(name: str, value: dict[str, Any]) -> str:
    if "edges" in value:
        edges, counts = value["edges"], value["counts"]
        first = next(i for i, c in enumerate(counts) if c)
        last = max(i for i, c in enumerate(counts) if c)
        labels = [f"{e:g}" + ("+" if i == len(edges) - 1 else "") for i, e in enumerate(edges)]
        bars = list(zip(labels[first : last + 1], counts[first : last + 1], strict=True))
    else:
        bars = list(value.items())[:16]
    width, height, base = 320, 150, 120
    most = max((count for _, count in bars), default=1) or 1
    step = min(width / max(len(bars), 1), 64)
    every = -(-len(bars) // 8)
    parts = []
    for i, (label, count) in enumerate(bars):
        tall = (base - 20) * count / most
        parts.append(
            f'<rect x="{i * step + 1:.1f}" y="{base - tall:.1f}" width="{max(step - 2, 1):.1f}" height="{tall:.1f}">'
            f"<title>{escape(str(label))}: {count:,}</title></rect>"
        )
        if len(bars) <= 6:
            parts.append(f'<text x="{i * step + 1:.1f}" y="{base - tall - 4:.1f}">{count:,}</text>')
        if i % every == 0:
            parts.append(f'<text x="{i * step + 1:.1f}" y="{base + 15}">{escape(str(label))}</text>')
    if len(bars) > 6:
        parts.append(f'<text x="0" y="11">most: {most:,}</text>')
    figure = f'<svg viewBox="0 0 {width} {height}" role=img aria-label="{escape(name)}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{escape(name)}</figcaption>{figure}</figure>"


def _card(line: dict[str, Any]) -> str:
    pictures = "".join(
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(line[name]).decode()}">'
        for name in ("thumbnail", "beside")
        if line.get(name)
    )
    captions = line["captions"]
    said = "".join(f"<li>{escape(_cut(caption))}" for caption in captions[:_SHOWN_CAPTIONS])
    more = f"<li>and {len(captions) - _SHOWN_CAPTIONS} more" if len(captions) > _SHOWN_CAPTIONS else ""
    why = f"<p class=why>{escape(_cut(line['reason'], 300))}</p>" if "reason" in line else ""
    where = f"{escape(line['split'])}: " if "split" in line else ""
    listed = f"<ul>{said}{more}</ul>" if captions else ""
    return f"<div class=card>{pictures}{why}{listed}<p class=soft>{where}{escape(_cut(line['uri']))}</p></div>"


def _cut(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _options(options: dict[str, Any]) -> str:
    return "".join(f"<tr><td>{escape(name)}<td>{escape(str(value))}" for name, value in options.items())
