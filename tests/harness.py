"""lm-evaluation-harness on a model in memory and on local files, as the oracle of our tasks."""

import json
import logging
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROOT = Path(lm_eval.tasks.__file__).parent
CONFIGS = {
    "lambada": "lambada/lambada_openai.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "mmlu": "mmlu/default/mmlu_astronomy.yaml",
    "nq_open": "nq_open/nq_open.yaml",
}
logging.getLogger("lm_eval").setLevel(logging.ERROR)


def harness_model(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> HFLM:
    return HFLM(pretrained=lm, tokenizer=tokenizer, batch_size=8)


def harness_task(name: str, file: Path) -> ConfigurableTask:
    """The harness' own task, on a local file instead of the hub's dataset."""
    config = load_yaml(ROOT / CONFIGS[name])
    for few_shot in ("fewshot_split", "fewshot_config", "training_split"):
        config.pop(few_shot, None)
    split = config.get("test_split") or config["validation_split"]
    local = {"dataset_path": "json", "dataset_name": None}
    files = {"dataset_kwargs": {"data_files": {split: str(file)}}}
    return ConfigurableTask(config=config | local | files)


def judged_by_harness(model: HFLM, name: str, file: Path) -> list[dict[str, Any]]:
    """Each record's ``context``, ``continuations``, answers (``resps``) and scores."""
    found = evaluate(lm=model, task_dict={name: harness_task(name, file)}, bootstrap_iters=0)
    (samples,) = found["samples"].values()
    samples.sort(key=lambda sample: sample["doc_id"])
    for sample in samples:
        sample["context"] = sample["arguments"][0][0]
        sample["continuations"] = tuple(second for _, second in sample["arguments"])
    return samples


def write_lines(file: Path, records: list[dict[str, Any]]) -> Path:
    """The records as JSON lines."""
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file
