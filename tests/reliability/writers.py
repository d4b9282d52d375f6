"""Who writes files, found in the source: every function with a call that makes, fills, renames or copies one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import residscope

SOURCE = Path(residscope.__file__).parent
WRITES = {
    "write_text", "write_bytes", "save_file", "save_pretrained", "savefig", "open_memmap", "mkdtemp", "mkstemp",
    "TemporaryDirectory", "NamedTemporaryFile", "move", "copyfile", "copytree", "copy2", "link", "symlink",
    "symlink_to", "hardlink_to",
}  # fmt: skip
WHOLE = {"replace_whole", "write_whole"}  # what is written in a call of these is whole or not there

BY_DRAFTS = "in a draft that is renamed when it is whole"
ASKED = "called by `replace_whole`, or in a draft"
TEMPORARY = "in the system's folder of temporary files, for this process alone"
KNOWN = {
    "drafts.py:replace_whole": BY_DRAFTS,
    "features/exporting.py:_written": BY_DRAFTS,
    "model/catalog.py:made_once": BY_DRAFTS,
    "sae/saving.py:save": BY_DRAFTS,
    "server/people.py:_key": BY_DRAFTS,
    "corpus/harvest/statistics/store.py:StoreFeatures.assemble": BY_DRAFTS,
    "corpus/harvest/statistics/store.py:StoreFeatures._fill": ASKED,
    "files.py:save_tensors": ASKED,
    "graph/exchange/neuronpedia.py:write": "by a function of its own that calls `replace_whole`",
    "graph/exchange/own.py:write": "by a function of its own that calls `replace_whole`",
    "model/catalog.py:seal": ASKED,
    "model/checkpoints.py:_save": ASKED,
    "model/gguf_files.py:convert": ASKED,
    "model/planted.py:folder.make": ASKED,
    "store/archive.py:backup.write": ASKED,
    "views/figures.py:_add_titles": ASKED,
    "views/figures.py:save_picture.write": ASKED,
    "model/catalog.py:_stream": "a download, which goes on where it stopped and is checked by its hash",
    "model/catalog.py:_pip_download": "a folder that the next download removes",
    "shelf/whole.py:set_aside": "a rename, of what is damaged",
    "corpus/harvest/cluster.py:Reader.__init__": TEMPORARY,
    "corpus/harvest/copies.py:save_model": TEMPORARY,
    "corpus/harvest/run.py:harvest": TEMPORARY,
    "session/read/feature_exports.py:Exports._own": TEMPORARY,
    "session/read/feature_exports.py:Exports.start": TEMPORARY,
    "shelf/shown.py:file_of": TEMPORARY,
    "shelf/shown.py:read_item": TEMPORARY,
    "listing.py:main": "the documentation's lists, for who works on Residscope",
    "manifest.py:": "the list of methods, for who works on Residscope",
}


def writers() -> set[str]:
    """`file.py:function`, of each function below `src` that writes otherwise than by what makes files whole."""
    return {
        f"{file.relative_to(SOURCE).as_posix()}:{name}"
        for file in SOURCE.rglob("*.py")
        for name in _in(ast.parse(file.read_text(encoding="utf-8")), "")
    }


def _in(node: ast.AST, function: str) -> Iterator[str]:
    if isinstance(node, ast.Call):
        if _called(node) in WHOLE:
            return
        if _writes(node):
            yield function
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    for inner in ast.iter_child_nodes(node):
        yield from _in(inner, function)


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _writes(call: ast.Call) -> bool:
    name, told = _called(call), ast.unparse(call)
    if name in ("open", "ZipFile", "fdopen"):
        given = (*call.args, *(keyword.value for keyword in call.keywords))
        modes = [part.value for arg in given for part in ast.walk(arg) if isinstance(part, ast.Constant)]
        return "O_CREAT" in told or any(
            isinstance(mode, str) and set(mode) & set("wax+") and len(mode) < 4 for mode in modes
        )
    if name in ("rename", "replace"):  # of a path, not of a text
        return isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords
    return name in WRITES
