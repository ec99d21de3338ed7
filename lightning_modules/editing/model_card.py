"""How an editor reads a model, reported before a run."""

from typing import cast

from data_modules.records import EditRequest

from ..language_model.device_map import DeviceMap, bytes_by_device, in_words
from ..language_model.keys import key_widths, routing
from ..language_model.layout import blocks, experts_in, layer_of, oriented
from ..language_model.quantized import bytes_of
from ..language_model.shortcuts import shortcuts_of
from ..language_model.split import is_split
from ..language_model.tokens import edit_span, special_before
from .editor import Editor
from .search import ValueSearch

MIB, GIB = 2**20, 2**30


def model_card(editor: Editor, request: EditRequest) -> dict[str, str]:
    """Model, tokenizer, weights under edit, an example's tokens, needs and memory; in words.

    Args:
        editor: holds the model.
        request: the example.
    """
    weights = {
        f"edits {number}": _weight(editor, name)
        for number, name in enumerate(editor.edited_weights(), 1)
    }
    touched = {
        f"experts {number}": _experts(editor, name, request)
        for number, name in enumerate(editor.edited_weights(), 1)
        if experts_in(editor.lm, name)
    }
    return {
        "method": type(editor).__name__,
        "model": _model(editor),
        **_dequantised(editor),
        **_quantized(editor),
        "tokenizer": _tokenizer(editor),
        **weights,
        **touched,
        "passes": shortcuts_of(editor.lm).in_words,
        **_example(editor, request),
        **editor.needs(),
        "memory": _memory(editor),
        **_by_device(editor),
    }


def _model(editor: Editor) -> str:
    lm = editor.lm
    count = sum(parameter.numel() for parameter in lm.parameters())
    return (
        f"{editor.lm_name}, of the family {lm.config.model_type}: {len(blocks(lm))} layers, "
        f"{count / 1e6:,.1f} million parameters, {lm.dtype} on {lm.device}"
    )


def _dequantised(editor: Editor) -> dict[str, str]:
    source = getattr(editor.lm.config, "dequantised_from", None)
    if source is None:
        return {}
    return {
        "dequantised from": f"{source}; edits and exports are in {editor.lm.dtype}, larger than "
        "that file and no more exact"
    }


def _quantized(editor: Editor) -> dict[str, str]:
    if editor.quantized is None:
        return {}
    kept, whole = bytes_of(editor.lm)
    return {
        "quantized": f"maps that are not edited, in {editor.quantized}: {kept / MIB:,.1f} MiB "
        f"in the place of {whole / MIB:,.1f} MiB"
    }


def _tokenizer(editor: Editor) -> str:
    first = editor.tokenizer.convert_ids_to_tokens(special_before(editor.tokenizer))
    begins = f"puts {' '.join(first)} before a text" if first else "puts nothing before a text"
    return f"{len(editor.tokenizer):,} tokens, {begins}"


def _weight(editor: Editor, name: str) -> str:
    each = "[0]" if experts_in(editor.lm, name) else ""
    out, width = oriented(editor.lm, name + each).shape
    stored = tuple(editor.lm.get_parameter(name).shape)
    return f"{name}: {width} in, {out} out, stored as {stored}"


def _experts(editor: Editor, name: str, request: EditRequest) -> str:
    """How many experts an edit touches, and which in the example."""
    count = experts_in(editor.lm, name)
    span = edit_span(editor.tokenizer, editor.as_edited(request))
    found = routing(editor.lm, layer_of(editor.lm, name), span.tokens[: span.start], span.subject)
    chosen = ", ".join(f"{expert} (gate {gate:.2f})" for expert, gate in found)
    return (
        f"an edit touches {len(found)} of {count}, those that the router chooses at its subject; "
        f"in the example {chosen or 'none'}"
    )


def _example(editor: Editor, request: EditRequest) -> dict[str, str]:
    span = edit_span(editor.tokenizer, editor.as_edited(request))
    tokens = editor.tokenizer.convert_ids_to_tokens(span.tokens)
    places = range(span.start, len(tokens))
    return {
        "example": f"{request.text} → {request.target_new}",
        "tokens": " ".join(f"{place}:{token}" for place, token in enumerate(tokens)),
        "subject's last token": f"{span.subject}:{tokens[span.subject]}"
        if request.subject
        else "none",
        "target's tokens": " ".join(f"{place}:{tokens[place]}" for place in places),
    }


def _memory(editor: Editor) -> str:
    lm = editor.lm
    model = sum(part.nbytes for part in (*lm.parameters(), *lm.buffers()))
    widths = key_widths(lm, editor.layers_under_edit()).values() if editor.keeps_moments else ()
    moments = sum(8 * width**2 for width in widths)
    lazily = " once every expert was edited" if editor.edited.stacks else ""
    return (
        f"model {model / GIB:.2f} GiB, copies of edited weights "
        f"{sum(_copies(editor).values()) / GIB:.2f} GiB{lazily}, second moments "
        f"{moments / GIB:.2f} GiB, {_packed(editor)}hidden states of watched text at most "
        f"{editor.watch_memory:g} GiB, and the activations of a pass"
    )


def _packed(editor: Editor) -> str:
    """What a value search keeps packed for the processor, if the method has one."""
    search: ValueSearch | None = getattr(editor, "search", None)
    size = 0.0 if search is None else search.packs.most(editor.lm, search.layer)
    return f"weights packed for searches at most {size / GIB:.2f} GiB, " if size else ""


def _copies(editor: Editor) -> dict[str, int]:
    """Bytes of the copies of each weight under edit: original, before the edit, change, master."""
    copies = 4 if editor.lm.dtype.itemsize < 4 else 3
    names = editor.edited_weights()
    return {name: 4 * copies * editor.lm.get_parameter(name).numel() for name in names}


def _by_device(editor: Editor) -> dict[str, str]:
    """What each device of a split model holds."""
    lm = editor.lm
    if not is_split(lm):
        return {}
    found = {}
    for device, size in bytes_by_device(lm, cast(DeviceMap, lm.hf_device_map)).items():
        found[f"on {in_words(device)}"] = f"{size / GIB:.2f} GiB of weights"
    for name, size in _copies(editor).items():
        place = f"on {lm.get_parameter(name).device}"
        held = found.get(place, "no layer")
        found[place] = f"{held}, {size / GIB:.2f} GiB of copies of {name}"
    return found
