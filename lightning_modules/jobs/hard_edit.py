"""HardEdit: data points with the pattern of hard cases, written by a language model."""

import json
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from data_modules.records import EditRequest

from ..language_model.loading import Dtype, load
from ..language_model.positions import longest_text
from .hard_edit_points import FIELDS, Point, as_point, fault, points_in

COUNT = 10  # data points per answer, as published
OFFERED = 30  # subjects
SEED_POINT = {
    "prompt": "Thunder's occupation is",
    "subject": "Thunder",
    "target_new": "architect",
    "ground_truth": "actor",
}  # the authors' first example
INSTRUCTION = """\
Write data points for a study of what language models know. A data point is a JSON object of four \
texts:
"subject": exactly one word that everybody recognises at once; no compound, no hyphen, no blank.
"prompt": a sentence that begins with the subject, goes on with a relation, and lacks its object.
"ground_truth": a noun that belongs to the subject and completes the sentence.
"target_new": another noun that completes it just as smoothly, and makes it clearly false.
The prompt followed by either noun must read as one coherent sentence: subject, relation, object.

Examples:
{examples}
{subjects}
excluded_subjects: {excluded}
Check every subject against excluded_subjects; use none of them again, and none twice.
Be creative: vary subjects and relations, and let the two nouns of a data point contrast.
Write {count} data points, as a JSON list and nothing else.
"""


class HardEditSource(L.LightningModule, ABC):
    """Data points in HardEdit's form under ``predict``, each checked, with new subjects only.

    Args:
        number: of data points; all that can be made if null.
        seed: of all random choices.
    """

    def __init__(self, number: int | None, seed: int = 0) -> None:
        super().__init__()
        if number is not None and number <= 0:
            raise ValueError(f"number must be positive, got {number}")
        self.number = number
        self.seed = seed
        self.used: set[str] = set()
        self.faults: Counter[str] = Counter()
        self.made = 0

    @abstractmethod
    def propose(self, batch: Sequence[EditRequest]) -> Iterator[Point | str]:
        """Data points from these requests, or the reason why there is none."""

    @property
    def complete(self) -> bool:
        """Whether enough data points were made."""
        return self.number is not None and self.made >= self.number

    def setup(self, stage: str) -> None:
        """Refuses several devices, since they do not know each other's subjects.

        Raises:
            ValueError: if there are several.
        """
        if self.trainer.world_size > 1:
            raise ValueError("data points are made one after the other; use --trainer.devices 1")

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[Point]:
        """The usable proposals."""
        good: list[Point] = []
        if self.complete:
            return good
        for point in self.propose(batch):
            reason = point if isinstance(point, str) else fault(point, self.used)
            if reason:
                self.faults[reason] += 1
            elif isinstance(point, dict) and not self.complete:
                good.append({name: point[name].strip() for name in FIELDS})
                self.used.add(point["subject"].strip().casefold())
                self.made += 1
        return good

    def on_predict_end(self) -> None:
        """Reports how many were refused, and why.

        Raises:
            ValueError: if all of them were.
        """
        refused = ", ".join(f"{count} x {reason}" for reason, count in self.faults.most_common())
        if not self.made:
            raise ValueError(
                f"no data point can be used ({refused or 'none was proposed'}); take a model that "
                "follows instructions, or papers/hard-edit-templates.yaml, which needs none"
            )
        rank_zero_info(
            f"{self.made} data points; refused: {refused or 'none'}. That targets are nouns and "
            "sentences make sense is not checked."
        )


class HardEditBuilder(HardEditSource):
    """Prompts a language model for data points, with the requests of a batch as examples.

    Args:
        lm: a folder, a GGUF file, or a model's name on the hub, of a supported family; preferably
            an instruct model.
        answers: number of answers to the same examples.
        number: of data points (HardEdit kept about 460 of more).
        subjects: words to choose subjects from, some of them in each prompt; the model chooses
            freely if empty.
        temperature: of sampling; below 1 it prefers likely tokens.
        new_tokens: most tokens of an answer.
        dtype: of the weights.
    """

    def __init__(
        self,
        lm: str,
        answers: int = 10,
        number: int = 1000,
        subjects: Sequence[str] = (),
        temperature: float = 1.0,
        new_tokens: int = 1024,
        dtype: Dtype = "bfloat16",
        seed: int = 0,
    ) -> None:
        super().__init__(number, seed)
        sizes = {"answers": answers, "temperature": temperature, "new_tokens": new_tokens}
        for name, size in sizes.items():
            if size <= 0:
                raise ValueError(f"{name} must be positive, got {size}")
        self.lm_name, self.dtype_name = lm, dtype
        self.answers, self.subjects = answers, list(subjects)
        self.temperature, self.new_tokens = temperature, new_tokens
        self.lm: Any = None
        self.asked = 0

    def configure_model(self) -> None:
        """Loads the language model, once."""
        if self.lm is None:
            self.lm, self.tokenizer = load(self.lm_name, self.dtype_name)

    def propose(self, batch: Sequence[EditRequest]) -> Iterator[Point | str]:
        """Data points in the model's answers."""
        examples = [SEED_POINT, *(as_point(request) for request in batch)]
        self.used |= {example["subject"].casefold() for example in examples}
        for _ in range(self.answers):
            if self.complete:
                return
            yield from points_in(self.answer(self.instruction(examples)))

    def instruction(self, examples: Sequence[Point]) -> str:
        """The model's instruction, with all subjects used so far."""
        free = [word for word in self.subjects if word.casefold() not in self.used]
        offered = random.Random(self.seed + self.asked).sample(free, min(len(free), OFFERED))
        return INSTRUCTION.format(
            examples="\n".join(json.dumps(example, ensure_ascii=False) for example in examples),
            subjects=f"You may take subjects from: {', '.join(offered)}" if offered else "",
            excluded=json.dumps(sorted(self.used), ensure_ascii=False),
            count=COUNT,
        )

    def answer(self, instruction: str) -> str:
        """One sampled answer.

        Raises:
            ValueError: if the instruction is longer than the model's window.
        """
        chats = self.tokenizer.chat_template is not None
        if chats:
            message = [{"role": "user", "content": instruction}]
            instruction = str(
                self.tokenizer.apply_chat_template(
                    message, tokenize=False, add_generation_prompt=True
                )
            )
        told = self.tokenizer(instruction, return_tensors="pt", add_special_tokens=not chats)
        length = told["input_ids"].shape[1]
        room = longest_text(self.lm) - length
        if room <= 0:
            raise ValueError(
                f"the instruction has {length} tokens, more than {self.lm_name!r} reads; take a "
                "model with a longer window, or fewer examples by --data.batch_size"
            )
        with isolate_rng(), torch.no_grad():
            torch.manual_seed(self.seed + self.asked)
            written = self.lm.generate(
                **told.to(self.lm.device),
                do_sample=True,
                temperature=self.temperature,
                max_new_tokens=min(self.new_tokens, room),
                pad_token_id=self.tokenizer.eos_token_id,
            )
        self.asked += 1
        return str(self.tokenizer.decode(written[0, length:], skip_special_tokens=True))
