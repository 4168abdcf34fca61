"""Log probabilities in the two shapes of OpenAI's API. Natural logarithms, of the model's own distribution."""

from __future__ import annotations

from runtime.checkpoint.tokenizer import Tokenizer
from runtime.frontend import TextDelta

LOWEST = -9999.0  # OpenAI's stand-in for minus infinity, which JSON lacks


def completion_logprobs(tokenizer: Tokenizer, delta: TextDelta, offset: int) -> dict[str, object]:
    """Parallel lists. Offsets count characters of the tokens' own texts, the first being at `offset`."""
    texts = [tokenizer.token_text(token) for token in delta.tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    found = delta.logprobs or []
    tops = [
        {tokenizer.token_text(token): max(value, LOWEST) for token, value in entry.top} | {text: max(entry.logprob, LOWEST)}
        for text, entry in zip(texts, found, strict=True)
    ]
    return {
        "tokens": texts,
        "token_logprobs": [max(entry.logprob, LOWEST) for entry in found],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def chat_logprobs(tokenizer: Tokenizer, delta: TextDelta) -> dict[str, object]:
    """One object a token. Its bytes tell of a character that is spread over several tokens; its text cannot."""

    def entry(token: int, logprob: float) -> dict[str, object]:
        spelled = list(tokenizer.token_bytes(token))
        return {"token": tokenizer.token_text(token), "logprob": max(logprob, LOWEST), "bytes": spelled}

    content = [
        entry(token, found.logprob) | {"top_logprobs": [entry(other, value) for other, value in found.top]}
        for token, found in zip(delta.tokens, delta.logprobs or [], strict=True)
    ]
    return {"content": content, "refusal": None}
