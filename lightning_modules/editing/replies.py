"""What a model says after the prompts of requests."""

from collections.abc import Sequence

from data_modules.records import EditRequest

from ..language_model.generation import generate
from .watched import WatchedModel


def replies(model: WatchedModel, requests: Sequence[EditRequest], new_tokens: int) -> list[str]:
    """What the model says greedily after each request's prompt, up to the end of a line.

    The prompt is that of the evaluation: behind its context, in a chat if the run judges in one.

    Args:
        model: with its language model.
        requests: whose prompts are asked.
        new_tokens: of a reply, at most.
    """
    frame = model.frames.judged
    prompts = [
        frame.around(model.worded(request).text) + (frame.separator or "") for request in requests
    ]
    ends = ["\n", *filter(None, [frame.end.strip()])]
    texts = generate(model.lm, model.tokenizer, prompts, ends, new_tokens)
    return [text.strip() for text in texts]
