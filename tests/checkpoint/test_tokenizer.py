import json
import random
import shutil
import time

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

from runtime.checkpoint.config import CheckpointError
from runtime.checkpoint.synthetic import FAMILIES
from runtime.checkpoint.tokenizer import Detokenizer, Tokenizer, load_tokenizer

TEXTS = (
    "Hello world",
    "x = 12345; don't\n\n   pass",
    "  two  spaces\n\ttab",
    "naïve café 🤖👩‍👩‍👧 日本語 العربية",
    "",
    "a <|im_start|>user b",
)
CHAT = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": "<b>2 + 2</b>?", "name": None},
    {"role": "assistant", "content": "4", "reasoning": "sum"},
    {"role": "user", "content": "Why? 日本"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"b": "<int>", "a": 1}}}]
TEMPLATES = {
    "llama3": """{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now("%Y") %}{%- endif %}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '|' + date_string + '\n\n' + message['content'] | trim + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}
""",
    "qwen": """{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}{%- set ns.last = messages|length - 1 - loop.index0 %}{%- break %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.reasoning_content is defined %}<think>{{ message.reasoning_content }}</think>{% endif %}
    {{ message.role }}{{ loop.index0 == ns.last }}{{ message.name is defined }}
    {% generation %}{{ message.content }}{% endgeneration %}

{% endfor %}
{%- if enable_thinking is defined and not enable_thinking %}no{% endif %}{{ dict(a=[1, 2]) | tojson }}{{ documents }}
""",
}


def copy_with_template(source, target, template):
    shutil.copytree(source, target)
    config = json.loads((target / "tokenizer_config.json").read_text())
    (target / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return target


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    """A tokenizer built the way Llama 2's tokenizer.json is."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "H",
        "e",
        "l",
        "o",
        "▁H",
        "▁He",
        "ll",
        "llo",
    ]
    merges = [("▁", "H"), ("▁H", "e"), ("l", "l"), ("ll", "o")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    path = tmp_path_factory.mktemp("sentencepiece")
    backend.save(str(path / "tokenizer.json"))
    return Tokenizer.from_directory(path)


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_text_are_those_of_transformers(family, make_checkpoint):
    from transformers import AutoTokenizer

    path = make_checkpoint(family)
    ours, theirs = load_tokenizer(path), AutoTokenizer.from_pretrained(path)
    assert ours.vocab_size == len(theirs)
    assert (ours.eos_token, ours.eos_id) == (theirs.eos_token, theirs.eos_token_id)
    assert (ours.bos_token, ours.bos_id) == (theirs.bos_token, theirs.bos_token_id)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids
        assert ours.encode(text, add_special_tokens=False) == theirs(text, add_special_tokens=False).input_ids
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", [None, *TEMPLATES])
@pytest.mark.parametrize("extra", [{}, {"tools": TOOLS}, {"enable_thinking": False, "date_string": "26 Jul"}])
def test_chat_templates_render_as_in_transformers(name, extra, make_checkpoint, tmp_path):
    from transformers import AutoTokenizer

    path = (
        make_checkpoint("llama")
        if name is None
        else copy_with_template(make_checkpoint("llama"), tmp_path / "c", TEMPLATES[name])
    )
    theirs = AutoTokenizer.from_pretrained(path)
    for prompted in (True, False):
        ours = Tokenizer.from_directory(path).apply_chat_template(CHAT, prompted, **extra)
        assert ours == theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompted, **extra)


def test_named_templates_and_template_files(make_checkpoint, tmp_path):
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    path = copy_with_template(make_checkpoint("llama"), tmp_path / "c", named)
    tokenizer = Tokenizer.from_directory(path)
    assert tokenizer.apply_chat_template(CHAT) == "plain"
    assert tokenizer.apply_chat_template(CHAT, tools=TOOLS) == "tools"
    (path / "chat_template.jinja").write_text("file")
    assert Tokenizer.from_directory(path).apply_chat_template(CHAT, tools=TOOLS) == "file"


def test_chat_errors_say_whose_fault_it_is(make_checkpoint, tmp_path):
    refusing = copy_with_template(make_checkpoint("llama"), tmp_path / "a", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="roles must alternate") as refused:
        Tokenizer.from_directory(refusing).apply_chat_template(CHAT)
    assert not isinstance(refused.value, CheckpointError)
    broken = copy_with_template(make_checkpoint("llama"), tmp_path / "b", "{% if %}")
    with pytest.raises(CheckpointError, match="chat template default, line 1"):
        Tokenizer.from_directory(broken).apply_chat_template(CHAT)
    bare = copy_with_template(make_checkpoint("llama"), tmp_path / "c", None)
    assert not Tokenizer.from_directory(bare).has_chat_template
    with pytest.raises(CheckpointError, match=r"no default chat template.*plain prompt"):
        Tokenizer.from_directory(bare).apply_chat_template(CHAT)
    with pytest.raises(ValueError, match="no messages"):
        Tokenizer.from_directory(refusing).apply_chat_template([])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ dict.__init__.__globals__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__init__=1) }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_hostile_template_gets_nothing(attack, make_checkpoint, tmp_path):
    path = copy_with_template(make_checkpoint("llama"), tmp_path / "c", attack)
    with pytest.raises(ValueError, match=r"refuses the chat|chat template"):
        Tokenizer.from_directory(path).apply_chat_template(CHAT)


def test_streamed_text_never_holds_half_a_character(make_checkpoint):
    tokenizer = Tokenizer.from_directory(make_checkpoint("llama"))
    text = "".join(TEXTS[:3]) * 3
    ids = tokenizer.encode(text)
    stream = Detokenizer(tokenizer)
    pieces = [stream.add([id]) for id in ids]
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)
    assert stream.flush() == ""

    cut = Detokenizer(tokenizer)
    robot = tokenizer.encode("🤖", add_special_tokens=False)
    assert cut.add(robot[:-1]) == ""
    assert cut.flush() == "�"


def test_streamed_text_is_the_decoded_text_even_of_nonsense(make_checkpoint):
    tokenizer = Tokenizer.from_directory(make_checkpoint("llama"))
    draw = random.Random(0)
    single_bytes = tokenizer.encode("".join(map(chr, range(0x80, 0x800, 7))), add_special_tokens=False)
    for skip in (True, False):
        for _ in range(200):
            ids = draw.choices(range(tokenizer.vocab_size + 3), k=20) + draw.choices(single_bytes, k=20)
            draw.shuffle(ids)
            stream = Detokenizer(tokenizer, skip)
            assert "".join(stream.add([id]) for id in ids) + stream.flush() == tokenizer.decode(ids, skip)


def test_streaming_a_long_text_costs_the_same_per_token(make_checkpoint):
    tokenizer = Tokenizer.from_directory(make_checkpoint("llama"))
    stream, ids = Detokenizer(tokenizer), tokenizer.encode("import os 🤖 ", add_special_tokens=False) * 10_000
    start = time.perf_counter()
    for id in ids:
        stream.add([id])
    # decoding everything again at each of these 100,000 tokens would take minutes
    assert time.perf_counter() - start < 5


def test_sentencepiece_spaces_and_byte_fallback(sentencepiece):
    ids = sentencepiece.encode("Hello Hello 🤖")
    text = "Hello Hello 🤖"
    assert sentencepiece.decode(ids) == text
    stream = Detokenizer(sentencepiece)
    pieces = [stream.add([id]) for id in ids]
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)
    assert "".join(Detokenizer(sentencepiece, after_prompt=True).add([id]) for id in ids[:1]) == " He"
    assert sentencepiece.token_bytes(ids[0]) == b" He"
    assert sentencepiece.token_bytes(3 + 0xF0) == b"\xf0"
    assert sentencepiece.token_text(3 + 0xF0) == "�"


def test_token_bytes_spell_the_text(make_checkpoint):
    tokenizer = Tokenizer.from_directory(make_checkpoint("qwen2"))
    for text in TEXTS:
        assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()
    assert tokenizer.token_bytes(tokenizer.vocab_size + 7) == b""


def test_what_is_missing_is_named(make_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json: prompts can be given only as token ids"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"only tokenizer.model: convert it"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer.json is no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"character 3 .* surrogate"):
        load_tokenizer(make_checkpoint("llama")).encode("abc\ud800")
