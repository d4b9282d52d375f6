"""How a token's name is shown with nothing in it hidden, and typed back; the page's rule is the same (web/src/lib/tokens.ts)."""

import re
import unicodedata

ONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SIGNS = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}
BASE = "◌"
# fillers and variation selectors: they count as letters, marks or symbols, and have no ink
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
SELECTORS = [range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0)]
INKLESS = ("Cc", "Cf", "Zs", "Zl", "Zp", "Co", "Cs")
PARTS = re.compile(r"(?P<bytes>(?:<0x[0-9A-F]{2}>)+)|(?P<id><id -?\d+>)|(?P<one>.)", re.DOTALL)
CODE = re.compile(r"⟨x(?P<bytes>(?:[0-9A-Fa-f]{2})+)⟩|⟨(?P<code>[0-9a-fA-F]{1,6})⟩")


def visible(name: str) -> str:
    """A token's name with nothing in it hidden, as the page shows it; `typed` is the way back.

    A space is ·, line ends and tabs are ↵ ␍ ⇥, bytes that are no whole character are ⟨xE280⟩, what has no ink or reorders text is
    its code, ⟨200b⟩, a mark without its letter stands on ◌; and one of these signs itself is its code.

    >>> visible(" Mary"), visible("\\r\\n"), visible(" <0xF0><0x9F>"), visible("a\\u202eb"), visible("·")
    ('·Mary', '␍↵', '·⟨xF09F⟩', 'a⟨202e⟩b', '⟨b7⟩')
    """
    shown: list[str] = []
    text = False  # whether a letter is before
    for part in PARTS.finditer(name):
        character = part["one"]
        if part["bytes"]:
            shown.append(f"⟨x{ONE_BYTE.sub(lambda byte: byte[1], part['bytes'])}⟩")
        elif not character:
            shown.append(part[0])
        elif character in SIGNS:
            shown.append(SIGNS[character])
        elif _coded(character):
            shown.append(f"⟨{ord(character):x}⟩")
        else:
            shown.append(BASE + character if not text and unicodedata.category(character)[0] == "M" else character)
            text = True
            continue
        text = False
    return "".join(shown) or "∅"


def as_label(text: str) -> str:
    """What may be a token, a name or words, with nothing in it hidden: as `visible`, but spaces within, and signs, stay.

    >>> as_label(" Mary"), as_label("layer 3 · a\\n"), as_label("<0xE2>\\u200b"), as_label("")
    ('·Mary', 'layer 3 · a↵', '⟨xE2⟩⟨200b⟩', '∅')
    """
    bare = text.strip(" ")
    start = len(text) - len(text.lstrip(" ")) if bare else len(text)
    return "·" * start + one_line(bare) + "·" * (len(text) - start - len(bare)) or "∅"


def one_line(text: str) -> str:
    """Words on one line, with nothing hidden but their spaces."""
    return "".join(
        f"⟨x{ONE_BYTE.sub(lambda byte: byte[1], part['bytes'])}⟩" if part["bytes"] else _named(part[0])
        for part in PARTS.finditer(text)
    )


def _named(part: str) -> str:
    if len(part) > 1 or part in " ·↵␍⇥◌⟨":
        return part
    return SIGNS.get(part) or (f"⟨{ord(part):x}⟩" if _coded(part) else part)


def typed(shown: str) -> str:
    """The name of the token that is shown so, or that is typed as it is."""
    bare = "".join(
        character
        for character, after in zip(shown, [*shown[1:], ""], strict=True)
        if not (character == BASE and after and unicodedata.category(after)[0] == "M")
    )
    for character, sign in SIGNS.items():
        bare = bare.replace(sign, character)

    def character_of(found: re.Match[str]) -> str:
        if found["bytes"]:
            return re.sub("..", lambda byte: f"<0x{byte[0]}>", found["bytes"].upper())
        code = int(found["code"], 16)
        return chr(code) if code <= 0x10FFFF else found[0]

    return CODE.sub(character_of, bare)


def _coded(character: str) -> bool:
    code = ord(character)
    inkless = unicodedata.category(character) in INKLESS or character in FILLERS or any(code in s for s in SELECTORS)
    return inkless or character in "·↵␍⇥◌⟨"
