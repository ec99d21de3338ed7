"""The experiments of docs/smollm2.md: both papers on SmolLM2-135M, with requests of the project."""

from collections.abc import Mapping
from pathlib import Path

from callbacks.keeping.run_folder import read_journal
from docs import experiments, rome_tables, smollm2_tables, tables
from docs.experiments import Experiment

RUNS = Path("runs/papers-smollm2")
PICTURES = Path(__file__).parent / "smollm2"
MODEL = " --config models/smollm2-135m.yaml"
ASKED = "1053 less those that chose settings"
TUNED_ON = [20, 68, 161, 192, 284]  # docs/layers.md chose the layer by them
FIRST = RUNS / "survey" / "version_0" / "first_token.json"
STATED = RUNS / "survey" / "version_0" / "stated.json"
UNKNOWN = RUNS / "survey" / "version_0" / "neither.json"  # these train MEND's hypernetwork
REQUESTS = f" --data.path '[{FIRST}, {STATED}]'"
HARD_CASES = RUNS / "single-rome" / "version_0" / "hard_cases.json"
HARD = f"{REQUESTS} --data.hard {HARD_CASES}"
NETWORK = RUNS / "mend-training" / "version_0" / "hypernetwork.safetensors"
CONTEXTS = " --model.contexts '{10: 5}'"  # a quarter of the published search's time
METHODS = {
    "rome": CONTEXTS,
    "c_rome": f" --model ConsistentROME{CONTEXTS}",
    "memit": f" --model MEMIT{CONTEXTS}",
    "ft": " --model FineTuning",
    "mend": f" --model MEND --model.hypernetwork {NETWORK}",
}
IN_SEQUENCE = METHODS | {
    "memit_seq": f" --model MEMIT --model.history true{CONTEXTS}",
    "alpha_edit": f" --model AlphaEdit{CONTEXTS}",
}
TASKS = " --data.tasks.limit 20 --data.tasks.names [lambada,piqa,mmlu]"
LEVELS = {  # MEND wears the model down in steps; ROME destroys it in one
    "levels": f"fit --config papers/perplexity-against-tasks.yaml{MODEL} --data.case_ids null"
    f" --data.path {STATED} --data.limit 20{METHODS['mend']} --trainer.callbacks.step 20"
    " --trainer.callbacks.above 6"
}
POINTS = 30  # data points of HardEdit that are tried
WORST = 5  # edits after which tasks are evaluated
NORMAL_CASES = 100
SHORTER = 80  # requests of the methods that collapse nothing: all first tokens, others behind


def folder(run: str) -> Path:
    """Where a run's files are."""
    return RUNS / run / "version_0"


def folders(runs: dict[str, str]) -> dict[str, Path]:
    """Where the files of runs are."""
    return {run: folder(run) for run in runs}


def sequences(kind: str, methods: Mapping[str, str], options: str = "") -> dict[str, str]:
    """A sequence of each method on requests of one kind."""
    text = f"fit --config papers/sequential-{kind}.yaml{MODEL}{HARD}{options}"
    return {f"{kind}-{name}": text + method for name, method in methods.items()}


SURVEY = {
    "survey": f"predict --config papers/fact-survey.yaml{MODEL}"
    f" --trainer.callbacks.leave_out {TUNED_ON}".replace(", ", ",")
}
TRAINING = {
    "mend-training": f"fit --config mend-training.yaml{MODEL} --data.path {UNKNOWN}"
    f" --model.output {NETWORK}"
}
SINGLE_ROME = {
    "single-rome": f"fit --config papers/single-edits.yaml{MODEL}{REQUESTS}{CONTEXTS}"
    " --trainer.callbacks+=RiskCalibration --trainer.callbacks+=WeightDrift"
}
SINGLE = SINGLE_ROME | {
    f"single-{name}": f"fit --config papers/single-edits.yaml{MODEL}{REQUESTS}"
    f" --data.limit {SHORTER}{method}"
    for name, method in METHODS.items()
    if name != "rome"
}
VARIANTS = {
    f"variant-{name}": f"fit --config papers/single-edits.yaml{MODEL} --data.path {FIRST}{CONTEXTS}"
    f"{options}"
    for name, options in {
        "estimated": " --model.second_moment null",
        "layer-12": " --model.layer 12",
        "position-1": " --model.first_position 1",
        "seed-1": " --seed_everything 1 --model.seed 1",
    }.items()
}
SEQUENTIAL = sequences("hard", IN_SEQUENCE) | sequences(
    "normal", IN_SEQUENCE, f" --data.normal_cases {NORMAL_CASES}"
)
TASKS_OF_WORST = {
    "worst-rome": f"fit --config papers/single-edits.yaml{MODEL} --data.path {HARD_CASES}{CONTEXTS}"
    f" --data.limit {WORST}{TASKS} --trainer.callbacks+=Downstream"
    " --trainer.callbacks.new_tokens 16"
}
HARD_EDIT = {
    "hard-edit": f"predict --config papers/hard-edit-templates.yaml --model.number {POINTS}",
    "hard-edit-filter": f"fit --config papers/hard-edit-filter.yaml{MODEL}{CONTEXTS}"
    f" --data.path {RUNS}/hard-edit/version_0/hard_edit.json",
    **{
        f"hard-edit-{name}": f"fit --config papers/hard-edit-sequential.yaml{MODEL}"
        f" --data.path {RUNS}/hard-edit-filter/version_0/hard_cases.json{method}"
        for name, method in METHODS.items()
    },
}
KEYS = {
    name: f"predict --config papers/{name}.yaml{MODEL}{REQUESTS}{CONTEXTS} --data.limit null"
    for name in ("keys", "keys-first-token", "keys-prefixed")
}
PREFIX = {
    "prefix-collapse-hard": f"fit --config papers/c_rome-prefixed.yaml{MODEL}{CONTEXTS}"
    f" --data.limit null --data.class_path HardCasesDataModule --data.sample hard{HARD}"
}
SURVIVAL = {
    f"survival-{config}": f"fit --config {config}.yaml{MODEL} --data.path {STATED}{options}"
    " --data.limit 20 --data.watch_limit 50 --trainer.callbacks+=EditSurvival"
    for config, options in {"c_rome": CONTEXTS, "memit-seq": CONTEXTS, "ft": ""}.items()
}


def in_sequence() -> str:
    """Tables of the sequential runs, and a picture of them all."""
    runs = folders(SEQUENTIAL)
    tables.curves(runs, PICTURES / "sequential.png")
    picture = "![perplexity over sequential edits](smollm2/sequential.png)"
    return f"{tables.sequential(runs)}\n\n{picture}"


def prefixed() -> str:
    """C-ROME's edits behind a prefix, beside the same of ``single-c_rome`` without one."""
    hard = {case["case_id"] for case in tables.read(HARD_CASES)}
    plain = read_journal(folder("single-c_rome"))
    return rome_tables.prefixes(
        {
            "prefix-none-hard": [edit for edit in plain if edit["case_id"] in hard],
            **{run: read_journal(place) for run, place in folders(PREFIX).items()},
            "prefix-none-normal": [edit for edit in plain if not tables.begins(edit)],
        }
    )


EXPERIMENTS = {
    "survey": Experiment(SURVEY, lambda: smollm2_tables.survey(FIRST, STATED, ASKED)),
    "single": Experiment(
        TRAINING | SINGLE,
        lambda: smollm2_tables.by_position(folders(SINGLE), FIRST),
        (("single-rome", "health.png"),),
    ),
    "worst": Experiment(
        TASKS_OF_WORST,
        lambda: tables.worst(folder("worst-rome")),
        (("worst-rome", "top_tasks.png"),),
    ),
    "hard": Experiment({}, lambda: tables.top(folder("single-rome"), 10)),
    "parameters": Experiment(
        {}, lambda: tables.drift(folder("single-rome")), (("single-rome", "drift.png"),)
    ),
    "denominator": Experiment({}, lambda: rome_tables.fractions(folder("single-rome"))),
    "consistent": Experiment(
        {}, lambda: rome_tables.highest(folder("single-rome"), [folder("single-c_rome")])
    ),
    "variants": Experiment(VARIANTS, lambda: smollm2_tables.by_position(folders(VARIANTS), FIRST)),
    "sequential": Experiment(SEQUENTIAL, in_sequence),
    "levels": Experiment(
        LEVELS,
        lambda: tables.levels(folder("levels")),
        (("levels", "perplexity_levels.png"),),
    ),
    "hardedit": Experiment(HARD_EDIT, lambda: tables.hard_edit(folders(HARD_EDIT))),
    "keys": Experiment(
        KEYS,
        lambda: rome_tables.keys(folders(KEYS)),
        tuple((run, "keys_tsne.png") for run in KEYS),
    ),
    "prefix": Experiment(PREFIX, prefixed),
    "risk": Experiment(
        {}, lambda: rome_tables.risk(folder("single-rome")), (("single-rome", "risk.png"),)
    ),
    "transfer": Experiment(
        {},
        lambda: smollm2_tables.transfer(
            {"embedded": experiments.folder("single-rome"), "SmolLM2": folder("single-rome")}
        ),
    ),
    "survival": Experiment(
        SURVIVAL,
        lambda: smollm2_tables.survival(folders(SURVIVAL)),
        (("survival-memit-seq", "survival.png"),),
    ),
}
