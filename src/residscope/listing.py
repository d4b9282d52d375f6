"""`make docs`: the pages that list methods, edits, kinds of arguments, errors, answers and terms, as each is declared.

python -m residscope.listing docs              the pages, of Residscope's own
python -m residscope.listing --plugins         the methods and edits of the plugins that are installed, on the screen
"""

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from residscope import errors, fields, manifest
from residscope.cli.words import Taken
from residscope.declare import EDITS, METHODS, TASKS, Argument, Declared, EditKind, Method, Task
from residscope.declare.methods import GROUPS
from residscope.declare.plugins import load_plugins
from residscope.terms import GROUPS as PARTS
from residscope.terms import Entry, glossary

WRITTEN = "<!-- written by `make docs` from the declarations: change those -->"
COLUMNS = "| argument | kind | unless said | what it is |\n|---|---|---|---|"


def pages() -> dict[str, str]:
    """Each page by its file's name, of what comes with Residscope."""
    methods = manifest.own_methods().values()
    edits = [kind for _, kind in sorted(EDITS.items()) if _own(kind)]
    return {
        "methods.md": methods_page(methods, [task for task in TASKS.values() if _own(task)]),
        "edits-list.md": edits_page(edits),
        "fields.md": fields_page(),
        "errors.md": errors_page(),
        "glossary.md": glossary_page(),
        "wire-types.md": wire_page(),
    }


def methods_page(methods: Iterable[Method], tasks: Iterable[Task]) -> str:
    parts = [
        f"# Methods\n\n{WRITTEN}\n",
        "Every method is a function of Python, a command (`residscope run ID`, see [the command line](cli.md)) and a form on the "
        "page. What an argument of each kind may be is on [its own page](fields.md).\n",
    ]
    rank = {group: number for number, group in enumerate(GROUPS)}
    for group in sorted({method.group for method in methods}, key=lambda name: rank.get(name, len(rank))):
        parts.append(f"## {group.capitalize()}\n")
        parts += [method_part(method) for method in methods if method.group == group]
    rows = [f"| `{task.id}` | {task.title} | {_cell(task.about)} |" for task in sorted(tasks, key=lambda task: task.id)]
    parts += [
        "## Tasks\n",
        "As prompts: `task:ID,n=50,seed=0` on the command line.\n",
        "| id | title | about |\n|---|---|---|",
    ]
    return "\n".join([*parts, *rows]) + "\n"


def method_part(method: Method) -> str:
    taken = Taken.of(method.schema())
    slots = [slot[2:].upper() for slot in taken.slots]
    required = [f"{name} {taken.examples[name]}" for name in taken.required if name not in taken.slots]
    command = " ".join(["residscope run", method.id, *slots, *required])
    lines = [
        f"### {method.id}: {method.title}\n",
        f"{method.about}\n",
        f"    {call_of(method, 'model')}",
        f"    {command}\n",
    ]
    return "\n".join([*lines, COLUMNS, *rows_of(method, taken)]) + "\n"


def edits_page(kinds: Iterable[EditKind]) -> str:
    parts = [
        f"# Kinds of edits\n\n{WRITTEN}\n",
        "Each is a function of `rs.edits` (what they mean: [edits](edits.md)), an object of JSON with its `kind` on the wire, in "
        "files and on the command line, and a form on the page.\n",
    ]
    for kind in kinds:
        example = ", ".join(
            [f'"kind": "{kind.id}"', *(f'"{a.wire}": ...' for a in kind.arguments if a.default is a.required)]
        )
        lines = [
            f"## {kind.glyph} {kind.id}: {kind.title}\n",
            f"{kind.about}\n",
            f"    {call_of(kind)}",
            f"    {{{example}}}\n",
        ]
        parts.append("\n".join([*lines, COLUMNS, *rows_of(kind)]) + "\n")
    return "\n".join(parts)


def rows_of(declared: Declared, taken: Taken | None = None) -> Iterator[str]:
    """A row for each argument."""
    for argument in declared.arguments:
        kind = argument.field.kind
        name = f"`{argument.wire}`" if taken is None else f"`{taken.called(argument.wire)}`"
        default = "required" if argument.default is Argument.required else f"`{argument.default!r}`"
        default = "" if argument.default is None or argument.default == () else default
        yield f"| {name} | [{kind}](fields.md#{kind}) | {default} | {_cell(about_argument(declared, argument))} |"


def about_argument(declared: Declared, argument: Argument) -> str:
    """What an argument is: its field's help, the docstring's words for it, its title or its kind; its bounds; where it counts."""
    field, text = argument.field, " ".join((inspect.getdoc(declared.function) or "").split())
    said = re.search(rf"(?:^|[.;:] )(?:\w+, )*{argument.name}(?:, \w+)*: ((?:[^.]|\.(?! |$))+)", text)
    titled = argument.title if argument.title != argument.name.replace("_", " ") else ""
    words = field.help or (said[1] if said else "") or titled or re.split(r"[.;] |\.$", _about(type(field)))[0]
    if isinstance(field, fields.count) and field.high < fields.count().high:
        words += f"; {field.low} to {field.high:,}"
    for when, name in ((field.when, "with"), (field.unless, "without")):
        words += f" ({name} `{when[0]}` {' or '.join(when[1])})" if when else ""
    return words


def _about(of: Any) -> str:
    """The first paragraph of its docstring, in one line."""
    return " ".join((inspect.getdoc(of) or "").split("\n\n")[0].split())


def call_of(declared: Declared, *first: str) -> str:
    """The function as Python calls it, with what is asked for."""
    required = [a.name for a in declared.arguments if a.default is Argument.required]
    optional = [f"{a.name}=" for a in declared.arguments if a.default is not Argument.required]
    return f"{declared.name_in_python}({', '.join([*first, *required, *optional])})"


def fields_page() -> str:
    parts = [
        f"# Kinds of arguments\n\n{WRITTEN}\n",
        "What [methods](methods.md) and [edits](edits-list.md) ask for. On the command line a value is the words shown; on the "
        "wire, and in edits, it is JSON.\n",
    ]
    kinds: dict[str, Any] = dict(sorted(fields.KINDS.items()))
    for kind, cls in kinds.items():
        field = cls("one", "another") if kind == "choice" else cls()
        about = _about(cls)
        lines = [
            f"## {kind}\n",
            f"{about}\n",
            f"- on the command line: `{field.example if field.words else 'nothing more'}`",
        ]
        if (read := inspect.getdoc(_reader(cls)) or "") and not read.startswith("The plain value out of"):
            lines[-1] += f": {read.splitlines()[0]}"
        parts.append("\n".join([*lines, *shapes_of(field)]) + "\n")
    return "\n".join(parts)


def _reader(cls: type[Any]) -> Any:
    """The function that reads its words: the module's own where there is one."""
    module = sys.modules[cls.__module__]
    return next((part for name, part in vars(module).items() if name.startswith("read_") and callable(part)), cls.read)


def shapes_of(field: Any) -> Iterator[str]:
    """A line for each shape that its value may have on the wire."""
    schema = TypeAdapter(field.type()).json_schema()
    shapes = schema.get("$defs", {}) | ({"": schema} if "properties" in schema else {})
    for part in shapes.values():
        told = [f'"{key}": {_shape(value)}' for key, value in part["properties"].items()]
        about = " ".join(part.get("description", "").split("\n\n")[0].split())
        yield f"- as JSON: `{{{', '.join(told)}}}`" + (f": {about}" if about else "")
    if not shapes:
        several = schema.get("anyOf", [schema])
        yield "- as JSON: " + " or ".join(dict.fromkeys(f"`{_shape(part)}`" for part in several))


def _shape(schema: dict[str, Any]) -> str:
    """A plain type in a word."""
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return " or ".join(f'"{word}"' for word in schema["enum"])
    if schema.get("type") == "array":
        return f"[{_shape(schema.get('items', {}))}, ...]"
    return {"string": '"text"', "integer": "1", "number": "1.0", "boolean": "true", "null": "null"}.get(
        schema.get("type", ""), "..."
    )


def errors_page() -> str:
    head = (
        f"# Errors\n\n{WRITTEN}\n\nEvery error that Residscope raises on purpose is one of `rs.errors`. Each says what failed, "
        "what was received, what is allowed and how to fix it: `str(error)`, `error.to_dict()`, a line on the command line, a "
        "notice on the page.\n\n"
    )
    return (
        head + "\n".join([*_tree(errors.ResidscopeError), "", "Warnings:", "", *_tree(errors.ResidscopeWarning)]) + "\n"
    )


def _tree(cls: type[Any], depth: int = 0) -> Iterator[str]:
    about = _about(cls)
    yield f"{'  ' * depth}- `{cls.__name__}`: {about}"
    for below in sorted(
        (sub for sub in cls.__subclasses__() if sub.__module__.startswith(f"{errors.__name__}.")),
        key=lambda c: c.__name__,
    ):
        yield from _tree(below, depth + 1)


PAGE_OF = {
    "method": "methods.md",
    "group": "methods.md",
    "edit": "edits-list.md",
    "site": "engine.md",
    "task": "tasks.md",
}


def glossary_page() -> str:
    parts = [
        f"# Glossary\n\n{WRITTEN}\n",
        "The field's words. In Python, on the command line:\n",
        '```python\nimport residscope as rs\n\nprint(rs.glossary("K-composition"))\n```\n',
        "    residscope glossary K-composition\n    residscope glossary --json\n",
        "On the page, `?` opens it as a drawer: type to find a word, follow *Show me* to the tab, site, method, edit or task "
        "that shows it on the prompt at hand. Words with a dotted line there, in legends, readouts, forms and titles, open "
        "their entry.\n",
        "Vectors are rows (x W), indices start at zero; `W_OV = W_V W_O`, `W_QK = W_Q W_K^T`.\n",
    ]
    for group, title in PARTS.items():
        parts.append(f"## {title}\n")
        parts += ["\n".join(term_part(entry)) + "\n" for entry in glossary() if entry.group == group]
    return "\n".join(parts)


def term_part(entry: Entry) -> Iterator[str]:
    yield f"### {entry.term}\n"
    yield entry.what + (f" Also: {', '.join(entry.also)}." if entry.also else "") + "\n"
    if entry.formula:
        yield f"    {entry.formula}\n"
    yield f"*Easily misread.* {entry.trap}\n"
    links = [f"*{entry.source}.*".replace("?.*", "?*")]
    links.append("See " + ", ".join(f"[{term}](#{_anchor(term)})" for term in entry.see) + ".")
    links.append(f"Shown by {', '.join(map(_shown, entry.show))}.")
    yield " ".join(links)


def _shown(link: str) -> str:
    """A link to what shows a term, or its name."""
    kind, _, id = link.partition(":")
    words = f"`rs.{id}`" if kind == "rs" else f"{kind} `{id}`"
    return f"[{words}]({PAGE_OF[kind]})" if kind in PAGE_OF else words


def _anchor(title: str) -> str:
    """Where a title stands on its page, as GitHub and most others have it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def wire_page() -> str:
    """What the server says: the answers by name, then every type in them."""
    from residscope.server.said import schema

    whole = schema()
    parts = [
        f"# The wire's types\n\n{WRITTEN}\n",
        "What a session says, as TypeScript: its state, and the answers to intents and queries. What each is asked for, and "
        "what it does, is on [the wire](wire.md). A `PlainView` is [a picture](views.md); a `Tensor` is told with its dtype and "
        "its axes.\n",
    ]
    for kind in ("queries", "intents"):
        answers = {name: _typed(shape) for name, shape in whole["properties"][kind]["properties"].items()}
        parts += [f"## {kind.capitalize()}\n", "| name | answer |\n|---|---|"]
        parts += [f"| `{name}` | {_cell(f'`{answer}`')} |" for name, answer in answers.items()]
        parts.append("")
    parts.append("## Types\n\n```ts")
    parts += ["\n".join(_interface(name, shape)) for name, shape in whole["definitions"].items()]
    return "\n".join([*parts, "```"]) + "\n"


def _interface(name: str, shape: dict[str, Any]) -> Iterator[str]:
    if "description" in shape:
        yield f"// {shape['description']}"
    yield f"interface {name} {{"
    for key, part in shape["properties"].items():
        comment = f"  // {part['description']}" if "description" in part else ""
        yield f"  {key}{'' if key in shape['required'] else '?'}: {_typed(part)};{comment}"
    if shape["additionalProperties"]:
        yield "  [more: string]: unknown;"
    yield "}"


def _typed(shape: dict[str, Any]) -> str:
    """A type as TypeScript has it, in a line."""
    if shape.get("tsType", "").startswith("Tensor"):
        return f"Tensor /* {shape['description']} */"
    if "$ref" in shape:
        return str(shape["$ref"].rpartition("/")[2])
    if "anyOf" in shape or "enum" in shape:
        return " | ".join([*map(_typed, shape.get("anyOf", ())), *map(json.dumps, shape.get("enum", ()))])
    if shape.get("type") == "array" and isinstance(shape["items"], list):
        return f"[{', '.join(map(_typed, shape['items']))}]"
    if shape.get("type") == "array":
        inner = _typed(shape["items"])
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if shape.get("type") == "object" and "properties" in shape:
        members = [
            f"{key}{'' if key in shape['required'] else '?'}: {_typed(part)}"
            for key, part in shape["properties"].items()
        ]
        return f"{{ {'; '.join(members)} }}" if members else "{}"
    if shape.get("type") == "object":
        return f"Record<string, {_typed(shape['additionalProperties'])}>"
    return str(shape.get("tsType", shape.get("type", "unknown")))


def _own(declared: Any) -> bool:
    return bool(declared.function.__module__.startswith("residscope."))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(words: list[str]) -> None:
    if words == ["--plugins"]:
        manifest.own_methods()
        load_plugins()
        methods = [method for method in METHODS.values() if not _own(method)]
        tasks = [task for task in TASKS.values() if not _own(task)]
        print(methods_page(methods, tasks), edits_page([kind for kind in EDITS.values() if not _own(kind)]), sep="\n")
        return
    folder = Path(words[0] if words else "docs")
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
