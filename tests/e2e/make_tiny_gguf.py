#!/usr/bin/env python3
"""Write a tiny random-weight GGUF that a stock llama-server accepts.

Purpose: a REAL upstream for proxy/recorder tests (real HTTP framing, real SSE,
real usage/timings objects) with no download and no GPU.  The text it produces
is word salad; only the protocol matters.

    pip install gguf numpy
    python make_tiny_gguf.py tiny.gguf            # ~0.5 MB, deterministic
    llama-server -m tiny.gguf --host 127.0.0.1 --port 18080 -c 4096 -np 2 --jinja

Vocabulary: SentencePiece-style ("llama" tokenizer) with the 256 byte-fallback
pieces, printable ASCII, a few words (plus the prefixes that make them reachable
by pairwise merges), ChatML markers and three fill-in-the-middle markers, so
/infill works too.  Output rows of every non-text piece are zero, so greedy and
low-temperature sampling stays on printable text and the stream is valid UTF-8.

--script '["a","b"]' adds one vocabulary piece per string and wires the weights so
that the newline ending the generation prompt is always followed by exactly these
pieces and then end-of-turn: a deterministic reply, e.g. a tool call or a think
block, streamed one piece per event with a natural stop.  Works by reserving one
embedding dimension per step (no layer may write to it).
"""

import argparse
import itertools
import json

import gguf
import numpy as np

WORDS = (
    "the a of to and in is it for on with as at by model token tokens proxy stream request response cache latency server "
    "record segment index writer reader header body byte time first last next fast slow big small red green blue one two "
    "three four five"
)

TEMPLATE = (
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if m['content'] is string -%}{{ m['content'] }}"
    "{%- elif m['content'] -%}{%- for p in m['content'] -%}"
    "{%- if p['type'] == 'text' -%}{{ p['text'] }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def vocabulary(script=()):
    toks, scores, types = [], [], []

    def add(tok, score, typ):
        toks.append(tok)
        scores.append(score)
        types.append(typ)
        return len(toks) - 1

    special = {}
    special["unk"] = add("<unk>", 0.0, UNKNOWN)
    special["bos"] = add("<s>", 0.0, CONTROL)
    special["eos"] = add("</s>", 0.0, CONTROL)
    for b in range(256):
        add(f"<0x{b:02X}>", 0.0, BYTE)
    for name, tok in (
        ("im_start", "<|im_start|>"),
        ("im_end", "<|im_end|>"),
        ("fim_pre", "<|fim_prefix|>"),
        ("fim_suf", "<|fim_suffix|>"),
        ("fim_mid", "<|fim_middle|>"),
    ):
        special[name] = add(tok, 0.0, CONTROL)
    text = []  # pieces the model may emit
    space = "\u2581"
    seen = set()
    text.append(add(space, -50.0, NORMAL))
    text += [add(chr(c), -100.0, NORMAL) for c in range(0x21, 0x7F)]
    score = -1.0
    for w in WORDS.split():
        for n in range(1, len(w) + 1):
            piece = space + w[:n]
            if piece not in seen:
                seen.add(piece)
                i = add(piece, score, NORMAL)
                score -= 0.01
                if n == len(w):
                    text += [i] * 1
    special["newline"] = toks.index("<0x0A>")
    special["script"] = [add(t, -1000.0, NORMAL) for t in script]
    return toks, scores, types, special, text


def build(path, n_embd=64, n_head=4, n_ff=160, n_layer=2, n_ctx=8192, seed=7, eos_gain=1.0, script=()):
    toks, scores, types, sp, text = vocabulary(script)
    rng = np.random.default_rng(seed)
    w = gguf.GGUFWriter(path, "llama")
    w.add_name("tiny-random")
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_context_length(n_ctx)
    w.add_embedding_length(n_embd)
    w.add_block_count(n_layer)
    w.add_feed_forward_length(n_ff)
    w.add_head_count(n_head)
    w.add_head_count_kv(n_head)
    w.add_rope_dimension_count(n_embd // n_head)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(len(toks))
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([t.encode("utf-8") for t in toks])
    w.add_token_scores(scores)
    w.add_token_types(types)
    w.add_bos_token_id(sp["bos"])
    w.add_eos_token_id(sp["eos"])
    w.add_unk_token_id(sp["unk"])
    w.add_uint32("tokenizer.ggml.eot_token_id", sp["im_end"])
    w.add_uint32("tokenizer.ggml.fim_pre_token_id", sp["fim_pre"])
    w.add_uint32("tokenizer.ggml.fim_suf_token_id", sp["fim_suf"])
    w.add_uint32("tokenizer.ggml.fim_mid_token_id", sp["fim_mid"])
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template(TEMPLATE)

    def rnd(*shape, scale):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    n_vocab = len(toks)
    emb = rnd(n_vocab, n_embd, scale=1.0)
    out = np.zeros((n_vocab, n_embd), np.float32)
    ids = sorted(set(text))
    out[ids] = rnd(len(ids), n_embd, scale=0.6)
    out[sp["im_end"]] = rnd(n_embd, scale=0.6 * eos_gain)
    steps = [sp["newline"]] + sp["script"] + [sp["im_end"]]
    dims = list(range(n_embd - len(steps) + 1, n_embd)) if script else []
    if dims:
        emb[:, dims] = 0.0
        out[:, dims] = 0.0
        for d, (cur, nxt) in zip(dims, itertools.pairwise(steps), strict=True):
            emb[cur] = 0.0
            emb[cur, d] = 400.0
            out[nxt, d] = 200.0
    w.add_tensor("token_embd.weight", emb)
    w.add_tensor("output_norm.weight", np.ones(n_embd, np.float32))
    w.add_tensor("output.weight", out)
    s = n_embd**-0.5
    for i in range(n_layer):
        p = f"blk.{i}."
        w.add_tensor(p + "attn_norm.weight", np.ones(n_embd, np.float32))
        w.add_tensor(p + "ffn_norm.weight", np.ones(n_embd, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            m = rnd(n_embd, n_embd, scale=2 * s)
            if name == "attn_output":
                m[dims] = 0.0
            w.add_tensor(p + name + ".weight", m)
        w.add_tensor(p + "ffn_gate.weight", rnd(n_ff, n_embd, scale=2 * s))
        w.add_tensor(p + "ffn_up.weight", rnd(n_ff, n_embd, scale=2 * s))
        m = rnd(n_embd, n_ff, scale=2 * n_ff**-0.5)
        m[dims] = 0.0
        w.add_tensor(p + "ffn_down.weight", m)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return n_vocab


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("path")
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--ctx", type=int, default=8192)
    ap.add_argument("--script", type=json.loads, default=[], help="JSON list of pieces to reply with")
    a = ap.parse_args()
    print(a.path, "vocab", build(a.path, seed=a.seed, n_ctx=a.ctx, script=a.script))
