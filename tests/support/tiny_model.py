"""Where does a real model come from without a download? A tiny random one, written on the spot.

A llama of two layers with random weights and a vocabulary of common words: it says nothing
sensible, but a real server loads it in no time and runs it as it runs any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

_WORDS = (
    "the a to of and in is it you that for on with as this be are at or from have an they which "
    "one all we can there if more when will no up out so what about who get make like time just "
    "know take people into year your good some could them see other than then now look only come "
    "its over think also back after use two how our work first well way even new want because any "
    "these give day most us"
)
_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"  # Jinja
)
_WORD_START = "\u2581"  # SentencePiece writes the space before a word so

_FIRST_WORD = 3 + 256  # after the control tokens and one token per byte

_CONTEXT = 8192
_WIDTH, _LAYERS, _FEED_FORWARD = 64, 2, 128
_HEADS, _KV_HEADS = 4, 2
_HEAD_WIDTH = _WIDTH // _HEADS
_SEED = 7

Tensor = np.ndarray[Any, np.dtype[np.float32]]


def write_tiny_model(path: Path) -> None:
    """Write the model, about 0.5 MB of GGUF, the same bytes each time."""
    writer = gguf.GGUFWriter(path, "llama")
    _write_shape(writer)
    vocabulary_size = _write_vocabulary(writer)
    _write_weights(writer, vocabulary_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_shape(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny-random")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_dimension_count(_HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_chat_template(_CHAT_TEMPLATE)


def _write_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Write control tokens, one token per byte, words, printable ASCII; return how many."""
    special = [
        ("<unk>", gguf.TokenType.UNKNOWN),
        ("<s>", gguf.TokenType.CONTROL),
        ("</s>", gguf.TokenType.CONTROL),
    ]
    for_bytes = [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    texts = [_WORD_START + word for word in _WORDS.split()] + [_WORD_START]
    texts += [chr(code) for code in range(33, 127)]
    tokens = special + for_bytes + [(text, gguf.TokenType.NORMAL) for text in texts]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    # The tokenizer merges what scores highest first: whole words before letters.
    writer.add_token_scores([0.0] * _FIRST_WORD + [-float(rank) for rank in range(len(texts))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    return len(tokens)


def _write_weights(writer: gguf.GGUFWriter, vocabulary_size: int) -> None:
    random = np.random.default_rng(_SEED)

    def weights(rows: int, columns: int, scale: float = 1.0) -> Tensor:
        values = random.standard_normal((rows, columns), dtype=np.float32)
        return values * np.float32(0.5 * scale / columns**0.5)

    ones: Tensor = np.ones(_WIDTH, np.float32)
    writer.add_tensor("token_embd.weight", weights(vocabulary_size, _WIDTH, 8))
    # Flat for control, byte and letter tokens: hardly ever chosen, so that answers are words.
    output = np.zeros((vocabulary_size, _WIDTH), np.float32)
    words = slice(_FIRST_WORD, _FIRST_WORD + len(_WORDS.split()))
    output[words] = weights(vocabulary_size, _WIDTH, 20)[words]
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", ones)
    kv_width = _KV_HEADS * _HEAD_WIDTH
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", ones)
        writer.add_tensor(block + "attn_q.weight", weights(_WIDTH, _WIDTH))
        writer.add_tensor(block + "attn_k.weight", weights(kv_width, _WIDTH))
        writer.add_tensor(block + "attn_v.weight", weights(kv_width, _WIDTH))
        writer.add_tensor(block + "attn_output.weight", weights(_WIDTH, _WIDTH))
        writer.add_tensor(block + "ffn_norm.weight", ones)
        writer.add_tensor(block + "ffn_gate.weight", weights(_FEED_FORWARD, _WIDTH))
        writer.add_tensor(block + "ffn_up.weight", weights(_FEED_FORWARD, _WIDTH))
        writer.add_tensor(block + "ffn_down.weight", weights(_WIDTH, _FEED_FORWARD))
