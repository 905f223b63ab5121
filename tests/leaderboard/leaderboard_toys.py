"""A judge for `py:` specs."""


def longer(prompt: str, a: str, b: str) -> float:
    """0.9 for the longer of two texts."""
    return 0.5 if len(a) == len(b) else 0.9 if len(a) > len(b) else 0.1
