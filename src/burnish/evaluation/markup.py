"""Text that others wrote, as HTML and SVG.

What a model says is hostile until proven otherwise. Everything that reaches a page goes through `visible` and is then
escaped: by Jinja in the template, by `node` in figures.
"""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
_PICTURES[0x7F] = "\u2421"
# C1 controls, line and paragraph separators, marks that turn the direction of what follows, halves of surrogate pairs
# (UTF-8 can't hold those), code points that are no characters.
_NAMED = re.compile(
    "[\x80-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000))
    + "]"
)


def visible(text: str) -> str:
    """The text with what a browser would drop, obey or refuse made visible; newlines and tabs stay.

    Control characters become their pictures (NUL is \u2400), the others their code in brackets (`[U+202E]`). The
    result can be encoded as UTF-8 and leaves the direction of the text around it alone.
    """
    plain = text.replace("\r\n", "\n").translate(_PICTURES)
    return _NAMED.sub(lambda found: f"[U+{ord(found[0]):04X}]", plain)


def node(tag: str, *inside: str, **attributes: object) -> Markup:
    """An element; text and values are escaped, markup inside it is not.

    An attribute's name is a Python name: `class_`, `text_anchor`. Numbers are rounded to a tenth; None leaves the
    attribute out.
    """
    shown = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _value(value))
        for name, value in attributes.items()
        if value is not None
    )
    content = Markup("").join(part if isinstance(part, Markup) else escape(visible(part)) for part in inside)
    return Markup("<{tag}{shown}>{content}</{tag}>").format(tag=tag, shown=shown, content=content)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return visible(str(value))
