"""Source that was copied out of the package stands alone: it imports nothing of it and defines all that it uses."""

import ast
import builtins
import importlib
import symtable

import pytest

from pixelpath.interop.diffusers_folder import MODEL, PIPELINE, WITHOUT
from pixelpath.interop.standalone import standalone


@pytest.mark.parametrize("name", [MODEL, PIPELINE])
def test_a_file_defines_or_imports_every_name_that_it_uses(name: str) -> None:
    text = standalone(importlib.import_module(f"pixelpath.interop.{name}"), WITHOUT)
    tree = ast.parse(text)
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names]
    assert not any(module.split(".")[0] in ("pixelpath", "jaxtyping") for module in imported)
    whole = symtable.symtable(text, name, "exec")
    known = {each.get_name() for each in whole.get_symbols() if each.is_assigned() or each.is_imported() or each.is_namespace()}
    used, tables = set[str](), [whole]
    while tables:
        table = tables.pop()
        annotations = table.get_type() in ("annotation", "type parameters")
        used |= (
            set()
            if annotations
            else {each.get_name() for each in table.get_symbols() if each.is_global() and each.is_referenced()}
        )
        tables += table.get_children()
    notes = {
        node.id for each in ast.walk(tree) for part in _annotations(each) for node in ast.walk(part) if isinstance(node, ast.Name)
    }
    assert used - known - set(dir(builtins)) - notes - {"__file__", "__name__"} == set()


def _annotations(node: ast.AST) -> list[ast.expr]:
    """The annotations of a function, an argument or a variable, which are never run."""
    found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [each for each in found if isinstance(each, ast.expr)]


def test_what_is_left_out_is_not_there_and_one_name_means_one_thing() -> None:
    text = standalone(importlib.import_module(f"pixelpath.interop.{PIPELINE}"), WITHOUT)
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    methods = {part.name for part in classes["Normaliser"].body if isinstance(part, ast.FunctionDef)}
    assert {"decode", "from_json"} <= methods
    assert not {"unit", "fit"} & methods
    named = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(named) == len(set(named))
