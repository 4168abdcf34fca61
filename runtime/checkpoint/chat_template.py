"""Chat templates: where a checkpoint keeps them and how they are rendered, to the letter as transformers does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from runtime.checkpoint.config import CheckpointError

_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class ChatTemplates:
    """A checkpoint's chat templates by name; a single one is "default". They are untrusted code and run in a sandbox."""

    def __init__(self, sources: Mapping[str, str], origin: Path, variables: Mapping[str, str]) -> None:
        """`origin` is the checkpoint that errors name; `variables` (the special tokens) are visible to every template."""
        self._sources = dict(sources)
        self._origin = origin
        self._variables = dict(variables)
        self._compiled: dict[str, Template] = {}

    @classmethod
    def from_directory(cls, path: Path, tokenizer_config: Mapping[str, Any], variables: Mapping[str, str]) -> ChatTemplates:
        """Templates of tokenizer_config.json (one, or a list of named ones), overruled by those in .jinja files."""
        given = tokenizer_config.get("chat_template") or {}
        if isinstance(given, str):
            given = {"default": given}
        elif isinstance(given, list):
            given = {entry["name"]: entry["template"] for entry in given}
        files = {file.stem: file for file in sorted(path.glob("chat_templates/*.jinja"))}
        if (path / "chat_template.jinja").is_file():
            files["default"] = path / "chat_template.jinja"
        read = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
        return cls(read or given, path, variables)

    @property
    def names(self) -> list[str]:
        return sorted(self._sources)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, extra: Mapping[str, Any]) -> str:
        """The prompt that a chat makes. With `tools` in `extra`, the template named "tool_use" is taken if there is one.

        Raises CheckpointError when the checkpoint has no (sound) template, ValueError when the template refuses the chat.
        """
        if not messages:
            raise ValueError("the chat has no messages: a chat template needs one at least")
        template = self._template("tool_use" if extra.get("tools") is not None and "tool_use" in self._sources else "default")
        values = {"tools": None, "documents": None, **self._variables, **extra, "add_generation_prompt": add_generation_prompt}
        try:
            return template.render(messages=[_message(message) for message in messages], **values)
        except Exception as error:  # a template is a program: it can fail in any way
            raise ValueError(f"the chat template of {self._origin} refuses the chat: {error}") from error

    def _template(self, name: str) -> Template:
        if name not in self._sources:
            others = (
                f"it has only {', '.join(self.names)}"
                if self._sources
                else "no chat_template.jinja and none in tokenizer_config.json"
            )
            raise CheckpointError(
                f"{self._origin} has no {name} chat template ({others}): send a plain prompt instead of messages"
            )
        if name not in self._compiled:
            try:
                self._compiled[name] = _environment().from_string(self._sources[name])
            except TemplateSyntaxError as error:
                raise CheckpointError(f"{self._origin}: chat template {name}, line {error.lineno}: {error.message}") from None
        return self._compiled[name]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    # APIs send null for what a message lacks, and templates would print "None"; reasoning goes by several names
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[key] for key in _REASONING_FIELDS if key in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks an assistant's tokens for training; here it prints its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """`dict` for templates without the class itself, through whose attributes the sandbox could be left."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` that keeps no underscore-prefixed attribute: those reach the interpreter's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _refuse_private(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a template may not set {name!r} on a namespace: no name may begin with an underscore")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes HTML, which no model was trained on
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals |= {"dict": _Dict(), "namespace": _Namespace}
    return environment
