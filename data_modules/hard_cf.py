"""HardCF: the cases of CounterFact that collapse the papers' models under one ROME edit."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from .hard_cases import SampledDataModule
from .records import EditRequest, one_word_first

Model = Literal["gpt2-xl", "gpt-j-6b", "llama2-7b"]
MODELS: tuple[Model, ...] = ("gpt2-xl", "gpt-j-6b", "llama2-7b")
TOKENIZERS = {"gpt2-xl": "openai-community/gpt2-xl", "llama2-7b": "meta-llama/Llama-2-7b-hf"}
GPT_J_CASES = frozenset([
    173, 240, 266, 946, 1416, 1420, 1508, 1605, 1947, 2065, 2520, 2793, 3073, 3265, 3561, 3629,
    3723, 3731, 3856, 3953, 4050, 4661, 4790, 4988, 5681, 5798, 5921, 5997, 6130, 6160, 6208,
    6263, 6545, 6752, 7377, 8475, 8793, 9120, 9817, 10214, 10342, 10457, 10469, 10663, 10756,
    11429, 11525, 12083, 12489, 12624, 12714, 12802, 13235, 13701, 13753, 14126, 14181, 14319,
    14639, 14707, 15452, 15852, 16136, 16249, 16575, 16735, 16781, 16902, 17272, 17409, 17421,
    17674, 17795, 17821, 19572, 19678, 19724, 20173, 20327, 20666, 20962, 21142, 21387, 21729,
    21751,
])  # fmt: skip


class HardCFDataModule(SampledDataModule):
    """CounterFact's hard cases, normal ones, or both.

    GPT-J's are listed by id (85 of 21,919). For the others a rule stands in, which ``chosen_by``
    and a line of the run report: GPT-2-XL's subject is a single token that begins the prompt (80
    cases; the paper counts 77), Llama2-7b's ends in a token ``.`` that is the first such token of
    the prompt (23; the paper counts 21).

    Args:
        models: models whose hard cases to use; the union if several.
        tokenizers: folder or hub name of the tokenizer of a model that has a rule; by default the
            paper's model's.
    """

    def __init__(
        self,
        models: Sequence[Model] = MODELS,
        tokenizers: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        unknown = sorted({*models, *(tokenizers or {})} - {*MODELS})
        if unknown or not models:
            raise ValueError(f"models must be some of {', '.join(MODELS)}, got {unknown or 'none'}")
        if self.path is None:
            raise ValueError(
                "HardCF is a part of CounterFact: name its files or hub dataset with --data.path"
            )
        self.models = models
        self.tokenizers = TOKENIZERS | (tokenizers or {})

    def hard_among(self, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """The hard cases of any of the models."""
        found = {model: set(self.cases_of(model, requests)) for model in self.models}
        return [
            request for request in requests if any(request in cases for cases in found.values())
        ]

    def cases_of(self, model: Model, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """The hard cases of one model.

        Raises:
            ValueError: if the case numbers are not CounterFact's.
        """
        if model == "gpt-j-6b":
            found = [request for request in requests if request.case_id in GPT_J_CASES]
            strange = [request for request in found if not request.prompt.startswith("{}")]
            if strange:
                raise ValueError(
                    f"{self.path}: case {strange[0].case_id} is {strange[0].text!r}, unlike "
                    "CounterFact's of that number; give CounterFact, with its case_id"
                )
            self.chosen_by[model] = f"{len(found)} of {len(GPT_J_CASES)}, by their ids"
            return found
        rule, words = RULES[model]
        tokenizer = load_tokenizer(self.tokenizers[model])
        found = [request for request in requests if rule(tokenizer, request)]
        self.chosen_by[model] = f"{len(found)}, by the rule that {words}"
        return found


def begins_as_one_token(tokenizer: PreTrainedTokenizerFast, request: EditRequest) -> bool:
    """Whether the subject is the prompt's first token and nothing more."""
    if not one_word_first(request.prompt, request.subject):
        return False
    return spans_of(tokenizer, request.text)[0] == (0, len(request.subject))


def ends_in_first_full_stop(tokenizer: PreTrainedTokenizerFast, request: EditRequest) -> bool:
    """Whether the subject's last token is a full stop by itself, the first one of the prompt."""
    if not request.subject.endswith("."):
        return False
    end = request.prompt.index("{}") + len(request.subject)
    spans = spans_of(tokenizer, request.text)
    return next((span for span in spans if request.text[slice(*span)] == "."), None) == (
        end - 1,
        end,
    )


RULES: dict[str, tuple[Callable[[PreTrainedTokenizerFast, EditRequest], bool], str]] = {
    "gpt2-xl": (begins_as_one_token, "the subject is a single token that begins the prompt"),
    "llama2-7b": (
        ends_in_first_full_stop,
        "the subject ends in a token '.', the first one of the prompt",
    ),
}


def spans_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[tuple[int, int]]:
    """Character span ``[begin, end)`` of each token, without special tokens."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [(begin, end) for begin, end in encoded["offset_mapping"]]


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer that reports offsets.

    Raises:
        FileNotFoundError: if there is no such folder and no such model on the hub.
    """
    try:
        return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no tokenizer {name!r}: it is neither a folder with tokenizer.json nor a reachable "
            "model on the hub; name one with --data.tokenizers"
        ) from error
