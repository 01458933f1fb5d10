"""The one exception whose message is meant for the person at the keyboard."""

from collections.abc import Iterable
from difflib import get_close_matches


class SacdError(Exception):
    """A mistake in the input: the message names the file or key and the way out."""


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> SacdError:
    """An error for a name that does not exist, with the nearest one and all there are."""
    known = sorted(known)
    nearest = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    place = f"{where}: " if where else ""
    return SacdError(f"{place}unknown {kind} '{name}'.{hint} Known: {', '.join(known)}.")
