"""What people write: which texts are taken, and how two are compared.

HTML is text, emoji are welcome. Refused are control characters and the marks that turn the direction of writing, with which
a name can be made to read as another's.
"""

import gzip
import unicodedata
from importlib.resources import files

from residscope.errors import BadText
from residscope.once import once

MOST_NAME, MOST_USER, MOST_DESCRIPTION, MOST_COMMENT = 80, 40, 4_000, 2_000
JOINERS = "\u200c\u200d"  # Persian spelling and emoji families need them
TAGS = range(0xE0020, 0xE0080)  # the flags of England, Scotland and Wales
# signs that show nothing though their category says otherwise: fillers, joiners of marks, a blank pattern of dots
# (Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties that is in no format category, and U+2800)
BLANK = frozenset(
    (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2065, 0x2800, 0x3164, 0xFFA0)
)


def name_of(text: str, what: str = "the name", *, most: int = MOST_NAME) -> str:
    """A name on one line, its outer spaces taken off.

    >>> name_of("  <b>plural</b> 👩‍🔬 ")
    '<b>plural</b> 👩\u200d🔬'
    """
    return _checked(text.strip(), what, most, allowed_controls="")


def paragraphs(text: str, what: str, *, most: int) -> str:
    """A text of several lines, its outer spaces taken off and its line ends made one."""
    return _checked(text.replace("\r\n", "\n").strip(), what, most, allowed_controls="\n\t")


def key(text: str) -> str:
    """A text as it is compared: without case, width and what cannot be seen.

    >>> key("Ada\u200d") == key("ADA")
    True
    """
    shown = "".join(sign for sign in text if ord(sign) not in BLANK)
    seen = (sign for sign in unicodedata.normalize("NFKC", shown) if unicodedata.category(sign) != "Cf")
    plain = "".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in seen if not _varies(sign))
    return unicodedata.normalize("NFKC", plain.casefold())


def skeleton(text: str) -> str:
    """A text as it looks: of two that are confusable it is the same (UTS 39, section 4), case apart as in `key`.

    >>> skeleton("аdа") == skeleton("Ada"), skeleton("ada") == skeleton("eda")
    (True, False)
    """
    plain = unicodedata.normalize("NFD", key(text))
    return unicodedata.normalize("NFD", "".join(_prototypes().get(sign, sign) for sign in plain))


@once
def _prototypes() -> dict[str, str]:
    """What each confusable sign looks like: the data file of Unicode's security mechanisms."""
    packed = (files("residscope") / "data" / "confusables.txt.gz").read_bytes()
    found = {}
    for line in gzip.decompress(packed).decode().splitlines():
        if not line.startswith("#"):
            sign, like = line.split(";")
            found[chr(int(sign, 16))] = "".join(chr(int(part, 16)) for part in like.split())
    return found


def _checked(text: str, what: str, most: int, *, allowed_controls: str) -> str:
    allowed = f"1 to {most:,} characters"
    if len(text) > most:
        raise BadText(f"{what} is too long", received=f"{len(text):,} characters", allowed=allowed)
    for sign in text:
        if sign not in allowed_controls and _refused(sign):
            raise BadText(
                f"{what} has a character that cannot be shown as it is",
                received=f"U+{ord(sign):04X} {unicodedata.name(sign, 'control character')}",
                allowed="letters, digits, signs, emoji, and HTML as text",
                fix="leave it out",
            )
    if not key(text).strip():
        raise BadText(f"{what} is empty, or nothing of it can be seen", received=repr(text), allowed=allowed)
    return text


def _refused(sign: str) -> bool:
    """Controls, lone surrogates, line separators, private signs, blanks; and format signs but for joiners and flags."""
    category = unicodedata.category(sign)
    return (
        category in ("Cc", "Cs", "Co", "Zl", "Zp")
        or ord(sign) in BLANK
        or (category == "Cf" and sign not in JOINERS and ord(sign) not in TAGS)
    )


def _varies(sign: str) -> bool:
    return 0xFE00 <= ord(sign) <= 0xFE0F or 0xE0100 <= ord(sign) <= 0xE01EF
