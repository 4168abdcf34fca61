"""Text to token ids and back, as the checkpoint's tokenizer.json says; and text that grows token by token. Torch-free."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer as Backend

from runtime.checkpoint.chat_template import ChatTemplates
from runtime.checkpoint.config import CheckpointError, read_json

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_WORD_START = "▁"  # SentencePiece's space


class Tokenizer:
    """The tokenizer of one checkpoint: byte-level BPE (Llama 3, Qwen) or SentencePiece with byte fallback (Llama 2, Mistral)."""

    def __init__(self, backend: Backend, special_tokens: Mapping[str, str], templates: ChatTemplates) -> None:
        """`special_tokens` maps names such as "eos_token" to their text."""
        # a tokenizer.json may carry the truncation and padding of its training
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._templates = templates
        self.special_tokens = dict(special_tokens)
        self.special_ids = frozenset(id for id, token in backend.get_added_tokens_decoder().items() if token.special)
        steps = _decoder_steps(json.loads(backend.to_str())["decoder"])
        self._byte_level = "ByteLevel" in steps
        if not self._byte_level and not {"ByteFallback", "Metaspace"} & steps.keys():
            raise CheckpointError(
                f"tokenizer decoder {', '.join(steps) or 'none'} is not supported: ByteLevel, ByteFallback, Metaspace are"
            )
        strip, metaspace = steps.get("Strip", {}), steps.get("Metaspace", {"prepend_scheme": "never"})
        self.leading_spaces = (
            strip.get("start", 0) if strip.get("content") == " " else int(metaspace["prepend_scheme"] != "never")
        )
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_directory(cls, path: Path) -> Self:
        """Reads tokenizer.json, tokenizer_config.json and the chat templates. Raises CheckpointError naming what is missing."""
        path = Path(path)
        file = path / "tokenizer.json"
        if not file.is_file():
            old = [name for name in ("tokenizer.model", "vocab.json", "tekken.json") if (path / name).is_file()]
            has = (
                f"; it has only {', '.join(old)}: convert it with transformers' AutoTokenizer and save_pretrained" if old else ""
            )
            raise CheckpointError(f"{path} has no tokenizer.json{has or ': prompts can be given only as token ids'}")
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CheckpointError(f"{file} is no tokenizer: {error}") from None
        config = _optional(path / "special_tokens_map.json") | _optional(path / "tokenizer_config.json")
        special = {name: _content(config[name]) for name in _SPECIAL_TOKENS if config.get(name)}
        return cls(backend, special, ChatTemplates.from_directory(path, config, special))

    @property
    def vocab_size(self) -> int:
        """Ids that mean something, added tokens included; a model's embedding may be padded beyond it."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_id(self) -> int | None:
        return self._backend.token_to_id(self.eos_token) if self.eos_token else None

    @property
    def bos_id(self) -> int | None:
        return self._backend.token_to_id(self.bos_token) if self.bos_token else None

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates.names)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Raises ValueError for text that is not Unicode (lone surrogates, which JSON can carry)."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"character {error.start} of the text, {text[error.start]!r}, is half a surrogate pair") from None
        # unlike `encode`, a batch releases the GIL: a prompt of a megabyte stalls no other request
        return self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one token adds to a text: possibly part of a character, empty for an id that is no token."""
        known = self._bytes.get(id)
        if known is None:
            token = self._backend.id_to_token(id)
            known = self._bytes[id] = b"" if token is None else self._spell(token)
        return known

    def token_text(self, id: int) -> str:
        """`token_bytes` as text; what is no whole character shows as U+FFFD."""
        return self.token_bytes(id).decode(errors="replace")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> str:
        """The prompt for a chat, special tokens included: encode it with `add_special_tokens=False`.

        `extra` (tools, documents, enable_thinking, ...) is visible to the template. Raises CheckpointError when the checkpoint
        has no chat template and ValueError when the template refuses the chat.
        """
        return self._templates.render(messages, add_generation_prompt, extra)

    def _spell(self, token: str) -> bytes:
        if self._byte_level:
            codes = [_BYTE_OF_CHAR.get(char) for char in token]
            # a token with a character outside the alphabet was added as plain text
            return token.encode() if None in codes else bytes(code for code in codes if code is not None)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        return token.replace(_WORD_START, " ").encode()


class Detokenizer:
    """Text of a growing token sequence: `add` returns only whole characters, `flush` what is left at the end.

    All pieces joined are `Tokenizer.decode` of all ids (SentencePiece aside, where a broken byte sequence may come out as
    fewer U+FFFD). The cost of a token does not depend on how many came before.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True, after_prompt: bool = False) -> None:
        """`after_prompt`: the text continues another one, so a SentencePiece word keeps the space before it."""
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._leading_spaces = 0 if after_prompt else tokenizer.leading_spaces

    def add(self, ids: Iterable[int]) -> str:
        """The text that these tokens complete."""
        return self._text(b"".join(self._tokenizer.token_bytes(id) for id in ids if id not in self._skipped), final=False)

    def flush(self) -> str:
        """Half a character that never was completed, as U+FFFD; else nothing."""
        return self._text(b"", final=True)

    def _text(self, spelled: bytes, final: bool) -> str:
        text = self._decoder.decode(spelled, final)
        while text and self._leading_spaces:
            if not text.startswith(" "):
                self._leading_spaces = 0
                break
            text = text[1:]
            self._leading_spaces -= 1
        return text


load_tokenizer = Tokenizer.from_directory


def _alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte, inverted: byte-level tokens are spelled in it."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHAR = _alphabet()


def _decoder_steps(decoder: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    steps = [] if decoder is None else decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return {step["type"]: step for step in steps}


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])
