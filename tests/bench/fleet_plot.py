"""A small plot in SVG: bytes sent ÷ unique bytes over runners, one line a tool, both axes by powers of two."""

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 160, 40, 50
COLOURS = ("#0b7a3b", "#c0392b", "#2c5aa0", "#8e6a00", "#6b4fa0")


def plot(lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Return the plot of (runners, ratio) for each tool."""
    points = [point for line in lines.values() for point in line]
    most_x = max(2, *(x for x, _ in points))
    most_y = max(2.0, 2 ** math.ceil(math.log2(max(y for _, y in points))))

    def at_x(runners: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log2(runners) / math.log2(most_x)

    def at_y(ratio: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log2(max(ratio, 1)) / math.log2(most_y)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, "Bytes uploaded ÷ bytes that are unique, N runners at once, cold", size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "runners", anchor="middle"),
    ]
    for power in range(int(math.log2(most_y)) + 1):
        y = at_y(2**power)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{2**power}", anchor="end"))
    parts.extend(
        _text(at_x(runners), HEIGHT - BOTTOM + 18, str(runners), anchor="middle")
        for runners in sorted({x for x, _ in points})
    )
    taken: list[float] = []
    for number, ((name, line), colour) in enumerate(zip(lines.items(), COLOURS, strict=False)):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in line)
        width = 2 + 3 * (len(lines) - number - 1)  # so that lines that are one still show as many
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        x, y = line[-1]
        place = at_y(y) + 4
        step = -14 if place > HEIGHT / 2 else 14  # away from the axis
        while any(abs(place - other) < abs(step) for other in taken):
            place += step
        taken.append(place)
        parts.append(_text(at_x(x) + 10, place, f"{name} {y:.2f}", colour=colour))
    return "\n".join([*parts, "</svg>\n"])


def _text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{words}</text>'
    )
