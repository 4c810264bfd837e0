"""Contrast of two colours."""

import re


def contrast(one: str, other: str) -> float:
    """Their contrast ratio as WCAG 2 defines it, 1 to 21. Colours as `#rrggbb` or as a browser computes them, `rgb(r, g, b)`."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, 0 to 1. Colours as of `contrast`."""
    if colour.startswith("#"):
        channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    else:
        channels = [int(channel) for channel in re.findall(r"\d+", colour)[:3]]
    shares = [channel / 255 for channel in channels]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
