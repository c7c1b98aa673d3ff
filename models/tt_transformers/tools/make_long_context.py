"""Writes the long text that the long-context cases read: a chronicle of kings who never lived, made from a seed.

    python -m models.tt_transformers.tools.make_long_context

The text uses no corpus, has the style that the bundled checkpoint knows, and is long enough for 128k tokens.
"""

import random
from pathlib import Path

from models.common import whole_file

FILE = Path(__file__).resolve().parents[1] / "demo" / "sample_prompts" / "contexts" / "chronicle.txt"
CHARACTERS = 600_000
SEED = 7

_FIRST = "Ab Ad Bar Dor El Gil Hod Jar Kel Lem Mor Nah Or Rez Sal Tam Uz Zer".split()
_LAST = "ael an ath edon ez iah im ok on or ud un".split()
_TRADES = "shepherds masons fishermen weavers porters scribes watchmen vinedressers smiths singers".split()
_THINGS = "oil corn wool silver cedar barley salt figs linen brass".split()
_LANDS = "valley hill country plain coast wilderness river side".split()
_DEEDS = (
    "built {n} towers upon the wall of {city}, and set {trades} over them",
    "gathered {n} measures of {thing}, and laid them up in the house at {city}",
    "went out by the way of the {land} with {n} {trades}, and returned in peace",
    "made a covenant with {other} of {city}, and sent unto him {n} loads of {thing}",
    "digged {n} wells in the {land} of {city}, for the {trades} and for their cattle",
    "numbered the {trades} of {city}, and they were {n}",
    "restored unto {other} the fields of {city}, and the {thing} thereof for {n} years",
)


def name(draw: random.Random) -> str:
    return draw.choice(_FIRST) + draw.choice(_LAST)


def verse(draw: random.Random, king: str) -> str:
    deed = draw.choice(_DEEDS).format(
        n=draw.randrange(2, 400),
        city=name(draw),
        other=name(draw),
        trades=draw.choice(_TRADES),
        thing=draw.choice(_THINGS),
        land=draw.choice(_LANDS),
    )
    opening = draw.choice(("And {0}", "Then {0}", "In those days {0}", "And it came to pass that {0}", "Moreover {0}"))
    return f"{opening.format(king)} {deed}."


def chronicle(characters: int = CHARACTERS, seed: int = SEED) -> str:
    """The first `characters` characters of the chronicle: one chapter per king, one verse per line."""
    draw, lines, length = random.Random(seed), [], 0
    chapter = 0
    while length < characters:
        chapter += 1
        king = name(draw)
        added = [f"Chronicle {chapter}", f"{king} the son of {name(draw)} reigned {draw.randrange(2, 60)} years in {name(draw)}."]
        added += [verse(draw, king) for _ in range(draw.randrange(8, 30))]
        lines += added
        length += sum(len(line) + 1 for line in added)
    return ("\n".join(lines) + "\n")[:characters]


def main():
    FILE.parent.mkdir(parents=True, exist_ok=True)
    whole_file.write(FILE, chronicle())
    print(f"{FILE}: {CHARACTERS} characters")
