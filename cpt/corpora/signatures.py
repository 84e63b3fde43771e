"""Function signatures read by `ast`, and the questions that can be asked about them."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LONGEST = 90  # characters of a signature


@dataclass(frozen=True)
class Function:
    """What a question may ask about one function."""

    name: str
    signature: str  # "def name(a, b=1, *, key=None)", without annotations
    parameters: tuple[str, ...]
    defaults: tuple[tuple[str, str], ...]  # parameter and default value, as in the source
    summary: str  # first sentence of the docstring, or ""


def functions(text: str) -> Iterator[Function]:
    """Functions and methods of a module that have parameters and a short signature.

    A module that does not parse has none.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in _statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = _function(node)
            if function:
                yield function


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements and those inside them; unlike `ast.walk` it enters no expression."""
    for node in nodes:
        yield node
        for part in ("body", "handlers", "orelse", "finalbody"):
            inner = getattr(node, part, None)
            if isinstance(inner, list):
                yield from _statements(inner)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function | None:
    plain = node.args
    for argument in (*plain.posonlyargs, *plain.args, *plain.kwonlyargs, plain.vararg, plain.kwarg):
        if argument is not None:
            argument.annotation = None
    signature = f"def {node.name}({ast.unparse(plain)})"
    positional = [argument.arg for argument in (*plain.posonlyargs, *plain.args)]
    keyword = [argument.arg for argument in plain.kwonlyargs]
    parameters = (*positional, *keyword)
    if not parameters or len(signature) > _LONGEST or not signature.isascii():
        return None
    optional = positional[len(positional) - len(plain.defaults) :]
    given = [*zip(optional, plain.defaults, strict=True)]
    given += [
        (name, value) for name, value in zip(keyword, plain.kw_defaults, strict=True) if value
    ]
    defaults = tuple((name, ast.unparse(value)) for name, value in given)
    return Function(node.name, signature, parameters, defaults, _summary(node))


def _summary(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    docstring = ast.get_docstring(node) or ""
    first = " ".join(docstring.partition("\n\n")[0].split())
    sentence = first.partition(". ")[0].rstrip(".")
    return f"{sentence}." if 15 <= len(sentence) <= 100 and sentence.isascii() else ""
