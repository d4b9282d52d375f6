"""Teacher forcing: tokens that came from elsewhere, read by a model with edits as if it had generated them."""

from collections.abc import Sequence

import torch

from residscope.engine.generation import memory_of, one_step, unedited_at
from residscope.engine.timing import Starting
from residscope.model.prompts import Batch


class Forced:
    """The log-probabilities (nats) that a model with edits gives tokens of one prompt's continuation.

    Tokens are fed as they come; each call runs what is new, over a cache of its own. Edits act where they do in a generation.
    """

    def __init__(self, start: Starting) -> None:
        self._start = start
        self._ids = start.batch.ids
        self._offset = 0
        self._cache = memory_of(start.model)
        needing = [timed.edit for timed in start.edits if timed.edit.needs_unedited]
        self._unedited = unedited_at(start.model, start.batch, needing)

    def feed(self, tokens: Sequence[int]) -> list[float]:
        """log p(token | the prompt and all that was fed before it), for each."""
        if not tokens:
            return []
        prompt = self._start.batch.ids.shape[1]
        given = torch.tensor([[*tokens]], device=self._ids.device)
        self._ids = torch.cat([self._ids, given], 1)
        last = self._ids.shape[1] - 1  # nothing follows it yet
        ends = [prompt, last] if self._offset < prompt else [last]  # edits may act at the prompt, or after it, alone
        logits = torch.cat([self._pass(end)[-len(tokens) :] for end in ends if end > self._offset])[-len(tokens) :]
        log_probs = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
        return [float(x) for x in log_probs.gather(1, given[0, :, None])[:, 0]]

    def _pass(self, end: int) -> torch.Tensor:
        """The logits at the positions up to `end` that have not been run yet: position d_vocab."""
        prompt = self._start.batch.ids.shape[1]
        acting = [now for timed in self._start.edits if (now := timed.now(self._offset, end, prompt)) is not None]
        batch = Batch(self._ids[:, :end], (end,), (0,))
        logits = one_step(self._start.model, batch, self._offset, acting, self._cache, self._unedited)
        self._offset = end
        return logits[0]
