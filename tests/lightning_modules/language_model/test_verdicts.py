import copy

import pytest
import torch

from lightning_modules.language_model.scoring import score
from lightning_modules.language_model.tokens import target_span
from lightning_modules.language_model.verdicts import INSTRUCTION, NO, YES, Reply, verdicts
from tests.tiny import tiny_chat_tokenizer, tiny_model, tiny_tokenizer

REPLIES = [Reply("Rome is in", "Italy", "Italy"), Reply("Rome is in", "Italy", "Peru, I think")]


@pytest.fixture(scope="module")
def judge():
    """A model with room for the judge's prompt, which is long in few merges."""
    lm = copy.deepcopy(tiny_model("llama"))
    lm.config.max_position_embeddings = 1024
    return lm


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), tiny_chat_tokenizer(bos=True)])
def test_verdict_is_whether_yes_is_more_probable_than_no(judge, tokenizer):
    expected = []
    for reply in REPLIES:
        prompt = INSTRUCTION.format(question=reply.question, wanted=reply.wanted, said=reply.said)
        if tokenizer.chat_template:
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
        spans = [[target_span(tokenizer, prompt, word) for word in words] for words in (YES, NO)]
        yes, no = (score(judge, own).log_prob.exp().sum() for own in spans)
        expected.append(float(yes > no))
    assert verdicts(judge, tokenizer, REPLIES) == expected


@pytest.mark.parametrize(("words", "verdict"), [(YES, 1.0), (NO, 0.0)])
def test_judge_that_always_says_one_word_is_heard(judge, words, verdict):
    tokenizer = tiny_tokenizer()
    bonus = torch.zeros(judge.config.vocab_size)
    for word in words:
        bonus[tokenizer(f" {word}")["input_ids"]] = 1e4
    handle = judge.get_output_embeddings().register_forward_hook(lambda m, a, out: out + bonus)
    assert verdicts(judge, tokenizer, REPLIES) == [verdict, verdict]
    handle.remove()
