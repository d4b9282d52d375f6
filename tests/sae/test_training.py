"""Trainings whole: on a truth that is known, killed and gone on with, by two processes, refused, stopped."""

import math
import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

import residscope as rs
from corpus import readings
from residscope.corpus.reading import Reader
from residscope.directions import EncoderDictionary
from residscope.errors import BadTraining, Cancelled, CheckpointNotWritten, DamagedFile, TrainingDiverged
from residscope.sae.training import checkpoint
from residscope.sae.training.learner import Learner, geometric_median
from residscope.sae.training.plan import Plan
from residscope.sae.training.session import Sitting
from residscope.sae.training.train import plans_of, run, usual_batch

TEXT = readings.texts(n=80)


@pytest.fixture(scope="module")
def model() -> rs.Model:
    return readings.model()


def sparse_vectors(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """n vectors of 128 features in 64 dimensions, each active with p = 0.05, and the features."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(128, 64, generator=draw)
    features /= features.norm(dim=1, keepdim=True)
    active = torch.rand(n, 128, generator=draw) < 0.05
    return active * (1 + 0.25 * torch.randn(n, 128, generator=draw)).clamp_min(0.1) @ features, features


@pytest.mark.parametrize("kind", ["batchtopk", "topk", "jumprelu", "gated", "relu"])
def test_known_features_are_found(kind: str) -> None:
    x, truth = sparse_vectors(16_384)
    x *= x.square().sum(1).mean().rsqrt()
    steps, batch = 600, 256
    one = Learner(Plan(kind, "resid_post.0", "resid_post.0", 128, 6, lr=5e-3), steps, steps * batch)
    one.begin(x, x)
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        some = x[torch.randint(len(x), (batch,), generator=draw)]
        one.step(some, some)
    best = (truth @ one.parameters["W_dec"].T).max(1).values
    assert best.mean() > 0.95, float(best.mean())
    chance = torch.randn(128, 64, generator=draw)
    chance = (truth @ (chance / chance.norm(dim=1, keepdim=True)).T).max(1).values
    assert chance.mean() < 0.5, "the control: as many random directions"


def test_what_is_saved_reads_vectors_as_they_are(model: rs.Model) -> None:
    """The scale is folded in: reconstructing unscaled vectors gives the learner's own reconstruction, unscaled."""
    for kind in ("batchtopk", "topk", "jumprelu", "gated", "relu"):
        x, y = (torch.randn(512, 16, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
        scales = {"mlp_in.0": 0.1, "mlp_out.0": 3.0}
        one = Learner(Plan(kind, "mlp_in.0", "mlp_out.0", 40, 4, skip=True), 5, 1000)
        one.begin(x * 0.1, y * 3.0)
        for _ in range(5):
            one.step(x * 0.1, y * 3.0)
        one.kind.memory["share"] = 1.0
        _, residual, a, _ = one.gradients(x * 0.1, y * 3.0)
        found = one.dictionary(scales, {})
        if kind == "batchtopk":  # in training the batch decides, afterwards a threshold
            least = float(a.min())
            found = EncoderDictionary(**{**vars(found), "threshold": torch.full((40,), (least - 1e-6) / 3.0)})
        torch.testing.assert_close(found.reconstruct(x), (residual + y * 3.0) / 3.0, rtol=1e-3, atol=1e-4)


def kinds_and_sizes(model: rs.Model, **more: Any) -> dict[str, Any]:
    return rs.sae.train(
        model, TEXT, ["resid_post.1", ("mlp_in.1", "mlp_out.1")], features=[32, 48], k=4, tokens=3_000, batch=64,
        kind=["batchtopk", "matryoshka"], progress=False, **more,
    )  # fmt: skip


def test_many_from_one_pass(model: rs.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    plain = rs.Model.run
    monkeypatch.setattr(
        rs.Model, "run", lambda self, *given, **named: runs.append(given) or plain(self, *given, **named)
    )
    made = kinds_and_sizes(model)
    training = made.pop("training")
    assert len(made) == 8
    assert len(training.names) == 8
    assert [*made] == [*training.names]
    single = len(runs)
    runs.clear()
    rs.sae.train(model, TEXT, ["resid_post.1"], features=32, k=4, tokens=3_000, batch=64, progress=False)
    assert single == len(runs), "as many forwards as for one"
    for name, dictionary in made.items():
        assert isinstance(dictionary, EncoderDictionary)
        assert dictionary.activation == "jumprelu"
        assert dictionary.provenance["kind"] == name.split()[0]
        torch.testing.assert_close(dictionary.write.norm(dim=1), torch.ones(len(dictionary)), rtol=1e-4, atol=1e-4)
    fvu = training.fvu
    assert (fvu[:, -10:].mean(1) < fvu[:, :10].mean(1)).all()
    assert training._repr_html_()
    assert repr(training).startswith("Training(8 dictionaries")


class Killed(Exception):
    pass


def sitting(model: rs.Model, folder: Path | None, budget: int = 4_096) -> Sitting:
    plans = plans_of(["resid_post.1"], kind=["batchtopk", "jumprelu"], features=32, k=4)
    plans += plans_of([("mlp_in.1", "mlp_out.1")], features=32, k=4, skip=True)
    return Sitting(model, Reader(model, TEXT), plans, budget=budget, batch=64, folder=folder, every=0.0)


def test_a_killed_training_goes_on_to_the_bit(model: rs.Model, tmp_path: Path) -> None:
    whole = sitting(model, None)
    for _ in whole.run(lambda *_: None):
        pass

    def killed(done: int | None = None) -> None:
        if done is not None and done > 2_500:
            raise Killed

    first = sitting(model, tmp_path)
    with pytest.raises(Killed):
        for _ in first.run(killed):
            pass
    second = sitting(model, tmp_path)
    for _ in second.run(lambda *_: None):
        pass
    assert 0 < second._from < 2_600 / 64
    assert second.points == whole.points
    for a, b in zip(whole.dictionaries().values(), second.dictionaries().values(), strict=True):
        assert torch.equal(a.read, b.read)
        assert torch.equal(a.write, b.write)
        assert torch.equal(a.bias, b.bias)


def test_a_folder_of_another_training_is_refused(model: rs.Model, tmp_path: Path) -> None:
    one = sitting(model, tmp_path)
    for _ in one.run(lambda *_: None):
        pass
    one.keep()
    with pytest.raises(BadTraining, match="budget"):
        next(sitting(model, tmp_path, budget=9_000).run(lambda *_: None))
    file = tmp_path / checkpoint.NAME
    held = bytearray(file.read_bytes())
    held[-5] ^= 1
    file.write_bytes(held)
    with pytest.raises(DamagedFile, match="checkpoint"):
        next(sitting(model, tmp_path).run(lambda *_: None))


def test_no_number_stops_it_and_leaves_the_last_checkpoint(
    model: rs.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sitting(model, tmp_path)
    plain = Learner.step

    def poisoned(self: Learner, x: torch.Tensor, y: torch.Tensor) -> Any:
        return plain(self, x * math.nan if self.number == 50 else x, y)

    monkeypatch.setattr(Learner, "step", poisoned)
    with pytest.raises(TrainingDiverged, match="step 50 of 64"):
        for _ in one.run(lambda *_: None):
            pass
    for learner in one.learners:
        assert all(x.isfinite().all() for x in learner.parameters.values())
    found = checkpoint.read(tmp_path, one.about)
    assert found is not None
    assert 0 < found[1]["number"] <= 50


def test_a_full_disk_is_said_and_leaves_the_last_checkpoint(
    model: rs.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sitting(model, tmp_path)
    for _ in one.run(lambda *_: None):
        pass
    one.keep()
    before = (tmp_path / checkpoint.NAME).read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointNotWritten, match="No space left"):
        one.keep()
    assert (tmp_path / checkpoint.NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]


def test_cancelling_keeps_what_there_is(model: rs.Model, tmp_path: Path) -> None:
    done = [0]

    def heard(what: str, now: int, total: int) -> None:
        done[0] = now

    with pytest.raises(Cancelled) as stopped:
        for _ in run(sitting(model, tmp_path), progress=heard, cancel=lambda: done[0] > 2_000):
            pass
    assert len(stopped.value.partial) == 4
    assert len(stopped.value.partial["training"].tokens) > 10
    again = sitting(model, tmp_path)
    assert again.restored()
    assert again.number * 64 > 2_000


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"kind": "lasso"}, "batchtopk"), ({"k": 32}, "features - 1"), ({"prefixes": (8, 16)}, "matryoshka"),
        ({"kind": "matryoshka", "prefixes": (16, 8, 32)}, "grow"), ({"written": ["mlp_out.1", "mlp_out.0"]}, "as many"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_read(
    model: rs.Model, given: dict[str, Any], word: str
) -> None:
    def unread() -> Any:
        raise AssertionError("it was read")
        yield

    with pytest.raises(BadTraining, match=word):
        rs.sae.train(model, unread(), ["resid_post.1"], **{"features": 32, "k": 4, **given})
    with pytest.raises(rs.errors.SiteError):
        rs.sae.train(model, unread(), ["resid_post.9"], features=32, k=4)


def test_a_batch_is_sized_by_the_budget() -> None:
    assert [usual_batch(n) for n in (10_000, 1_000_000, 5_000_000, 10**9)] == [128, 256, 2048, 4096]


def test_the_geometric_median_is_that_of_a_line() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [100.0, 0.0]])
    torch.testing.assert_close(geometric_median(points), torch.tensor([1.0, 0.0]), atol=1e-2, rtol=0)


# ── several processes ───────────────────────────────────────────────────────────────────────────────────────────────


def _one_of_two(rank: int, size: int, port: int, out: Any) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    one = sitting(readings.model(), None, budget=1_024)
    for learner in one.learners:
        learner.patience = 200  # so that some are dead
    for _ in one.run(lambda *_: None):
        pass
    if rank == 0:
        out.put({name: d.read.tolist() for name, d in one.dictionaries().items()})
    dist.destroy_process_group()


def test_two_processes_are_one(model: rs.Model) -> None:
    one = sitting(model, None, budget=1_024)
    for learner in one.learners:
        learner.patience = 200
    for _ in one.run(lambda *_: None):
        pass
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    both = [context.Process(target=_one_of_two, args=(rank, 2, port, out)) for rank in range(2)]
    for process in both:
        process.start()
    found = out.get(timeout=120)
    for process in both:
        process.join(timeout=60)
    assert [process.exitcode for process in both] == [0, 0]
    for name, dictionary in one.dictionaries().items():
        torch.testing.assert_close(torch.tensor(found[name]), dictionary.read, rtol=2e-3, atol=2e-4)
