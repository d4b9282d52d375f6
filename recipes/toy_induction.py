"""A transformer of attention alone, two layers of eight heads, trained on text that repeats itself: the toy `toy-induction`.

    python recipes/toy_induction.py                 writes src/residscope/data/toys/toy-induction; four minutes on one core

Each text is a stretch of 6 to 40 words again and again, begun by BOS. Half the words of a stretch follow the word before the last
by habit (each word has four that it asks for), the other half are any. The second time there is one way to know the next word:
to find the last one where it stood before, and copy what followed it. The habits teach a head to look at the word before, which
is what the finding is made of: without them the loss stays where it is for thousands of steps.
"""

import argparse
import re
import time
from collections import Counter
from pathlib import Path

import torch
from torch.nn import functional

from residscope.corpus.text import english
from residscope.model.planted import SPACE, SPECIAL, words_tokenizer
from residscope.model.toys import ToyConfig, ToyForCausalLM

INTO = Path(__file__).parent.parent / "src/residscope/data/toys/toy-induction"
WORDS, CONTEXT = 126, 128
D, HEADS, LAYERS = 128, 8, 2
SHORTEST, LONGEST = 6, 40  # words of a stretch
HABITS, BY_HABIT = 4, 0.5
STEPS, BATCH, RATE, WARM, DECAY, SEED = 1200, 16, 2e-3, 100, 0.01, 0


def words() -> list[str]:
    """The commonest words of the built-in English."""
    counts = Counter(word for text in english() for word in re.findall(r"(?<=\s)[a-z]{2,}(?=\s)", text))
    return [word for word, _ in counts.most_common(WORDS)]


class Text:
    """Batches of texts, drawn; the habits are the same for every seed."""

    def __init__(self, seed: int) -> None:
        self.drawn = torch.Generator().manual_seed(seed)
        habits = torch.Generator().manual_seed(SEED)
        self.habits = torch.rand(WORDS, WORDS, generator=habits).topk(HABITS).indices

    def batch(self, n: int) -> torch.Tensor:
        """[text, CONTEXT] ids: BOS, then each row's stretch as often as it fits."""
        any_word = torch.randint(WORDS, (n, LONGEST), generator=self.drawn)
        which = torch.randint(HABITS, (n, LONGEST), generator=self.drawn)
        by_habit = torch.rand(n, LONGEST, generator=self.drawn) < BY_HABIT
        stretch = any_word.clone()
        for i in range(2, LONGEST):
            follows = self.habits[stretch[:, i - 2], which[:, i]]
            stretch[:, i] = torch.where(by_habit[:, i], follows, any_word[:, i])
        lengths = torch.randint(SHORTEST, LONGEST + 1, (n, 1), generator=self.drawn)
        again = torch.arange(CONTEXT - 1) % lengths
        return functional.pad(stretch.gather(1, again) + len(SPECIAL), (1, 0))


def waves() -> torch.Tensor:
    """[CONTEXT, D]: sines and cosines, at which the learned positions begin: the step to the word before is a turn."""
    turns = torch.arange(CONTEXT)[:, None] * CONTEXT ** (-torch.arange(D // 2) / (D // 2))
    return 0.1 * torch.cat([turns.sin(), turns.cos()], 1)


def trained(steps: int = STEPS) -> ToyForCausalLM:
    """The toy, by AdamW with a rate that rises, stays and falls to nothing."""
    torch.manual_seed(SEED)
    config = ToyConfig(
        vocab_size=WORDS + len(SPECIAL), hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=HEADS, head_dim=D // HEADS,
        max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=0, initializer_range=D**-0.5,
    )  # fmt: skip
    hf = ToyForCausalLM(config)
    with torch.no_grad():
        hf.model.embed_positions.weight.copy_(waves())
    learner = torch.optim.AdamW(hf.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(
        learner, lambda step: min((step + 1) / WARM, 1.0, 3 * (steps - step) / steps)
    )
    text, began = Text(SEED + 1), time.monotonic()
    for step in range(steps):
        ids = text.batch(BATCH)
        loss = functional.cross_entropy(hf(ids, use_cache=False).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        learner.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        learner.step()
        rate.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}, {time.monotonic() - began:.0f} s, loss {loss:.3f}", flush=True)
    return hf.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=INTO)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    ids = {token: i for i, token in enumerate((*SPECIAL, *(f"{SPACE}{word}" for word in words())))}
    hf = trained(given.steps)
    hf.save_pretrained(given.folder)
    words_tokenizer(ids, CONTEXT).save_pretrained(given.folder)
    print(f"{given.folder}: {sum(file.stat().st_size for file in given.folder.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
