"""Curves and bars as plain SVG: no library, readable in light and dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 30, 40
COLOURS = (
    *("#2f6fb0", "#c2571a", "#3c8c4a", "#8a4fa3", "#777777"),
    *("#b03a48", "#2aa198", "#b58900", "#444c5c"),
)
Point = tuple[float, float]


def curves(title: str, x_label: str, unit: str, lines: Mapping[str, Sequence[Point]]) -> str:
    """Lines over a common axis from 0 up; x is logarithmic when it spans more than a hundredfold."""
    xs = [x for line in lines.values() for x, _ in line]
    top = 1.1 * max([y for line in lines.values() for _, y in line] + [1e-9])
    is_log = min(xs) > 0 and max(xs) / min(xs) > 100
    low, high = (math.log10(v) if is_log else v for v in (min(xs), max(xs)))
    span = (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        share = ((math.log10(x) if is_log else x) - low) / span
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * _height()

    body = _axis(top, unit, place(xs[0], 0)[1])
    for x in sorted(set(xs)):
        at, y = place(x, 0)
        body.append(_text(at, y + 16, f"{x:g}", "middle"))
    body.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
        spots = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        body.append(_text(spots[-1][0] + 8, spots[-1][1] + 4, name, "start", colour))
    return _svg(title, body)


def bars(title: str, unit: str, values: Mapping[str, Mapping[str, float]]) -> str:
    """A stack for each name, in order; parts have the same colour everywhere."""
    top = 1.1 * max([sum(parts.values()) for parts in values.values()] + [1e-9])
    names = list(dict.fromkeys(part for parts in values.values() for part in parts))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    body = _axis(top, unit, HEIGHT - BOTTOM)
    for number, (name, parts) in enumerate(values.items()):
        y = float(HEIGHT - BOTTOM)
        for part, value in parts.items():
            size = value / top * _height()
            y -= size
            colour = COLOURS[names.index(part) % len(COLOURS)]
            place = f'x="{LEFT + number * step + step * 0.15:.1f}" y="{y:.1f}"'
            body.append(
                f'<rect {place} width="{step * 0.7:.1f}" height="{size:.1f}" fill="{colour}"/>'
            )
        middle = LEFT + (number + 0.5) * step
        body.append(_text(middle, HEIGHT - BOTTOM + 16, name, "middle"))
        body.append(_text(middle, y - 4, f"{sum(parts.values()):.3g}", "middle"))
    if len(names) > 1:
        for number, name in enumerate(names):
            colour = COLOURS[number % len(COLOURS)]
            body.append(_text(WIDTH - RIGHT + 10, TOP + 16 * number, name, "start", colour))
    return _svg(title, body)


def _height() -> float:
    return HEIGHT - TOP - BOTTOM


def _axis(top: float, unit: str, base: float) -> list[str]:
    body = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = base - share * _height()
        body.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#999" '
            'stroke-opacity="0.4"/>'
        )
        body.append(_text(LEFT - 6, y + 4, f"{share * top:.3g}", "end"))
    return [*body, _text(LEFT - 6, TOP - 14, unit, "end")]


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#888") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _svg(title: str, body: Sequence[str]) -> str:
    lines = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11">\n<title>{escape(title)}</title>\n'
        f"{_text(WIDTH / 2, 14, title, 'middle')}\n{lines}\n</svg>\n"
    )
