"""The look that all pages share: one HTML head, one palette, one way to draw charts.

Jinja and matplotlib are imported when a page is written.
"""

from pathlib import Path
from typing import Any

from ml.digits import tick

# Okabe and Ito's colours, which people with any kind of colour vision tell apart
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#e69f00", "#009e73", "#666666"
PALETTE = {"blue": BLUE, "orange": ORANGE, "green": GREEN, "grey": GREY}

_INCHES = (4.4, 3.0)  # small, so that the text is readable when a phone shows the whole chart


def rendered(template: Path, values: dict[str, Any], filters: dict[str, Any] | None = None) -> str:
    """A page from a template that extends `page.html`: everything is escaped, and a value that is missing raises.

    Args:
        template: a Jinja template that fills the blocks title, style and body.
        values: the template's variables.
        filters: the template's filters.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(template.name).render(palette=PALETTE, **values)


def chart(title: str = "", x: str = "", y: str = "", **options):
    """The axes of a new chart; several, from top to bottom, with nrows=2. Options are those of Figure.subplots.

    Text is shown as it is: a dollar sign starts no formula.
    """
    from matplotlib.figure import Figure  # no pyplot: no state, no display

    axes = Figure(figsize=_INCHES, layout="constrained").subplots(**options)
    every = [axes] if not options else list(axes)
    for each in every:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="#dddddd", linewidth=0.6)
        each.set_axisbelow(True)
    every[0].set_title(plain(title), loc="left", fontsize=10)
    every[0].set_xlabel(plain(x))
    every[0].set_ylabel(plain(y))
    return axes


def plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def legend(figure, columns: int) -> None:
    """The legend of a chart, below it, where it hides nothing."""
    figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=1.5, columnspacing=1
    )


def number_ticks(axis) -> None:
    """Labels an axis in full, with the decimals that tell its ticks apart, whatever the numbers' size."""
    axis.set_major_formatter(lambda value, _: tick(value, axis.get_majorticklocs()))


def date_ticks(axis) -> None:
    """Labels an axis with times, each part of a date only where it changes."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=8)
    axis.set_major_locator(locator)
    axis.set_major_formatter(ConciseDateFormatter(locator))
