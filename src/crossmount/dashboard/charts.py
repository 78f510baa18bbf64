"""The charts, as SVG that the server renders: they need no script, appear with the page, and can be printed.

The library is pygal: maintained since 2012, in pure Python, and its SVG has classes, so that our style sheet alone
colours it, light and dark. Its own styles, scripts and tooltips are removed: they would break the page's content
security policy, and are most of its bytes.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from xml.etree.ElementTree import Element, SubElement

import pygal  # type: ignore[import-untyped]
from markupsafe import Markup
from pygal.style import Style  # type: ignore[import-untyped]

from crossmount._dataclass import dataclass
from crossmount._formatting import size
from crossmount.savings.tally import Tally

# pygal adds a finder for its plug-ins that Python 3.12 ignores, and of which 3.11 warns at each import that fails
sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("pygal")]

_LABEL_PIXELS = 12
_BARS_MAX = 62
"""The most columns of a chart; more days are shown by the week."""

_NUMBER = re.compile(r"\d+\.\d+")
_PARTS = frozenset({"svg", "g", "rect", "path", "text"})
_ATTRIBUTES = frozenset({"xmlns", "viewBox", "class", "x", "y", "rx", "width", "height", "d", "transform"})
_OWN_CLASSES = frozenset({"reactive", "tooltip-trigger", "stackedbar-graph", "vertical", "always_show", "color-0"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the chart: a day, or the days of a week.

    Attributes:
        label: the days, for people.
        tally: what pushes did on these days.
    """

    label: str
    tally: Tally


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of a chart.

    Attributes:
        name: a class for the style sheet, which shows one shape or another.
        width: in units of the drawing, which are pixels at full size.
        height: in the same units.
        labels: about how many columns get a label.
    """

    name: str
    width: int
    height: int
    labels: int


SHAPES = (Shape("wide", 1040, 250, 8), Shape("narrow", 380, 230, 3))


def columns(by_day: Mapping[date, Tally]) -> tuple[Column, ...]:
    """Return the columns of a period: its days, or its weeks if there are too many days."""
    days = list(by_day)
    if len(days) <= _BARS_MAX:
        return tuple(Column(day_label(day), by_day[day]) for day in days)
    weeks = [days[max(end - 7, 0) : end] for end in range(len(days), 0, -7)][::-1]
    return tuple(
        Column(f"{day_label(week[0])} to {day_label(week[-1])}", Tally.total(by_day[day] for day in week))
        for week in weeks
    )


def day_label(day: date) -> str:
    """Return a day as `27 Nov`, the first of January with its year."""
    return f"{day.day} {day:%b}" if (day.month, day.day) != (1, 1) else f"{day.day} {day:%b} {day.year}"


@lru_cache(32)
def column_chart(shown: tuple[Column, ...]) -> Markup:
    """Return the chart of two or more columns, in each shape.

    A column has the mounted bytes at its foot, then those that were already there, then the uploaded ones.
    The drawing has a rectangle of class `column` over each column, in their order, for the pointer to hit.
    """
    return Markup("").join(Markup(_drawn(shown, shape)) for shape in SHAPES)  # noqa: S704 pygal escapes its texts


def _drawn(shown: Sequence[Column], shape: Shape) -> str:
    step = max(1, -(-len(shown) // shape.labels))
    places = [str(place) for place in range(len(shown))]  # labels may repeat, and pygal identifies columns by them
    chart = pygal.StackedBar(
        width=shape.width,
        height=shape.height,
        explicit_size=False,
        classes=("chart", shape.name),
        css=[],
        js=[],
        disable_xml_declaration=True,
        no_prefix=True,
        margin=2,
        margin_right=16,
        spacing=6,
        rounded_bars=1.5,
        show_legend=False,
        show_minor_x_labels=False,
        truncate_label=-1,
        max_scale=4,
        min_scale=2,
        value_formatter=_tick,
        style=Style(label_font_size=_LABEL_PIXELS, major_label_font_size=_LABEL_PIXELS),
        x_labels=places,
        x_labels_major=places[::-1][::step],
    )
    chart.add("mounted", [column.tally.bytes_saved for column in shown])
    chart.add("existing", [column.tally.bytes_existing for column in shown])
    chart.add("uploaded", [column.tally.bytes_uploaded for column in shown])
    chart.add_xml_filter(lambda root: _cleaned(root, [column.label for column in shown]))
    return str(chart.render(is_unicode=True))


def _tick(value: float) -> str:
    number, _, unit = size(round(value)).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def _cleaned(root: Element, labels: Sequence[str]) -> Element:
    """Remove what our style sheet does not draw, write the labels, and add the rectangles of columns."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag not in _PARTS or "overlay" in child.get("class", ""):
                parent.remove(child)  # a comment's tag is a function
    for axis in root.iterfind(".//g[@class='axis x']"):
        for text in axis.iter("text"):
            text.text = labels[int(text.text or "0")].partition(" to ")[0]
    bars = root.findall(".//g[@class='series serie-0 color-0']//rect")
    plot = root.find(".//g[@class='plot']")
    ground = root.find(".//g[@class='plot']/rect")
    if plot is not None and ground is not None:
        over = SubElement(plot, "g", {"class": "columns"})
        lefts = [float(bar.get("x", "0")) for bar in bars]
        step = (lefts[-1] - lefts[0]) / (len(lefts) - 1)
        for left, bar in zip(lefts, bars, strict=True):
            middle = left + float(bar.get("width", "0")) / 2
            place = {"x": f"{middle - step / 2:.6f}", "y": "0", "width": f"{step:.6f}"}
            SubElement(over, "rect", {"class": "column", **place, "height": ground.get("height", "0")})
    for node in root.iter():
        _reduce(node)
    root.set("aria-hidden", "true")  # the same numbers are in a table beside it
    root.set("focusable", "false")
    return root


def _reduce(node: Element) -> None:
    """Keep the attributes that we use, with one decimal."""
    for name, value in list(node.attrib.items()):
        if name not in _ATTRIBUTES or not value:
            del node.attrib[name]
        elif name == "class":
            node.set(name, " ".join(word for word in value.split() if word not in _OWN_CLASSES))
        else:
            node.set(name, _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), value))
