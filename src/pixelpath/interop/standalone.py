"""Parts of this package as one file of source that runs without it.

A *root* is a module whose whole text the file holds. A *definition* is a function, class or constant at the top of a module. The
file has the roots after all definitions of this package that they use, and what those use, in an order in which Python can run
them. Their text is copied, not written again, so the file computes what the package computes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType

PACKAGE = "pixelpath"
SHAPES = "jaxtyping"  # its names only annotate: a stand-in takes their place

STAND_IN = '''
class _Shape:
    """Stands in for jaxtyping: Float[Tensor, "batch"] is a note to readers, which nothing checks here."""

    def __class_getitem__(cls, given: Any) -> Any:
        return given[0]
'''


@dataclass(frozen=True, eq=False)
class _Module:
    """The source of a module, and what each of its names stands for."""

    name: str
    without: Collection[str]

    @cached_property
    def text(self) -> str:
        return inspect.getsource(importlib.import_module(self.name))

    @cached_property
    def statements(self) -> list[ast.stmt]:
        """The statements at the top, without methods that are left out."""
        found = ast.parse(self.text).body
        for each in found:
            if isinstance(each, ast.ClassDef):
                each.body = [part for part in each.body if f"{each.name}.{getattr(part, 'name', '')}" not in self.without]
        return found

    @cached_property
    def definitions(self) -> dict[str, ast.stmt]:
        return {name: each for each in self.statements for name in _names(each)}

    @cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        """Imported names: the module each comes from, and its name there ("" for the module itself)."""
        found: dict[str, tuple[str, str]] = {}
        for each in self.statements:
            if isinstance(each, ast.Import):
                found |= {alias.asname or alias.name: (alias.name, "") for alias in each.names}
            elif isinstance(each, ast.ImportFrom) and each.module != "__future__":
                found |= {alias.asname or alias.name: _origin(each.module or "", alias.name) for alias in each.names}
        return found


@dataclass(eq=False)
class _File:
    """What the file will hold: for each module the definitions used, in the order in which modules are needed."""

    without: Collection[str]
    used: dict[str, set[str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    outside: set[tuple[str, str, str]] = field(default_factory=set)  # module, name there, name here
    renamed: dict[tuple[str, str], str] = field(default_factory=dict)
    _modules: dict[str, _Module] = field(default_factory=dict)

    def module(self, name: str) -> _Module:
        return self._modules.setdefault(name, _Module(name, self.without))

    def take(self, module: str, name: str) -> None:
        """Add a definition and all that it uses."""
        here = self.module(module)
        if name in here.imports and name not in here.definitions:
            return self._import(name, *here.imports[name])
        known = self.used.setdefault(module, set())
        if name in known or name not in here.definitions:
            return None
        known.add(name)
        return self.follow(module, here.definitions[name])

    def follow(self, module: str, part: ast.AST) -> None:
        """Add all that a piece of a module uses."""
        here = self.module(module)
        for node in ast.walk(part):
            if isinstance(node, ast.Attribute) and (home := _module_named(here, node.value)):
                self.renamed[home, node.attr] = _joined(home, node.attr)  # its own name may be that of a local variable
                self.take(home, node.attr)
            elif isinstance(node, ast.Name) and (node.id in here.definitions or node.id in here.imports):
                self.take(module, node.id)
        if module not in self.order:
            self.order.append(module)

    def rename(self, modules: list[_Module]) -> None:
        """Give the second of two definitions of one name another one."""
        homes: dict[str, str] = {}
        for module in modules:
            for name in sorted(self.used[module.name]):
                spelled = self.spelled(module.name, name)
                if homes.setdefault(spelled, module.name) != module.name:
                    self.renamed[module.name, name] = _joined(module.name, name)

    def spelled(self, module: str, name: str) -> str:
        """How the file spells a name of a module."""
        here = self.module(module)
        if name in here.imports and name not in here.definitions:
            origin, there = here.imports[name]
            return self.spelled(origin, there) if _ours(origin) and there else name
        return self.renamed.get((module, name), name)

    def _import(self, name: str, origin: str, there: str) -> None:
        if _ours(origin) and there:
            self.take(origin, there)
        elif not _ours(origin):
            self.outside.add((origin, there, name))


def standalone(root: ModuleType, without: Collection[str] = ()) -> str:
    """The text of a module with everything of this package that it uses, as one file that imports other packages alone.

    `without` are methods to leave out ("Class.method") with what only they use. `module.name` becomes
    `module_name` in the file, and so does the second of two definitions of one name.
    """
    file = _File(without)
    top = file.module(root.__name__)
    for each in top.statements:
        if not isinstance(each, ast.Import | ast.ImportFrom):
            file.follow(top.name, each)
    file.used[top.name] = set(top.definitions)
    modules = [file.module(name) for name in file.order if name != top.name] + [top]
    file.rename(modules)
    docstring = ast.get_docstring(ast.parse(top.text), clean=False)
    head = f'"""{docstring}"""\n\nfrom __future__ import annotations\n\n' + "\n".join(_imports(file.outside))
    shapes = sorted({name for origin, _, name in file.outside if origin == SHAPES})
    stand_in = [STAND_IN.strip("\n"), " = ".join(shapes) + " = _Shape"] if shapes else []
    return "\n\n\n".join([head, *stand_in, *(part for part in (_text(file, each) for each in modules) if part)]) + "\n"


def _imports(outside: set[tuple[str, str, str]]) -> Iterator[str]:
    """The lines that import from other packages."""
    parts: dict[str, list[str]] = {}
    for origin, there, name in sorted({each for each in outside if each[0] != SHAPES} | {("typing", "Any", "Any")}):
        renamed = "" if name in (there, origin) else f" as {name}"
        if there:
            parts.setdefault(origin, []).append(f"{there}{renamed}")
        else:
            yield f"import {origin}{renamed}"
    yield from (f"from {origin} import {', '.join(names)}" for origin, names in parts.items())


def _text(file: _File, module: _Module) -> str:
    """The definitions of a module that are used, as they stand there, but for the names of other definitions."""
    lines = module.text.splitlines()
    pieces: list[str] = []
    for each in module.statements:
        if not file.used[module.name] & set(_names(each)):
            continue
        first = min([each.lineno, *(mark.lineno for mark in getattr(each, "decorator_list", []))])
        here = lines[first - 1 : each.end_lineno]
        for row, start, end, name in sorted(_edits(file, module, each), reverse=True):
            line = here[row - first].encode()
            here[row - first] = (line[:start] + name.encode() + line[end:]).decode()
        kept = set(range(first, (each.end_lineno or first) + 1)) - _left_out(module, each)
        pieces.append("\n".join(line for number, line in enumerate(here, first) if number in kept).rstrip())
    return "\n\n\n".join(pieces)


def _edits(file: _File, module: _Module, part: ast.stmt) -> Iterator[tuple[int, int, int, str]]:
    """Line, first and last column (bytes) of every name that the file spells otherwise, and how."""
    for node in ast.walk(part):
        if isinstance(node, ast.Attribute) and (home := _module_named(module, node.value)):
            assert node.end_col_offset is not None
            yield node.lineno, node.col_offset, node.end_col_offset, file.spelled(home, node.attr)
        elif isinstance(node, ast.Name) and (new := file.spelled(module.name, node.id)) != node.id:
            yield node.lineno, node.col_offset, node.col_offset + len(node.id), new
    if isinstance(part, ast.FunctionDef | ast.ClassDef) and (new := file.spelled(module.name, part.name)) != part.name:
        start = part.col_offset + len("def " if isinstance(part, ast.FunctionDef) else "class ")
        yield part.lineno, start, start + len(part.name), new


def _left_out(module: _Module, part: ast.stmt) -> set[int]:
    """The lines of methods that are left out."""
    whole = next(each for each in ast.parse(module.text).body if each.lineno == part.lineno)
    found: set[int] = set()
    for method in getattr(whole, "body", []):
        if f"{getattr(whole, 'name', '')}.{getattr(method, 'name', '')}" in module.without:
            first = min([method.lineno, *(mark.lineno for mark in method.decorator_list)])
            found |= set(range(first, method.end_lineno + 2))
    return found


def _names(part: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(part, ast.FunctionDef | ast.ClassDef):
        return [part.name]
    targets = part.targets if isinstance(part, ast.Assign) else [part.target] if isinstance(part, ast.AnnAssign) else []
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _module_named(module: _Module, node: ast.expr) -> str:
    """The module of this package that an expression names; "" if it names none."""
    if not isinstance(node, ast.Name) or node.id in module.definitions:
        return ""
    origin, there = module.imports.get(node.id, ("", ""))
    return origin if _ours(origin) and not there else ""


def _origin(module: str, name: str) -> tuple[str, str]:
    """Where `from module import name` finds it: a module of this package is imported whole."""
    if _ours(module):
        home = importlib.import_module(module)
        if isinstance(getattr(home, name, None), ModuleType) or not hasattr(home, name):
            return f"{module}.{name}", ""
    return module, name


def _joined(module: str, name: str) -> str:
    return f"{module.rpartition('.')[2]}_{name}"


def _ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE
