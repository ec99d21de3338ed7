"""Free generation after an edit: whether it states the answer, and its entropy."""

import re
from collections.abc import Sequence
from typing import Literal, get_args

import lightning as L
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest, Frame
from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.chat import chat_frame
from lightning_modules.language_model.generation import generate, prompt_room
from lightning_modules.language_model.loading import load
from lightning_modules.language_model.matching import squad_words
from lightning_modules.language_model.verdicts import Reply, verdicts

from ..keeping.means import mean_scores
from .text_measures import ngram_entropy
from .written_texts import WrittenTexts

STOPS = (".", "\n")
Context = Literal["question", "instruction", "chat"]
INSTRUCTION = Frame("Answer the question in a few words.\nQuestion: ", "\nAnswer:")


class GenerationMetrics(WrittenTexts):
    """Generates greedily from a request's prompts and compares the texts with the target.

    ``efficacy_generation`` and ``paraphrase_generation`` are 1 if the text up to the first stop or
    end begins with the target, word by word, ignoring case. The model sees no token of the target.
    Like teacher forcing, which reveals the target's length, this ignores what follows the target
    (The Mirage of Model Editing); ``*_generation_exact`` requires the target and nothing else.
    ``*_generation_squad_exact_match`` is the same after SQuAD's normalisation, without articles
    too. A model that rightly continues its sentence fails both, so a reader's judgement lies
    between the first and these; ``*_generation_judge`` is that of a second language model.
    ``generation_entropy`` is ROME's fluency of these greedy texts; ``FluencyMetrics`` measures it
    as published, on sampled texts.

    Prompts are those of ``--model.chat``. Each of ``contexts`` adds the measures in one of the
    Mirage's contexts, as ``*_generation_question`` and so on: the bare ``question``, the question
    with an ``instruction``, and the question in the model's ``chat`` template.

    Args:
        every_n_edits: edits from one measurement to the next.
        max_new_tokens: of each text.
        stops: texts that end an answer.
        contexts: further contexts of the prompts.
        judge: a folder, a GGUF file, or a model's name on the hub; a language model that says, yes
            or no, in a fixed prompt, whether the answer means the target.

    Raises:
        ValueError: if a number is not positive, a stop is empty, or a context is unknown.
    """

    def __init__(
        self,
        every_n_edits: int = 1,
        max_new_tokens: int = 50,
        stops: Sequence[str] = STOPS,
        contexts: Sequence[Context] = (),
        judge: str | None = None,
    ) -> None:
        for name, number in (("every_n_edits", every_n_edits), ("max_new_tokens", max_new_tokens)):
            if number <= 0:
                raise ValueError(f"{name} must be positive, got {number}")
        if not all(stops):
            raise ValueError(f"each of stops must be a text that is not empty, got {list(stops)}")
        if strange := set(contexts).difference(get_args(Context)):
            raise ValueError(f"contexts must be among {get_args(Context)}, got {min(strange)!r}")
        self.every_n_edits = every_n_edits
        self.max_new_tokens = max_new_tokens
        self.stops = tuple(stops)
        self.contexts = tuple(dict.fromkeys(contexts))
        self.judge_name = judge
        self.judge: tuple[PreTrainedModel, PreTrainedTokenizerFast] | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Loads the judge; checks early that the model can generate this length in each context."""
        prompt_room(pl_module.lm, self.max_new_tokens)
        self.frames(pl_module)
        if self.judge_name is not None and self.judge is None:
            self.judge = load(self.judge_name)
            self.judge[0].to(pl_module.device)  # type: ignore[arg-type] # transformers wraps it

    def measured(self, editor: Editor, requests: Sequence[EditRequest]) -> list[dict[str, float]]:
        """Measures of each request's texts; absent where undefined."""
        worded = [editor.worded(request) for request in requests]
        asked = [[request.text, *request.paraphrases] for request in worded]
        prompts = [prompt for own in asked for prompt in own]
        found: list[dict[str, float]] = [{} for _ in requests]
        for name, frame in self.frames(editor).items():
            texts = iter(self.written(editor, prompts, frame))
            for request, own, scores in zip(requests, asked, found, strict=True):
                said = [next(texts) for _ in own]
                scores |= reading(request.target_new, said, name, self.stops)
                scores |= self.judged(request.target_new, own, said, name)
        return found

    def frames(self, editor: Editor) -> dict[str, Frame]:
        """The text around the prompts, by the name of the measures.

        Raises:
            ValueError: if a context is ``chat`` and the model has no chat template.
        """
        known = {"question": Frame(), "instruction": INSTRUCTION}
        if "chat" in self.contexts:
            known["chat"] = chat_frame(editor.tokenizer, editor.lm_name)
        own = {f"generation_{context}": known[context] for context in self.contexts}
        return {"generation": editor.frames.judged} | own

    def written(self, editor: Editor, prompts: Sequence[str], frame: Frame) -> list[str]:
        """Generated text after each prompt; devices that share an edit share the work."""
        rank, devices = editor.share
        given = [frame.around(prompt) + (frame.separator or "") for prompt in prompts]
        until = [frame.end.strip()] if frame.end else []
        own = generate(
            editor.lm, editor.tokenizer, given[rank::devices], until, self.max_new_tokens
        )
        part = dict(zip(range(rank, len(prompts), devices), own, strict=True))
        texts = editor.share.joined(part, editor.device)
        return [texts[number] for number in range(len(prompts))]

    def judged(
        self, target: str, prompts: Sequence[str], texts: Sequence[str], name: str
    ) -> dict[str, float]:
        """The judge's verdicts on a request's texts, if there is a judge."""
        if self.judge is None:
            return {}
        answers = [answer_in(text, target, self.stops) for text in texts]
        replies = [Reply(p, target, said) for p, said in zip(prompts, answers, strict=True)]
        first, *rest = verdicts(*self.judge, replies)
        return mean_scores(
            [{f"efficacy_{name}_judge": first}, *({f"paraphrase_{name}_judge": v} for v in rest)]
        )


def reading(
    target: str,
    texts: Sequence[str],
    name: str = "generation",
    stops: Sequence[str] = STOPS,
) -> dict[str, float]:
    """The measures of one request.

    Args:
        target: the new answer.
        texts: generated after the prompt itself, then after its paraphrases.
        name: of the measures.
        stops: texts that end an answer.
    """
    hits = [matches(text, target, name, stops) for text in texts]
    groups = ["efficacy", *["paraphrase"] * (len(texts) - 1)]
    named = [
        {f"{group}_{kind}": hit for kind, hit in found.items()}
        for group, found in zip(groups, hits, strict=True)
    ]
    entropies = [generation_entropy(text) for text in texts] if name == "generation" else []
    told = [{"generation_entropy": found} for found in entropies if found is not None]
    return mean_scores([*named, *told])


def answer_in(text: str, target: str, stops: Sequence[str] = STOPS) -> str:
    """A text up to its first stop, except a stop within the target, as in ``St. Louis``."""
    text = text.strip()
    found = [text.find(stop, len(target)) for stop in stops]
    return text[: min((stop for stop in found if stop >= 0), default=len(text))]


def matches(
    text: str, target: str, name: str = "generation", stops: Sequence[str] = STOPS
) -> dict[str, float]:
    """Whether the text begins with the target, and whether it is the target, up to its stop.

    Words are compared without case and punctuation; SQuAD's rules drop articles too.
    """
    answer = answer_in(text, target, stops)
    said, wanted = _words(answer), _words(target)
    return {
        name: float(said[: len(wanted)] == wanted),
        f"{name}_exact": float(said == wanted),
        f"{name}_squad_exact_match": float(squad_words(answer) == squad_words(target)),
    }


def generation_entropy(text: str) -> float | None:
    """Mean entropy of a text's bigrams and trigrams in bits, with weight 2 for trigrams.

    ROME's fluency (Meng et al. 2022, section 3.4), which is low for repetitive texts. n trigrams
    have at most log2 n, so texts of different length cannot be compared. None if the text has fewer
    than two trigrams.
    """
    words = re.findall(r"\w+|[^\w\s]", text)
    return ngram_entropy(words) if len(words) >= 4 else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
