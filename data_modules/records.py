"""What travels from the data to the model: edit requests and prompts with answers."""

from typing import Any, NamedTuple


class Probe(NamedTuple):
    """A prompt and the answer the unedited world gives to it."""

    prompt: str
    answer: str


class Frame(NamedTuple):
    """What a model is given around a prompt; a bare prompt has nothing around it.

    Attributes:
        before: text before the prompt, such as the beginning of a user's turn.
        after: text behind it, such as the beginning of the assistant's turn.
        separator: what stands between prompt and answer; null leaves it to the rule of
            ``joining.separator``.
        end: what ends an answer, such as an end-of-turn token; an edit makes it a part of its
            target, and written text stops at it. Judged answers are without it.
    """

    before: str = ""
    after: str = ""
    separator: str | None = None
    end: str = ""

    def around(self, prompt: str) -> str:
        """The prompt as the model is given it."""
        return f"{self.before}{prompt}{self.after}"


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
        portability: what follows from the new fact, such as a further fact about the new answer.
        frame: what the model is given around each of its prompts.
    """

    case_id: int
    prompt: str
    subject: str
    target_new: str
    target_true: str = ""
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    frame: Frame = Frame()

    @property
    def text(self) -> str:
        """The prompt with the subject in its place, without its frame."""
        return self.prompt.replace("{}", self.subject, 1)

    def as_counterfact(self) -> dict[str, Any]:
        """The request as CounterFact's authors would publish it, with its neighbors' answers.

        What follows from it, which CounterFact does not have, is added where there is something.
        """
        following = [probe._asdict() for probe in self.portability]
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
            **({"portability": following} if following else {}),
        }


def one_word_first(prompt: str, subject: str) -> bool:
    """Whether the subject is one word and begins the prompt: most hard cases are of this kind.

    Args:
        prompt: with a ``{}`` in the subject's place.
        subject: to be put there.
    """
    return prompt.startswith("{}") and len(subject.split()) == 1


class WatchedText(NamedTuple):
    """A batch of texts whose perplexity is watched.

    Attributes:
        indices: each text's place in the watched corpus, from which its order can be restored.
        texts: as they stand in the corpus.
    """

    indices: list[int]
    texts: list[str]


class TaskItem(NamedTuple):
    """A question of a downstream task, as lm-evaluation-harness would put it.

    Attributes:
        task: its name, such as ``piqa``.
        number: the record's place in its source, from 0.
        context: what stands before the answer.
        choices: continuations with their leading blank, of which the likeliest is the model's
            answer; a single one is its answer if every token of it is the greedy one. Empty
            where the model writes its answer.
        gold: index of the right choice.
        answers: those accepted where the model writes its answer; none if it is to give none.
        until: texts that end a written answer.
    """

    task: str
    number: int
    context: str
    choices: tuple[str, ...] = ()
    gold: int = 0
    answers: tuple[str, ...] = ()
    until: tuple[str, ...] = ()
