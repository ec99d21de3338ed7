"""SmolLM2 on CounterFact itself: a section of docs/smollm2.md that needs files of others."""

from docs import smollm2_tables
from docs.experiments import Experiment
from docs.smollm2_experiments import CONTEXTS, MODEL, folder, folders

COUNTERFACT = "[counterfact-edit.json,counterfact-train.json]"
ASKED = 200  # requests whose fact the model is asked for
FIRST = folder("counterfact-survey") / "first_token.json"
STATED = folder("counterfact-survey") / "stated.json"
OTHERS = 50  # requests that ROME edits beside those whose subject is the first token
REST = f"'[{STATED}, {folder('counterfact-survey') / 'neither.json'}]'"
SURVEY = {
    "counterfact-survey": f"predict --config papers/fact-survey.yaml{MODEL}"
    f" --data.path {COUNTERFACT} --model.asked {ASKED}"
}
EDIT = f"fit --config papers/single-edits.yaml{MODEL} --data.watch ME-PPL_50.json"
SINGLE = {
    "counterfact-rome": f"{EDIT} --data.path {FIRST}{CONTEXTS}",
    "counterfact-c_rome": f"{EDIT} --data.path {FIRST} --model ConsistentROME{CONTEXTS}",
    "counterfact-others": f"{EDIT} --data.path {REST} --data.limit {OTHERS}{CONTEXTS}",
}


def counterfact() -> str:
    """What the survey found, and the single edits by the subject's place."""
    found = smollm2_tables.survey(FIRST, STATED, f"the first {ASKED}")
    return f"{found}\n\n{smollm2_tables.by_position(folders(SINGLE), FIRST)}"


EXPERIMENTS = {"counterfact": Experiment(SURVEY | SINGLE, counterfact)}
