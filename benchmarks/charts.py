"""Draws the charts of RESULTS.md as SVG, on a white ground, so that they are readable on any page."""

import math
from collections.abc import Callable
from xml.sax.saxutils import escape

from contenders import SERVE, SOCKETIFY, WS
from figures import Figures
from report import is_overloaded, shown
from tables import RATES

HEAD = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" font-family="system-ui, sans-serif" '
        'font-size="13" role="img"><title>{title}</title><rect width="100%" height="100%" fill="#fff"/>'
        '<text x="10" y="26" font-size="14">{title}</text>')  # fmt: skip


def fan_out_chart(figures: Figures) -> str:
    """Return a bar chart of the fan-out of 64 bytes, with 1 and 16 messages in flight. The scale is logarithmic."""
    rows = [
        (figures.median(name, row, "1"), figures.median(name, row, "16"), row)
        for name in ("fan-out 64", "fan-out 64, others")
        for row in figures.rows(name)
    ]
    found = sorted((one, many, name) for one, many, name in rows if one and many)
    least = min(min(one, many) for one, many, _ in found) / 1.5
    widest = max(max(one, many) for one, many, _ in found)
    parts = []
    for place, (one, many, name) in enumerate(found):
        top = 52 + place * 40
        own = "**" in name
        weight = "bold" if own else "normal"
        text = escape(name.replace("*", ""))
        parts.append(f'<text x="270" y="{top + 17}" text-anchor="end" font-weight="{weight}">{text}</text>')
        for line, value in enumerate((one, many)):
            length = 380 * math.log(value / least) / math.log(widest / least)
            color = ("#0b7a75", "#7bdcb5") if own else ("#6c757d", "#ced4da")
            y = top + line * 15
            parts.append(f'<rect x="280" y="{y}" width="{length:.0f}" height="13" fill="{color[line]}"/>')
            parts.append(f'<text x="{285 + length:.0f}" y="{y + 11}" font-size="11">{shown(value)}</text>')
    title = "Server CPU for each delivered message, µs (log scale): upper bar 1, lower bar 16 in flight"
    return HEAD.format(height=60 + 40 * len(found), title=title) + "".join(parts) + "</svg>\n"


LINES = {SERVE.name: ("#0b7a75", 3.0), SOCKETIFY.name: ("#b3541e", 1.8), WS.name: ("#5b5f97", 1.8)}
"""Color and width of the line of each server."""
TOP, BOTTOM, WIDTH = 96, 356, 270
LEFTS = {"p50_ms": 62, "p99_ms": 412}


def latency_chart(figures: Figures) -> str:
    """Return the latency over the rate of broadcasts: p50 beside p99, both scales logarithmic."""
    rows = [row for row in LINES if row in figures.rows("latency")]
    values = [
        value
        for row in rows
        for rate in RATES
        for column in LEFTS
        if (value := figures.median("latency", row, f"{rate} {column}"))
    ]
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values)))

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * math.log(value / low) / math.log(high / low)

    parts = [legend(rows)]
    for column, left in LEFTS.items():
        parts += axes(left, low, high, y, f"{column[:3]}, ms (log scale)")
        for row in rows:
            points = [
                (left + across(rate), y(value), is_overloaded(figures, row, rate))
                for rate in RATES
                if (value := figures.median("latency", row, f"{rate} {column}"))
            ]
            parts += line(points, *LINES[row])
    title = "Latency of a broadcast to 1,000 clients over their rate, counted from the time it was due"
    return HEAD.format(height=410, title=title) + "".join(parts) + "</svg>\n"


def across(rate: float) -> float:
    """Return the distance of `rate` from the left of its panel."""
    return 16 + (WIDTH - 32) * math.log(rate / RATES[0]) / math.log(RATES[-1] / RATES[0])


def legend(rows: list[str]) -> str:
    left, parts = 10, []
    for row in rows:
        color, width = LINES[row]
        text = escape(row.replace("*", ""))
        weight = "bold" if "**" in row else "normal"
        parts.append(f'<line x1="{left}" x2="{left + 26}" y1="51" y2="51" stroke="{color}" stroke-width="{width}"/>')
        parts.append(f'<text x="{left + 32}" y="55" font-size="12" font-weight="{weight}">{text}</text>')
        left += 56 + round(6.2 * len(text))
    parts.append(f'<circle cx="{left + 5}" cy="51" r="4" fill="#fff" stroke="#495057" stroke-width="1.6"/>')
    parts.append(f'<text x="{left + 14}" y="55" font-size="12">cannot keep up</text>')
    return "".join(parts)


def axes(left: int, low: float, high: float, y: Callable[[float], float], label: str) -> list[str]:
    parts = [f'<text x="{left}" y="{TOP - 12}" font-size="12" font-weight="bold">{label}</text>']
    tick = low
    while tick <= high * 1.01:
        at = y(tick)
        parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="#dee2e6"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" font-size="11" text-anchor="end">{tick:,g}</text>')
        tick *= 10
    for rate in RATES:
        at = left + across(rate)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{BOTTOM}" y2="{BOTTOM + 5}" stroke="#495057"/>')
        parts.append(f'<text x="{at:.1f}" y="{BOTTOM + 19}" font-size="11" text-anchor="middle">{rate}</text>')
    parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{BOTTOM}" y2="{BOTTOM}" stroke="#495057"/>')
    parts.append(f'<text x="{left + WIDTH // 2}" y="{BOTTOM + 38}" font-size="12" text-anchor="middle">'
                 "broadcasts per second (log scale)</text>")  # fmt: skip
    return parts


def line(points: list[tuple[float, float, bool]], color: str, width: float) -> list[str]:
    """Return a line through `points` with a marker at each: hollow where the server could not keep up."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>']
    for x, y, is_hollow in points:
        fill = "#fff" if is_hollow else color
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{color}" stroke-width="1.6"/>')
    return parts
