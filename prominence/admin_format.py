"""How the admin shows values: labels, bars, times and sizes as safe HTML. Pure; every text is escaped."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

NOTHING = "–"  # noqa: RUF001 an en dash: nothing to show
MB_PER_GB = 1 << 10
KB = 1 << 10
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86_400
# Above this share a resource is nearly used up.
_NEARLY_FULL = 90


class Colour(StrEnum):
    """What a label says before it is read. The style sheet has a class for each."""

    GREY = "grey"
    BLUE = "blue"
    GREEN = "green"
    ORANGE = "orange"
    RED = "red"


def label(text: object, colour: Colour = Colour.GREY, title: str = "") -> SafeString:
    """A coloured word."""
    return format_html('<span class="p-label p-{}" title="{}">{}</span>', colour, title, text)


def labels(*parts: SafeString | str) -> SafeString:
    """Several labels side by side; empty ones are left out."""
    return format_html_join(" ", "{}", ((part,) for part in parts if part))


def two_lines(first: object, second: object = "", title: str = "") -> SafeString:
    """A table cell with a smaller second line; `title` is shown under the pointer."""
    return format_html(
        '<div class="p-two" title="{}"><span>{}</span><small>{}</small></div>',
        title,
        first if first not in {None, ""} else NOTHING,
        second,
    )


def shorten(text: str, length: int) -> str:
    """The beginning of a text, with an ellipsis where it was cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def moment(at: datetime | None) -> str:
    """A time to the second, in UTC."""
    return NOTHING if at is None else at.strftime("%Y-%m-%d %H:%M:%S")


def moment_cell(at: datetime | None, now: datetime) -> SafeString | str:
    """A time for narrow columns: the time of day over the day."""
    if at is None:
        return NOTHING
    if at.date() == now.date():
        day = "today"
    else:
        day = at.strftime("%d %b") if at.year == now.year else at.strftime("%d %b %Y")
    return two_lines(at.strftime("%H:%M:%S"), day, title=f"{moment(at)} UTC")


def ago(at: datetime | None, now: datetime) -> SafeString | str:
    """How long ago, with the time itself under the pointer."""
    if at is None:
        return NOTHING
    text = f"{duration(now - at)} ago" if at <= now else f"in {duration(at - now)}"
    return format_html('<span title="{} UTC">{}</span>', moment(at), text)


def duration(span: timedelta | float | None) -> str:
    """A length of time in its two largest units; seconds if a number."""
    if span is None:
        return NOTHING
    seconds = max(0.0, span.total_seconds() if isinstance(span, timedelta) else float(span))
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for unit_s, unit, smaller_s, smaller in (
        (_DAY_S, "d", _HOUR_S, "h"),
        (_HOUR_S, "h", _MINUTE_S, "min"),
        (_MINUTE_S, "min", 1, "s"),
    ):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // smaller_s} {smaller}"
    return f"{whole} s"


def size(count: int | None) -> str:
    """Bytes as people write them."""
    return NOTHING if count is None else filesizeformat(count).replace("\xa0", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How much of something is used, in one unit."""

    used: int
    total: int
    is_mb: bool = False

    @property
    def percent(self) -> int:
        return round(100 * self.used / self.total) if self.total else 0

    def __str__(self) -> str:
        if self.is_mb:
            return f"{self.used / MB_PER_GB:,.0f} of {self.total / MB_PER_GB:,.0f} GB"
        return f"{self.used} of {self.total}"


def bar(share: Share | None) -> SafeString | str:
    """A bar filled to the used share, with the numbers under it."""
    if share is None:
        return NOTHING
    colour = Colour.ORANGE if share.percent >= _NEARLY_FULL else Colour.BLUE
    return format_html(
        '<div class="p-bar"><div class="p-bar-track"><div class="p-bar-fill p-fill-{}" '
        'style="width:{}%"></div></div><small>{}</small></div>',
        colour,
        min(100, share.percent),
        share,
    )


def words(items: Iterable[object]) -> SafeString | str:
    """Grey labels in a row, or a dash."""
    return labels(*(label(item) for item in items)) or NOTHING
