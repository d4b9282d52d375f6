"""`residscope directions fit`: what it writes, what it says, and what it refuses."""

import sys

import pytest
import torch

import residscope as rs
from corpus.readings import texts
from residscope import directions
from residscope.cli.app import main
from session.worlds import tokenizer
from tiny_models import tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the model and two texts in it."""
    at = tmp_path_factory.mktemp("fit")
    tiny_llama().float().save_pretrained(at / "model")
    tokenizer().save_pretrained(at / "model")
    (at / "low.txt").write_text("\n\n".join(texts(1, alphabet="abcdef ghij")))
    (at / "high.txt").write_text("\n\n".join(texts(2, alphabet="XYZ,.klmno")))
    return at


@pytest.fixture
def residscope(folder, monkeypatch, capsys):
    """Runs the command on that model, and answers its exit code, what it said and what it complained of."""

    def run(*options):
        arguments = ["residscope", "directions", "fit", *options, "--model", str(folder / "model")]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, told.err

    return run


def test_it_writes_what_python_finds(residscope, folder, tmp_path):
    out, low, high = tmp_path / "d.safetensors", str(folder / "low.txt"), str(folder / "high.txt")
    of = rs.load(str(folder / "model"))

    def fitted(*options):
        code, told, complaint = residscope(*options, "-o", str(out))
        assert (code, complaint) == (0, "")
        (id, found), *_ = directions.read(out, of).items()
        assert id in told
        return found, told

    found, told = fitted("pca", "--site", "resid_pre.2", "--n", "3", "--text", low, "--standardise")
    assert torch.equal(found.read, rs.pca(of, low, "resid_pre.2", 3, standardise=True).read)
    assert f"{float(found.variance[0]):.1%}" in told
    assert "PC 2" in told
    assert "PC 3" not in told
    found, told = fitted("pca", "--site", "z.1", "--head", "2", "--n", "2", "--text", low)
    assert (found.head, "axes" in told, "z.1 head 2" in told) == (2, True, True)
    found, _ = fitted("svd", "--site", "embed", "--text", low, "--tokens", "500")
    assert (len(found), found.provenance["tokens"]) == (
        30,
        rs.svd(of, low, "embed", 30, tokens=500).provenance["tokens"],
    )
    found, told = fitted("nmf", "--site", "mlp_post.1", "--n", "2", "--text", low, "--clip")
    assert "clipped: 0.5" in told or "clipped: 0.4" in told
    found, told = fitted("mean_difference", "--site", "resid_post.1", "--text", low, "--second", high)
    assert found.names == ("low − high",)
    found, told = fitted("unembedding", "--words", "a,X")
    assert found.names == ("a", "X")
    assert fitted("unembedding", "--words", ",")[0].names == (",",)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["pca"], "BadArguments: pca needs --site"),
        (["pca", "--site", "result.1", "--text", "low"], "UnknownHead: result.1 has a vector for every head"),
        (["pca", "--site", "result.1", "--head", "9", "--text", "low"], "UnknownHead"),
        (["pca", "--site", "pattern.1", "--text", "low"], "NoVectors"),
        (["pca", "--site", "embed", "--n", "99", "--text", "low"], "DirectionError: so many directions there are not"),
        (["pca", "--site", "embed", "--clip"], "BadArguments: pca takes no --clip"),
        (["svd", "--site", "embed", "--standardise"], "BadArguments: svd takes no --standardise"),
        (["nmf", "--site", "mlp_post.1", "--text", "low"], "NegativeActivations"),
        (["mean_difference", "--site", "embed", "--text", "low"], "BadArguments: mean-difference needs --corpora"),
        (
            ["mean_difference", "--site", "embed", "--text", "low", "--second", "low"],
            "ZeroDirection: the texts have the same mean",
        ),
        (["unembedding"], "BadArguments: unembedding-rows needs --tokens"),
        (["unembedding", "--words", "ab"], "UnknownToken"),
        (["unembedding", "--words", "a", "--text", "low"], "BadArguments: unembedding-rows takes no --text"),
        (["pca", "--site", "embed", "--text", "hub:"], "BadArguments: the arguments of pca do not parse: --corpus"),
        (["pca", "--site", "embed", "--text", "nothing.txt"], "CorpusError: no such text"),
    ],
)
def test_it_refuses(residscope, folder, tmp_path, options, complaint):
    options = [str(folder / "low.txt") if option == "low" else option for option in options]
    code, told, said = residscope(*options, "-o", str(tmp_path / "d.safetensors"))
    assert (code, told) == (2, "")
    assert said.startswith(f"residscope: {complaint}")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "d.safetensors").exists()


def test_it_refuses_a_folder_that_is_not_there_before_it_reads(residscope, tmp_path):
    code, _, said = residscope("pca", "--site", "embed", "-o", str(tmp_path / "none" / "d.safetensors"))
    assert (code, said.startswith("residscope: FileNotThere: there is no such folder")) == (2, True)
    assert residscope("lda", "--site", "embed", "-o", "x")[0] == 2
