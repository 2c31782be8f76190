"""Fills in the HTML pages of this folder."""

from typing import Any


def render(name: str, /, **values: Any) -> str:
    """Returns a page with its values. Whatever they hold (names of files and classes) is shown, never run."""
    import jinja2

    pages = jinja2.Environment(
        loader=jinja2.PackageLoader('sreml_jax', 'drawing'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(name).render(values)
