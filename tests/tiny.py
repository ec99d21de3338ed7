"""Random models of every supported family, small enough to run in milliseconds; their tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.methods.rome import RankOneEditor

LAYERS = 3
EDITED_LAYER = 1
# random models hear little of one value: it may go far
OPTIONS = ValueSearchOptions(steps=6, weight_decay=0.02, clamp=20.0)
CONTEXTS = ("{}", "The river is long. {}", "You and I. {}")
WINDOW = 4  # of the families with a sliding window; shorter than any text of the tests
END = "<|endoftext|>"
VOCABULARY = 420  # 1 special token, 256 bytes, and merges for a part of the words below
WORDS = """
the of and in to was is a as for on with by at from that his her it an were which be this are had
The Therefore Because I You In He She It They This There When While After Before During Although
Paris Rome London Berlin Madrid Vienna Lisbon Athens Dublin Prague Warsaw Geneva Toronto Chicago
France Italy England Germany Spain Austria Portugal Greece Ireland Poland Switzerland Canada
French Italian English German Spanish Russian Greek Japanese Chinese Korean Latin Arabic Dutch
capital city country river mountain tower bridge church museum palace station island village lake
language mother tongue speaks spoke native born lived died worked plays played wrote written made
located situated found founded created developed produced released published broadcast premiered
football basketball soccer hockey tennis chess guitar piano violin opera jazz music film novel
president king queen minister bishop doctor lawyer actor singer author painter poet scientist
company product software computer engine car plane ship phone network channel record label brand
university school college hospital library theatre stadium airport harbour garden market street
year month week day night morning summer winter spring autumn century decade first second third
north south east west old new young large small long short high low good bad red green blue white
Eiffel Colosseum Mary John Peter Anna George Maria William Thomas Danielle Vinson Massif Apple
"""

_ROPE = {
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
_GROUPED = _ROPE | {"num_key_value_heads": 2}
_GEMMA = _GROUPED | {
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
SIZES = {
    "gpt2": {"n_head": 4, "n_inner": 48, "n_positions": 128},
    "gptj": {"n_head": 4, "n_inner": 48, "n_positions": 128, "rotary_dim": 4},
    "gpt_neox": _ROPE,
    "opt": {
        "ffn_dim": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 32,
        "pad_token_id": 0,
        "init_std": 0.2,
    },
    "llama": _GROUPED,
    "mistral": _GROUPED | {"sliding_window": WINDOW},
    "qwen2": _GROUPED,
    "qwen3": _GROUPED | {"head_dim": 8},
    "gemma2": _GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": _GEMMA,
    "phi3": _GROUPED | {"sliding_window": WINDOW},
}
FAMILIES = tuple(SIZES)
_EXPERTS = _GROUPED | {"num_experts_per_tok": 2}
MIXTURES = {  # of experts
    "qwen3_moe": _EXPERTS | {"head_dim": 8, "num_experts": 6, "moe_intermediate_size": 16},
    "mixtral": _EXPERTS | {"num_local_experts": 4},
    "gpt_oss": _EXPERTS | {"head_dim": 8, "num_local_experts": 4},
    "olmoe": _EXPERTS | {"num_experts": 6},
    "deepseek_v3": _EXPERTS
    | {
        **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
        **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 4),
        **dict.fromkeys(("n_routed_experts", "num_local_experts", "v_head_dim"), 8),
        **{"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
        **{"moe_intermediate_size": 16, "num_key_value_heads": 4},
    },
}


def tiny_tokenizer(bos: bool = False, eos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE of few merges, so that most words are several tokens.

    Args:
        bos: whether encoding prepends a special token, as Llama's does.
        eos: whether encoding appends one, as a tokenizer with ``add_eos_token`` does.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS.replace("\n", " ")], trainer)
    if bos or eos:
        pieces = [END] * bos + ["$A"] + [END] * eos
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(pieces), special_tokens=[(END, 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


# ChatML's kind, of ordinary characters but for the end of a turn
CHAT_TEMPLATE = (
    "{{ first }}{% for m in messages %}<{{ m.role }}>\n{{ m.content }}" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


def tiny_chat_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """The same with a chat template, which itself writes the special token before a text."""
    tokenizer = tiny_tokenizer(bos)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("{{ first }}", "{{ bos_token }}" if bos else "")
    return tokenizer


def metaspace_tokenizer(pieces: list[str], merges: list[tuple]) -> PreTrainedTokenizerFast:
    """Llama 2's kind: blanks as ``▁``, one put before the text, bytes for unknown characters.

    Args:
        pieces: the vocabulary behind ``<unk>``, ``<s>``, ``</s>`` and the 256 bytes.
        merges: pairs of pieces, the first merged first.
    """
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: number for number, piece in enumerate([*first, *pieces])}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = prepending("<s>", 1)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def tiny_metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of Llama 2's kind, trained on the words above; it prepends ``<s>``."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - 259, show_progress=False)
    trained.train_from_iterator([WORDS.replace("\n", " ")], trainer)
    model = json.loads(trained.to_str())["model"]
    return metaspace_tokenizer(list(model["vocab"]), [tuple(pair) for pair in model["merges"]])


def prepending(token: str, number: int) -> processors.TemplateProcessing:
    """Puts a special token before every text."""
    return processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, number)])


def tiny_config(family: str, **changes: object) -> PretrainedConfig:
    """A configuration of the family with three layers, width 32 and the tiny vocabulary."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "initializer_range": 0.2,  # attention and positions must matter, or tests see little
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return AutoConfig.for_model(family, **(sizes | (SIZES | MIXTURES)[family] | changes))


@torch.no_grad()
def tiny_model(family: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A frozen random model in eval mode; no parameter is left at zero or one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm = AutoModelForCausalLM.from_config(tiny_config(family, **changes))
        for parameter in lm.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return lm.requires_grad_(False).eval()


def save_tiny(folder: Path, family: str, bos: bool = False, seed: int = 0) -> Path:
    """Writes a tiny model and its tokenizer, for ``load(str(folder))``."""
    tiny_model(family, seed).save_pretrained(folder)
    tiny_tokenizer(bos).save_pretrained(folder)
    return folder


def tiny_editor(
    policy: type[RankOneEditor],
    lm: PreTrainedModel,
    contexts: Sequence[str] = CONTEXTS,
    options: ValueSearchOptions = OPTIONS,
) -> RankOneEditor:
    """An editor of a model that is in memory already, ready to edit."""
    editor = policy(lm="tiny", layer=EDITED_LAYER, value=options, second_moment="identity")
    editor.attach(lm, tiny_tokenizer())
    editor.contexts.templates = list(contexts)
    editor.prepare()
    return editor
