"""The dictionaries of the transformer that is written by hand: its own directions, as they were planted."""

import torch

from residscope.directions import EncoderDictionary
from residscope.model.planted import CAPITALS, CONSTANT, IDLE, NAME, WORDS, directions

THRESHOLD = 0.01  # far above what rounding leaves of a feature that is not there
FEATURES = {
    0: [*(f"country {name}" for name in CAPITALS), *(f"word {name}" for name in WORDS), "idle 0.0"],
    1: [*(f"asked {name}" for name in CAPITALS), *(f"idle 1.{k}" for k in range(len(IDLE[1])))],
    2: [*(f"answer {name}" for name in CAPITALS), *(f"idle 2.{k}" for k in range(len(IDLE[2])))],
}
"""What each block writes, by its name; of block 0 the words that it finds there too."""


def planted_dictionaries() -> dict[str, EncoderDictionary]:
    """One for each block, at `resid_post.0` to `.2`, each feature read along the one direction that it writes."""
    d, away = directions(), CONSTANT * directions()["constant"]
    made = {}
    for layer, names in FEATURES.items():
        rows, zero = torch.stack([d[name] for name in names]), torch.zeros(len(names))
        made[f"{NAME}@resid_post.{layer}"] = EncoderDictionary(
            NAME, f"resid_post.{layer}", rows, rows, mean=away, bias=zero, base=away, activation="jumprelu",
            threshold=zero + THRESHOLD, names=tuple(names), provenance={"planted": "residscope.model.planted"},
        )  # fmt: skip
    return made
