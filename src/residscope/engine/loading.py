"""`rs.load`: from a name or an object to a model that has passed its certificate."""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from residscope.engine.look.judge import judged
from residscope.engine.model import Model, weights_hash
from residscope.engine.parameters import device_of, method_of
from residscope.engine.stock import call
from residscope.engine.structure import original
from residscope.errors import DamagedModel, ModelError, ModelNotFound
from residscope.model.folders import AGAIN
from residscope.progress import ask_within, asked
from residscope.versions import warn_of_untried

Progress = Callable[[str, int, int], None]
# transformers makes a model under switches of the whole process: two at once lose the tie of their embeddings
ONE_AT_A_TIME = threading.Lock()
UNSOUND = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def load(
    name: str | tuple[Any, Any] | Any,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    revision: str | None = None,
    adapter: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Model:
    """A model to work with, certified on this machine.

    name: a catalog name, a hub id, a local folder, or `(hf_model, tokenizer or None)`. dtype: float32 unless said (an object
    keeps its own). device: the CPU unless said. device_map: for a model over several devices, or larger than one, what
    accelerate takes: "auto", or modules to devices, "cpu" or "disk". revision: a hub's branch, tag or commit. adapter: a LoRA
    in PEFT's layout (a folder, a hub id, or one that ships), merged into the weights: W + (alpha / r) B A. `BASE+ADAPTER` is
    a name too, and the one that such a model has.

        rs.load("smollm2-135m", adapter="repeated-name")

    Raises:
        ModelError: not found, damaged, of an unknown family, or failing a check of its certificate (named). WrongAdapter: no
        plain LoRA, or one of another model.
    """
    if device_map is not None and (device is not None or not isinstance(name, str)):
        raise ModelError(
            "device_map places a model that is loaded by name, by itself",
            received=f"device={device}" if device is not None else type(name).__name__,
            allowed="device or device_map, and a name",
        )
    if isinstance(name, str):
        from residscope.model.adapters import BETWEEN, find_adapter, merge, parted
        from residscope.model.opening import open_source
        from residscope.model.weights import resolve

        base, behind = (name, None) if adapter is not None else parted(name)
        wanted = adapter if adapter is not None else behind
        lora = None
        with _drawn(name, progress) as drawn:
            source = resolve(base, revision=revision, progress=drawn)
            if wanted is not None:
                lora = find_adapter(wanted, progress=drawn)
        with ONE_AT_A_TIME, _stoppable():
            hf, tokenizer = open_source(
                source,
                dtype=dtype,
                device=str(device or "cpu"),
                device_map=dict(device_map) if isinstance(device_map, Mapping) else device_map,
                trust_remote_code=trust_remote_code,
            )
        called, fingerprint = source.name, source.fingerprint
        if lora is not None:
            merge(hf, lora)
            called = f"{source.name}{BETWEEN}{lora.name}"
            fingerprint = hashlib.sha256(f"{fingerprint}{BETWEEN}{lora.fingerprint}".encode()).hexdigest()
        with _computing(source.name):
            model = Model(hf, tokenizer, name=called, hash=fingerprint, bos=source.bos)
            model.certificate = judged(model, progress=progress)
    else:
        if adapter is not None:
            raise ModelError(
                "an adapter is merged into a model that is loaded by name", received=f"adapter={adapter!r}",
                allowed="a name", fix="merge it into the object first: model.merge_and_unload()",
            )  # fmt: skip
        hf, tokenizer = name if isinstance(name, tuple) else (name, None)
        if not hasattr(hf, "config"):
            raise ModelNotFound(
                "not a Hugging Face model",
                received=type(hf).__name__,
                allowed="a name, a folder, or (hf_model, tokenizer or None)",
            )
        hf = original(hf)
        _settle(hf)
        model = Model(hf, tokenizer, hash=weights_hash(hf))
        model.certificate = judged(model, progress=progress)
    warn_of_untried()
    return model


@contextmanager
def _computing(name: str) -> Iterator[None]:
    """What a model of a file does that none does is the file's damage. Raises DamagedModel."""
    try:
        yield
    except UNSOUND as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise DamagedModel(
            f"{name} cannot be run as its configuration describes it", received=f"{type(error).__name__}: {reason}", fix=AGAIN
        ) from error  # fmt: skip


def _settle(hf: Any) -> None:
    """Let quantised layers pack their weights, which some do at their first forward, before the weights are known by them."""
    if method_of(hf.config) is not None and not hf.training:
        with (
            torch.no_grad(),
            suppress(RuntimeError, TypeError, ValueError, AttributeError),
        ):  # looking says what is wrong
            call(hf, torch.zeros(1, 1, dtype=torch.long, device=device_of(hf.get_input_embeddings())))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Whoever asks whether to stop does so while a model is built too: at each of its modules and weights."""
    from torch.nn.modules import module

    if asked() is None:
        yield
        return
    handles = [
        register(lambda *_: ask_within())
        for register in (
            module.register_module_module_registration_hook,
            module.register_module_parameter_registration_hook,
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _drawn(name: str, progress: Progress | None) -> Iterator[Progress | None]:
    """The caller's own progress; where there is none, a bar in a terminal or notebook while a model is fetched."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    notebook = "ipykernel" in sys.modules
    if progress is not None or not (notebook or sys.stderr.isatty()):
        yield progress
        return
    bars: dict[str, Any] = {}

    def draw(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            size = {"unit": "B", "unit_scale": True, "unit_divisor": 1000} if stage == "download" else {}
            bars[stage] = tqdm(
                desc=f"{name}: {stage}", total=total or None, file=None if notebook else sys.stderr, **size
            )
        bars[stage].total = total or None
        bars[stage].update(done - bars[stage].n)

    try:
        yield draw
    finally:
        for bar in bars.values():
            bar.close()
