import pytest
import torch

from data_modules.records import EditRequest
from lightning_modules.language_model.keys import first_token_keys, subject_states
from lightning_modules.language_model.layout import blocks, output_map
from lightning_modules.language_model.tokens import request_span
from tests.tiny import CONTEXTS, tiny_tokenizer

REQUESTS = [
    EditRequest(7, "{} plays the", "He", "violin"),
    EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin"),
]


@pytest.mark.parametrize("layers", [(0, 2), (1, 1), (0, 1)], ids=str)
@pytest.mark.parametrize("bos", [False, True])
def test_states_are_those_of_whole_prompts_one_by_one(tiny_lm, bos, layers):
    tokenizer = tiny_tokenizer(bos)
    states = subject_states(tiny_lm, tokenizer, layers, CONTEXTS, REQUESTS)
    for n, request in enumerate(REQUESTS):
        for c, context in enumerate(CONTEXTS):
            prompt = context.replace("{}", request.prompt, 1)
            span = request_span(tokenizer, prompt, request.subject, request.target_new)
            seen = {}
            handles = [
                output_map(tiny_lm, layers[0]).register_forward_hook(
                    lambda module, args, output, seen=seen: seen.update(key=args[0])
                ),
                blocks(tiny_lm)[layers[1]].register_forward_hook(
                    lambda module, args, output, seen=seen: seen.update(
                        hidden=output[0] if isinstance(output, tuple) else output
                    )
                ),
            ]
            with torch.no_grad():
                tiny_lm(torch.tensor([span.tokens]))
            for handle in handles:
                handle.remove()
            key = seen["key"].reshape(len(span.tokens), -1)[span.subject]
            torch.testing.assert_close(states.keys[n, c], key, rtol=1e-4, atol=1e-5)
            if c == 0:
                torch.testing.assert_close(
                    states.hidden[n], seen["hidden"][0, span.subject], rtol=1e-4, atol=1e-5
                )


def test_one_state_per_request_and_context(tiny_gpt2):
    states = subject_states(tiny_gpt2, tiny_tokenizer(), (0, 1), CONTEXTS, REQUESTS)
    assert states.keys.shape == (2, len(CONTEXTS), 48)
    assert states.hidden.shape == (2, 32)


@pytest.mark.parametrize("bos", [False, True])
def test_first_token_keys_are_those_of_whole_prompts(tiny_lm, bos):
    tokenizer = tiny_tokenizer(bos)
    keys, places = first_token_keys(tiny_lm, tokenizer, 1, REQUESTS)
    assert places == [int(bos)] * 2
    for key, request in zip(keys, REQUESTS, strict=True):
        seen = []
        handle = output_map(tiny_lm, 1).register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            tiny_lm(torch.tensor([tokenizer(request.text)["input_ids"]]))
        handle.remove()
        slow = seen[0].reshape(-1, seen[0].shape[-1])[int(bos)]
        torch.testing.assert_close(key, slow, rtol=1e-4, atol=1e-5)
