"""What travels from the data to the model: edit requests and prompts with answers."""

from typing import Any, NamedTuple


class Probe(NamedTuple):
    """A prompt and the answer the unedited world gives to it."""

    prompt: str
    answer: str


class EditRequest(NamedTuple):
    """One fact to change, in CounterFact's terms.

    Attributes:
        case_id: the record's number in its dataset.
        prompt: the sentence to complete, with exactly one ``{}`` in the subject's place.
        subject: what the fact is about, without surrounding blanks.
        target_new: the answer wanted after the edit, without a leading blank.
        target_true: the answer before the edit; empty where the dataset has none.
        paraphrases: other wordings of the prompt, the subject filled in.
        neighborhood: prompts about other subjects, which the edit must leave alone.
    """

    case_id: int
    prompt: str
    subject: str
    target_new: str
    target_true: str = ""
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[Probe, ...] = ()

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return self.prompt.replace("{}", self.subject, 1)

    def as_counterfact(self) -> dict[str, Any]:
        """The request as CounterFact's authors would publish it, with its neighbors' answers."""
        return {
            "case_id": self.case_id,
            "requested_rewrite": {
                "prompt": self.prompt,
                "subject": self.subject,
                "target_new": {"str": self.target_new},
                "target_true": {"str": self.target_true},
            },
            "paraphrase_prompts": list(self.paraphrases),
            "neighborhood_prompts": [probe.prompt for probe in self.neighborhood],
            "neighborhood_targets": [probe.answer for probe in self.neighborhood],
        }


class WatchedText(NamedTuple):
    """A batch of texts whose perplexity is watched.

    Attributes:
        indices: each text's place in the watched corpus, from which its order can be restored.
        texts: as they stand in the corpus.
    """

    indices: list[int]
    texts: list[str]
