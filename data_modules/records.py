"""Records passed from the data to the model: edit requests and prompts with answers."""

from hashlib import blake2b
from typing import Any, NamedTuple


class Probe(NamedTuple):
    """A prompt to judge an edit by, and its answer.

    Attributes:
        prompt: the text before the answer.
        answer: without surrounding blanks.
        accepted: other wordings of the answer, also correct.
    """

    prompt: str
    answer: str
    accepted: tuple[str, ...] = ()


class Consequence(NamedTuple):
    """A prompt whose answer the edit should decide, though no part of it was edited.

    Attributes:
        kind: ``negation``, ``reversal`` or ``one_hop``.
        prompt: the text before the answer.
        answer: what a model that believes the new fact prefers.
        rival: what it prefers the answer to.
    """

    kind: str
    prompt: str
    answer: str
    rival: str


class Frame(NamedTuple):
    """The text around a prompt; a bare prompt has none.

    Attributes:
        before: text before the prompt, such as the beginning of a user's turn.
        after: text after it, such as the beginning of the assistant's turn.
        separator: text between prompt and answer; if null, the rule of ``joining.separator``
            applies.
        end: end of an answer, such as an end-of-turn token; an edit makes it part of its target,
            and generation stops at it. Judged answers are without it.
    """

    before: str = ""
    after: str = ""
    separator: str | None = None
    end: str = ""

    def around(self, prompt: str) -> str:
        """The prompt as the model reads it."""
        return f"{self.before}{prompt}{self.after}"


class EditRequest(NamedTuple):
    """One fact to change, in CounterFact's terms.

    Attributes:
        case_id: the record's number in its dataset.
        prompt: the sentence to complete, with exactly one ``{}`` in the subject's place; none if
            the dataset names no subject.
        subject: what the fact is about, without surrounding blanks; empty if none is named.
        target_new: the target answer after the edit, without a leading blank.
        target_true: the answer before the edit; empty if the dataset has none.
        paraphrases: other wordings of the prompt, the subject filled in.
        neighborhood: prompts about other subjects, which the edit must leave alone.
        portability: what follows from the new fact, such as a further fact about the new answer.
        attributes: prompts about other subjects, to which the new answer is the true one.
        generation: beginnings of texts about the subject, for the model to continue.
        relation_id: Wikidata's identifier of the relation, such as ``P19``; empty if unknown.
        target_id: that of the new answer, such as ``Q90``; empty if unknown.
        joined: whether it belongs to the same edit as the request before it.
        frame: the text around each of its prompts.
    """

    case_id: int
    prompt: str
    subject: str
    target_new: str
    target_true: str = ""
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    attributes: tuple[str, ...] = ()
    generation: tuple[str, ...] = ()
    relation_id: str = ""
    target_id: str = ""
    joined: bool = False
    frame: Frame = Frame()

    @property
    def identity(self) -> str:
        """A unique identity: the case and a digest of the new fact.

        The case alone is not unique: files read together may use a number twice.
        """
        fact = repr((self.case_id, self.prompt, self.subject, self.target_new)).encode()
        return f"{self.case_id}-{blake2b(fact, digest_size=8).hexdigest()}"

    @property
    def text(self) -> str:
        """The prompt with the subject in its place, without its frame."""
        return self.prompt.replace("{}", self.subject, 1) if self.subject else self.prompt

    def as_counterfact(self) -> dict[str, Any]:
        """The request as CounterFact's authors would publish it, with its neighbors' answers.

        Fields that CounterFact lacks, such as portability, are added if they hold something.
        """
        following = [probe._asdict() for probe in self.portability]
        relation = {"relation_id": self.relation_id} if self.relation_id else {}
        target = {"id": self.target_id} if self.target_id else {}
        return {
            "case_id": self.case_id,
            "requested_rewrite": {
                "prompt": self.prompt,
                **relation,
                "subject": self.subject,
                "target_new": {"str": self.target_new, **target},
                "target_true": {"str": self.target_true},
            },
            "paraphrase_prompts": list(self.paraphrases),
            "neighborhood_prompts": [probe.prompt for probe in self.neighborhood],
            "neighborhood_targets": [
                [probe.answer, *probe.accepted] if probe.accepted else probe.answer
                for probe in self.neighborhood
            ],
            **({"portability": following} if following else {}),
            **({"attribute_prompts": list(self.attributes)} if self.attributes else {}),
            **({"generation_prompts": list(self.generation)} if self.generation else {}),
            **({"joined": True} if self.joined else {}),
        }

    @classmethod
    def of_counterfact(cls, record: dict[str, Any]) -> "EditRequest":
        """The request that :meth:`as_counterfact` has written."""
        rewrite = record["requested_rewrite"]
        answers = [
            target if isinstance(target, list) else [target]
            for target in record["neighborhood_targets"]
        ]
        return cls(
            case_id=record["case_id"],
            prompt=rewrite["prompt"],
            subject=rewrite["subject"],
            target_new=rewrite["target_new"]["str"],
            target_true=rewrite["target_true"]["str"],
            paraphrases=tuple(record["paraphrase_prompts"]),
            neighborhood=tuple(
                Probe(prompt, first, tuple(others))
                for prompt, (first, *others) in zip(
                    record["neighborhood_prompts"], answers, strict=True
                )
            ),
            portability=tuple(
                Probe(probe["prompt"], probe["answer"], tuple(probe["accepted"]))
                for probe in record.get("portability", ())
            ),
            attributes=tuple(record.get("attribute_prompts", ())),
            generation=tuple(record.get("generation_prompts", ())),
            relation_id=rewrite.get("relation_id", ""),
            target_id=rewrite["target_new"].get("id", ""),
            joined=record.get("joined", False),
        )


def case_of(identity: str) -> int:
    """The case number in a request's identity."""
    return int(identity.rpartition("-")[0])


def one_word_first(prompt: str, subject: str) -> bool:
    """Whether the subject is one word and begins the prompt: most hard cases are of this kind.

    Args:
        prompt: with a ``{}`` in the subject's place.
        subject: to fill in there.
    """
    return prompt.startswith("{}") and len(subject.split()) == 1


class WatchedText(NamedTuple):
    """A batch of texts whose perplexity is watched.

    Attributes:
        indices: each text's place in the watched corpus, to restore its order.
        texts: as in the corpus.
    """

    indices: list[int]
    texts: list[str]


class TaskItem(NamedTuple):
    """A question of a downstream task, as in lm-evaluation-harness.

    Attributes:
        task: its name, such as ``piqa``.
        number: the record's place in its source, from 0.
        context: the text before the answer.
        choices: continuations with their leading blank; the likeliest is the model's answer. A
            single one is its answer if every token of it is the greedy one. Empty if the model
            writes its answer.
        gold: index of the correct choice.
        answers: accepted answers if the model writes its own; none if there is no answer.
        until: texts that end a written answer.
    """

    task: str
    number: int
    context: str
    choices: tuple[str, ...] = ()
    gold: int = 0
    answers: tuple[str, ...] = ()
    until: tuple[str, ...] = ()
