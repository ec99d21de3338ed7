"""Mixtures of experts are edited by the closed forms on stacked keys: slow, obvious versions."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.keeping.export import SaveChange, SaveLoRA
from callbacks.keeping.run_folder import read_journal
from data_modules.records import EditRequest
from lightning_modules.editing.model_card import model_card
from lightning_modules.functional.value_search import FoundValue
from lightning_modules.jobs.replay import Replay
from lightning_modules.language_model.layout import (
    layout_of,
    oriented,
    output_map,
    output_weight_name,
    weight_of,
)
from lightning_modules.language_model.loading import load
from lightning_modules.language_model.tokens import located_span
from lightning_modules.methods.emmet import EMMET, BatchROME
from lightning_modules.methods.encore import ENCORE
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import (
    ROME,
    ConsistentROME,
    FullyConsistentROME,
    PromptOnlyROME,
    RankOneEditor,
)
from lightning_modules.methods.sink_free import SinkFreeROME
from tests.batches import NEAR, log_prob, ready
from tests.callbacks.runs import REQUESTS, fit, options_of, watching
from tests.lightning_modules.jobs.test_key_statistics import run as counted
from tests.lightning_modules.language_model.test_experts import slow_key
from tests.oracles import full_value_search
from tests.tiny import EDITED_LAYER, MIXTURES, save_tiny, tiny_editor, tiny_model
from train import main

REQUEST = EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin")
OTHER = EditRequest(9, "The capital of {} is", "Italy", "Geneva")
Keys = dict[int, Tensor]  # of each chosen expert g_e k_e, (f,)
FAMILIES = [
    family if family in ("qwen3_moe", "gpt_oss") else pytest.param(family, marks=pytest.mark.slow)
    for family in MIXTURES
]
POLICIES = (ROME, ConsistentROME, PromptOnlyROME)


@pytest.fixture(autouse=True)
def _unedited(request):
    """Gives the shared models their weights back."""
    lm = request.getfixturevalue("mixture") if "mixture" in request.fixturenames else None
    before = None if lm is None else {n: p.clone() for n, p in lm.named_parameters()}
    yield
    if lm is not None:
        for name, weight in lm.named_parameters():
            weight.copy_(before[name])


def slow_states(editor: RankOneEditor, request: EditRequest) -> list[tuple[Keys, Tensor]]:
    """Per context the gated keys of the chosen experts at the subject, and the experts' output."""
    lm, found = editor.lm, []
    experts = output_map(lm, EDITED_LAYER)
    for context in editor.contexts.templates:
        span = located_span(editor.tokenizer, request, context)
        calls = []
        handle = experts.register_forward_hook(
            lambda _, args, output, calls=calls: calls.append((*args, output))
        )
        with torch.no_grad():
            lm(torch.tensor([span.tokens]), use_cache=False)
        handle.remove()
        ((hidden, chosen, gates, output),), at = calls, span.subject
        keys = {
            int(expert): gate * slow_key(lm, hidden[at], int(expert))
            for expert, gate in zip(chosen[at], gates[at], strict=True)
        }
        found.append((keys, output[at]))
    return found


def mean_over(states: list[tuple[Keys, Tensor]], expert: int) -> Tensor:
    """Mean of an expert's gated key over contexts; a context without it counts as zero."""
    like = next(iter(states[0][0].values()))
    return torch.stack([keys.get(expert, torch.zeros_like(like)) for keys, _ in states]).mean(0)


def moments_of(lm: PreTrainedModel) -> Tensor:
    """A made-up second moment of each expert's keys, ``(E, f, f)``."""
    count, _, width = experts_of(lm).shape
    keys = torch.randn(count, 3 * width, width, generator=torch.Generator().manual_seed(0))
    keys *= torch.logspace(-1, 0, width)
    return keys.mT @ keys / (3 * width)


def slow_rome(
    editor: RankOneEditor, request: EditRequest, found: FoundValue, moments: Tensor | None = None
) -> Keys:
    """Change of each expert: ``Δ_e = r (C_e⁻¹ g_e k_e)ᵀ / Σ_j g_j² k_jᵀ C_j⁻¹ k_j``, ``(d, f)``."""
    states = slow_states(editor, request)
    plain, value = states[0]
    means = {expert: mean_over(states, expert) for expert in plain}
    mean_value = torch.stack([output for _, output in states]).mean(0)
    direction = plain if isinstance(editor, PromptOnlyROME) else means
    if moments is not None:
        direction = {e: moments[e].double().inverse() @ k.double() for e, k in direction.items()}
    consistent = isinstance(editor, ConsistentROME)
    key, present = (means, mean_value) if consistent else (plain, value)
    residual = (value + found.change - present).double()
    below = sum(direction[e].double() @ key[e].double() for e in plain)
    return {e: torch.outer(residual, direction[e].double()) / below for e in plain}


def experts_of(lm: PreTrainedModel) -> Tensor:
    """All experts' output maps of the edited layer, ``(E, d, f)``."""
    name = output_weight_name(lm, EDITED_LAYER)
    count = len(lm.get_parameter(name))
    return torch.stack([oriented(lm, f"{name}[{e}]") for e in range(count)]).clone()


@pytest.mark.parametrize("policy", POLICIES)
def test_rome_changes_each_chosen_expert_as_the_slow_version(mixture, policy):
    editor = tiny_editor(policy, mixture)
    wanted = slow_rome(editor, REQUEST, full_value_search(editor, REQUEST))
    before = experts_of(mixture)
    editor.make_edit([REQUEST])
    change = experts_of(mixture) - before
    touched = change.flatten(1).norm(dim=1).nonzero().flatten().tolist()
    assert touched == sorted(wanted)
    for expert, right in wanted.items():
        assert (change[expert] - right).norm() < 2e-3 * right.norm()


@pytest.mark.parametrize("policy", [ROME, ConsistentROME])
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_moment_of_each_expert_turns_its_part_of_the_direction(family, policy):
    editor = tiny_editor(policy, tiny_model(family))
    moments = moments_of(editor.lm)
    editor.protect(EDITED_LAYER, moments)
    wanted = slow_rome(editor, REQUEST, full_value_search(editor, REQUEST), moments)
    before = experts_of(editor.lm)
    editor.make_edit([REQUEST])
    change = experts_of(editor.lm) - before
    for expert, right in wanted.items():
        assert (change[expert] - right).norm() < 2e-3 * right.norm()


def test_expert_that_text_hardly_uses_fails_the_edit_with_a_sentence():
    editor = tiny_editor(ROME, tiny_model("mixtral"))
    before = experts_of(editor.lm)
    editor.protect(EDITED_LAYER, torch.zeros(4, 48, 48))
    editor.make_edit([REQUEST])
    assert editor.record["status"] == "failed"
    assert "is singular: they served too few tokens" in editor.record["reason"]
    assert torch.equal(experts_of(editor.lm), before)


def test_estimated_moments_are_found_and_used(tmp_path):
    lm = str(save_tiny(tmp_path / "lm", "qwen3_moe"))
    statistics, _ = counted(Path(lm), layers=[1])
    editor = ROME(lm=lm, layer=1, statistics=statistics.output, contexts={6: 2})
    editor.configure_model()
    assert editor.needs()["second moment"].startswith("found, of layers [1]")
    editor.prepare()
    assert editor.factors[1].shape == (6, 16, 16)
    editor.make_edit([REQUEST])
    assert editor.record["status"] == "applied"


def test_stacked_key_maps_exactly_to_its_value(mixture):
    editor = tiny_editor(ROME, mixture)
    ((located, found),) = editor.seek([REQUEST])
    editor.make_edit([REQUEST])
    (now,) = editor.locate([REQUEST])
    assert torch.allclose(now.keys, located.keys)  # the router of this layer is below the change
    wanted = located.values[0] + found.change
    assert (now.values[0] - wanted).norm() < 1e-4 * found.change.norm()


@pytest.mark.parametrize("method", [FullyConsistentROME, SinkFreeROME])
def test_prefixed_keys_count_with_the_plain_prompts_experts(method):
    for seed in range(6):
        editor = tiny_editor(method, tiny_model("qwen3_moe", seed, num_experts_per_tok=1))
        plain, *others = (set(keys) for keys, _ in slow_states(editor, REQUEST))
        editor.make_edit([REQUEST])
        if any(plain & other for other in others):
            assert [update.weight[-3:] for update in editor.applied] == [f"[{plain.pop()}]"]
        else:
            assert editor.record["status"] == "failed"
            assert "in no context does the router send" in editor.record["reason"]


def test_context_that_is_routed_elsewhere_changes_no_other_expert():
    lm = tiny_model("qwen3_moe", num_experts_per_tok=1)
    for request in (REQUEST, OTHER, EditRequest(7, "{} plays the", "He", "violin")):
        editor = tiny_editor(ConsistentROME, lm)
        plain, *others = (set(keys) for keys, _ in slow_states(editor, request))
        if any(other != plain for other in others):
            break
    else:
        pytest.fail("all contexts take the same way")
    editor.make_edit([request])
    assert [update.weight[-2:-1] for update in editor.applied] == [str(*plain)]


def test_batch_maps_every_stacked_key_to_its_value():
    mixture = tiny_model("gpt_oss")
    editor = ready(
        MEMIT(preservation=1e-9, layers=[1], lm="t", second_moment="identity"), mixture, ["{}"]
    )
    requests = [REQUEST, OTHER]
    sought = editor.seek(requests)
    editor.make_edit(requests)
    for (located, found), now in zip(sought, editor.locate(requests), strict=True):
        wanted = located.values[0] + found.change
        assert (now.values[0] - wanted).norm() < 2e-3 * found.change.norm()


def test_memit_is_least_squares_on_all_experts_at_once(mixture):
    editor = ready(MEMIT(preservation=2.0, layers=[1], lm="t", second_moment="identity"), mixture)
    requests = [REQUEST, OTHER]
    before, sought = experts_of(mixture), editor.seek(requests)
    keys = editor.mean_keys(torch.stack([located.keys for located, _ in sought])).double()
    residuals = torch.stack([found.change for _, found in sought], 1).double()
    ridge = 2.0 * editor.mean_square(1) * torch.eye(len(keys)).double()
    whole = residuals @ keys.T @ (ridge + keys @ keys.T).inverse()
    editor.make_edit(requests)
    wanted = whole.unflatten(1, (len(before), -1)).transpose(0, 1)
    assert (experts_of(mixture) - before - wanted).norm() < 1e-4 * wanted.norm()


@pytest.mark.parametrize("method", [MEMIT, EMMET, BatchROME, ENCORE])
def test_batch_method_raises_its_targets(method):
    where = {"layer": 1} if method in (EMMET, BatchROME) else {"layers": [1, 2]}
    weight = {} if method is BatchROME else {"preservation": 1e-3}
    lm = tiny_model("mixtral")
    editor = ready(method(lm="tiny", second_moment="identity", **where, **weight), lm)
    before = log_prob(editor, NEAR)
    editor.make_edit([NEAR])
    assert editor.record["status"] == "applied"
    assert log_prob(editor, NEAR) > before


def test_undo_and_restore_give_the_bits_back():
    mixture = tiny_model("olmoe")
    editor, before = tiny_editor(ROME, mixture), experts_of(mixture)
    editor.make_edit([REQUEST])
    first = experts_of(mixture)
    editor.make_edit([OTHER])
    editor.undo()
    assert torch.equal(experts_of(mixture), first)
    editor.restore()
    assert torch.equal(experts_of(mixture), before)


def test_half_precision_experts_have_masters_of_their_own():
    editor = tiny_editor(ROME, tiny_model("qwen3_moe").bfloat16())
    editor.make_edit([REQUEST])
    assert editor.record["status"] == "applied"
    for name, master in editor.edited.masters().items():
        assert master.dtype == torch.float32
        slice_ = oriented(editor.lm, name)
        assert torch.equal(slice_, oriented(editor.lm, name, master).bfloat16())


def test_router_without_experts_at_the_subject_fails_the_edit_with_a_sentence(mixture):
    editor = tiny_editor(ROME, mixture)
    before = experts_of(mixture)

    def nobody(module, args):
        hidden, chosen, gates = args
        return hidden, chosen, torch.zeros_like(gates)

    handle = output_map(mixture, EDITED_LAYER).register_forward_pre_hook(nobody)
    editor.make_edit([REQUEST])
    handle.remove()
    assert editor.record["status"] == "failed"
    assert editor.record["reason"].startswith(
        "the router of layer 1 chooses no expert at the subject 'Danielle Vinson' of 'The mother"
    )
    assert torch.equal(experts_of(mixture), before)


def test_card_counts_the_experts_of_an_edit(mixture):
    editor = tiny_editor(ROME, mixture)
    count, card = len(experts_of(mixture)), model_card(editor, REQUEST)
    assert card["experts 1"].startswith(f"an edit touches 2 of {count}, those that the router")
    assert f"{count}" in card["edits 1"].partition("stored as")[2]
    editor.make_edit([REQUEST])
    for update in editor.applied:
        assert f"{update.weight[update.weight.index('[') + 1 : -1]} (gate " in card["experts 1"]


def test_shared_expert_and_first_dense_layers_stay_as_they_are():
    lm = tiny_model("deepseek_v3")
    before = {name: weight.clone() for name, weight in lm.named_parameters()}
    tiny_editor(ROME, lm).make_edit([REQUEST])
    changed = {n for n, w in lm.named_parameters() if not torch.equal(w, before[n])}
    assert changed == {output_weight_name(lm, EDITED_LAYER)}
    assert layout_of(lm).output == "mlp.down_proj"


@pytest.mark.parametrize("family", FAMILIES)
def test_command_line_edits_watches_and_keeps_a_mixture(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lm = str(save_tiny(tmp_path / "lm", family))
    options = options_of(lm, tmp_path, edits=2)
    main(["fit", *options, "--model.layer", "1"])
    run = Path("runs/rome/version_0")
    first, second = read_journal(run)
    assert {first["status"], second["status"]} == {"applied"}
    assert first["edited_experts"] == 2
    assert 0 < first["edited_experts_load"] <= 1
    assert 0 <= first["routing_shift"] <= 1
    assert json.loads((run / "summary.json").read_text())["applied"] == 2
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert 2 <= len(saved) <= 4
    assert all("experts.down_proj[" in name for name in saved)


def test_ledger_repeats_edits_of_experts_bit_for_bit(tmp_path):
    lm = str(save_tiny(tmp_path / "lm", "qwen3_moe"))
    callbacks = [*watching(), EditLedger(), SaveChange()]
    run = fit(lm, tmp_path / "run", callbacks, REQUESTS[:3])
    assert {edit["status"] for edit in run.edits} == {"applied"}
    replay = Replay(str(run.folder), lm=lm)
    replay.configure_model()
    replay.rebuild(replay.chosen())
    assert replay.original.keys() == run.editor.original.keys()
    name = output_weight_name(replay.lm, 0)
    assert torch.equal(replay.lm.get_parameter(name), run.editor.lm.get_parameter(name))
    original, _ = load(lm)
    change = load_file(run.folder / "change" / "change.safetensors")
    for weight in {part.rpartition(".")[0] for part in change}:
        weight_of(original, weight).add_(change[f"{weight}.left"] @ change[f"{weight}.right"])
    exported, ours = original.get_parameter(name), run.editor.lm.get_parameter(name)
    torch.testing.assert_close(exported, ours, rtol=1e-5, atol=1e-5)


def test_checkpoint_of_a_mixture_is_loaded_into_a_fresh_editor():
    editor = tiny_editor(ROME, tiny_model("qwen3_moe"))
    editor.make_edit([REQUEST])
    editor.make_edit([OTHER])
    checkpoint = {"state_dict": editor.state_dict()}
    editor.on_save_checkpoint(checkpoint)
    fresh = tiny_editor(ROME, tiny_model("qwen3_moe"))
    fresh.on_load_checkpoint(checkpoint)
    assert torch.equal(experts_of(fresh.lm), experts_of(editor.lm))
    with fresh.edited.unedited():
        assert torch.equal(experts_of(fresh.lm), experts_of(tiny_model("qwen3_moe")))
    assert fresh.edited.distance(fresh.original) > 0


def test_adapter_of_single_experts_is_refused_before_the_first_edit(tmp_path):
    lm = str(save_tiny(tmp_path / "lm", "mixtral"))
    with pytest.raises(ValueError, match="no LoRA adapter can hold the change of single experts"):
        fit(lm, tmp_path / "run", [*watching(), EditLedger(), SaveLoRA()])
