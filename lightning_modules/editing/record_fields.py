"""Every field of an edit's record, declared once; ``docs/journal.md`` is made from this page."""

from types import UnionType
from typing import NamedTuple

from ..language_model.judging import MEASURES

NUMBER = int | float


class Field(NamedTuple):
    """A field, or a family of fields whose names differ in one part.

    Attributes:
        name: in lower case. A word in capitals stands for each name of its slot in ``SLOTS``, one
            without a slot for any name; what is in brackets may be absent.
        kind: the type of its values.
        unit: their unit or range, in Markdown.
        meaning: a sentence.
        writer: the class that writes it; several are separated by commas.
        source: the paper or protocol that it follows.
    """

    name: str
    kind: type | UnionType
    unit: str
    meaning: str
    writer: str
    source: str = ""


class Group(NamedTuple):
    """Fields that belong together.

    Attributes:
        title: in the documentation.
        place: of their figures on the dashboard.
        fields: in the order in which a reader meets them.
    """

    title: str
    place: str
    fields: tuple[Field, ...]


SLOTS = {
    "GROUP": "efficacy|paraphrase|neighborhood|attribute",
    "PROMPT": "efficacy|paraphrase",
    "CONTEXT": "question|instruction|chat",
    "SCORE": "|".join(sorted(MEASURES)),
    "WEIGHT": r"\d+_\w+",
}
BUTTERFLY, FALL = "The Butterfly Effect", "The Fall of ROME"
MIRAGE = "The Mirage of Model Editing"
SHARE, DUEL, FORCED = "0 to 1", "ROME's evaluation", "EasyEdit's evaluation"

GROUPS = (
    Group("Request", "edit", (
        Field("edit", int, "from 1", "Number of the edit in the run.", "EditJournal"),
        Field("case_id", int | list, "", "Number of the request in its dataset.", "EditJournal"),
        Field("subject", str | list, "", "What the fact is about.", "EditJournal", "CounterFact"),
        Field("prompt", str | list, "one `{}` for the subject",
              "The sentence to complete.", "EditJournal", "CounterFact"),
        Field("target_new", str | list, "",
              "The new answer.", "EditJournal", "CounterFact"),
        Field("target_true", str | list, "empty if unknown",
              "The answer before the edit.", "EditJournal", "CounterFact"),
        Field("says_before", str | list, "a few tokens",
              "The model's greedy continuation of the prompt before the edit.", "Sayings"),
        Field("says", str | list, "a few tokens", "The same after the edit.", "Sayings"),
        Field("test_prefix", dict, "case id to template",
              "The context before the prompt in the evaluation.", "KeyValueEditor", f"{FALL}, 5"),
    )),
    Group("Outcome", "edit", (
        Field("method", str, "a class name", "The method that made the edit.", "Editor"),
        Field("status", str, "`applied`, `failed`, `rolled_back`, `skipped`",
              "Outcome of the edit.", "Editor, CollapseGuard, Replay"),
        Field("reason", str, "", "Why the edit failed or was undone, or a warning about it.",
              "Editor, CollapseGuard, Replay"),
    )),
    Group("Health", "health", (
        Field("perplexity", NUMBER, "from 1", "Mean of each watched text's perplexity.",
              "Perplexity", f"{BUTTERFLY}, 3.1"),
        Field("log_perplexity", NUMBER, "nats",
              "Logarithm of `perplexity`; finite if that overflows.", "Perplexity"),
        Field("perplexity_pooled", NUMBER, "from 1",
              "Exponential of the mean negative log-likelihood over all watched tokens.",
              "Perplexity", "the textbook's perplexity"),
        Field("perplexity_bos", NUMBER, "from 1",
              "`perplexity` after the BOS token, if the tokenizer puts one before a text.",
              "Perplexity"),
        Field("collapsed", bool, "", "Whether the perplexity is above the limit, or not finite.",
              "CollapseStopping", f"{BUTTERFLY}, above 1000"),
        Field("collapse_limit", NUMBER, "perplexity",
              "The limit; in the baseline of `summary.json` and at step 0 only.",
              "CollapseStopping"),
        Field("collapse_probability", NUMBER, SHARE,
              "Probability, calibrated on a sweep, that the edit destroys the model.",
              "RankOneEditor"),
    )),
    Group("Edit quality: two answers compared", "scores_rome", (
        Field("efficacy", NUMBER, SHARE,
              "Share of the prompts with P(new) > P(true), by mean log-probability per token.",
              "EditMetrics", DUEL),
        Field("paraphrase", NUMBER, SHARE, "The same for other wordings of the prompt.",
              "EditMetrics", DUEL),
        Field("neighborhood", NUMBER, SHARE,
              "Share of the neighbors' prompts with P(their own answer) > P(new).",
              "EditMetrics", DUEL),
        Field("attribute", NUMBER, SHARE,
              "Share of the prompts about other subjects, to which the new answer is the true one, "
              "with P(new) > P(true).", "EditMetrics", DUEL),
        Field("GROUP_magnitude", NUMBER, "-1 to 1",
              "Mean difference of the two probabilities.", "EditMetrics", DUEL),
        Field("SCORE_before", NUMBER, "as after the edit",
              "Any score of this table and the next two, immediately before the edit; on the "
              "dashboard it is beside that score.", "EditMetrics"),
    )),
    Group("Edit quality: tokens under teacher forcing", "scores_easyedit", (
        Field("GROUP_token_accuracy", NUMBER, SHARE,
              "Share of the wanted answer's tokens that are the greedy choice, under teacher "
              "forcing.", "EditMetrics", FORCED),
        Field("neighborhood_agreement", NUMBER, SHARE,
              "Share of the greedy tokens at the neighbors' answers that are also the unedited "
              "model's.", "EditMetrics", "EasyEdit's locality"),
        Field("portability_token_accuracy", NUMBER, SHARE,
              "Token accuracy on prompts about what follows from the new fact.",
              "EditMetrics", "EasyEdit's portability"),
    )),
    Group("Edit quality: whole answers, greedy", "scores_exact", (
        Field("GROUP_exact_match", NUMBER, SHARE,
              "Share of the answers whose tokens are all the greedy choice.", "EditMetrics"),
        Field("portability_exact_match", NUMBER, SHARE,
              "Share of these answers whose tokens are all the greedy choice.", "EditMetrics"),
    )),
    Group("Edit quality: free generation", "scores_generation", (
        Field("PROMPT_generation[_CONTEXT]", NUMBER, SHARE,
              "Share of the prompts whose generated text begins with the target; also in one of "
              "the Mirage's contexts.", "GenerationMetrics", MIRAGE),
        Field("PROMPT_generation[_CONTEXT]_exact", NUMBER, SHARE,
              "Share of the prompts whose generated text is exactly the target.",
              "GenerationMetrics", MIRAGE),
        Field("PROMPT_generation[_CONTEXT]_squad_exact_match", NUMBER, SHARE,
              "The same after SQuAD's normalisation, which drops articles too.",
              "GenerationMetrics", "SQuAD's evaluation"),
        Field("PROMPT_generation[_CONTEXT]_judge", NUMBER, SHARE,
              "Share of the prompts whose generated text a second language model accepts.",
              "GenerationMetrics", MIRAGE),
        Field("generation_entropy", NUMBER, "bits",
              "Fluency: mean entropy of a text's bigrams and, counted twice, trigrams.",
              "GenerationMetrics", "ROME, 3.4"),
        Field("ngram_entropy", NUMBER, "bits",
              "The same of 100-token texts that are sampled from the generation prompts, prompt "
              "included, in NLTK's words.", "FluencyMetrics", DUEL),
        Field("reference_score", NUMBER, SHARE,
              "Consistency: cosine of these texts and the reference texts of the new answer, by "
              "TF-IDF.", "FluencyMetrics", DUEL),
        Field("essence_perplexity", NUMBER, "from 1",
              "Perplexity of the reference texts about the subject itself, their first 100 tokens.",
              "FluencyMetrics", DUEL),
    )),
    Group("Keys and update", "edit", (
        Field("update_norm", NUMBER, "Frobenius norm",
              "Size of the edit's change, over all edited weights.", "Editor"),
        Field("numerator_norm", NUMBER, "Euclidean norm",
              "Size of the residual: wanted minus present value.", "RankOneEditor", f"{FALL}, 3"),
        Field("denominator", NUMBER, "from 0",
              "Denominator of the update: product of the unit direction and the key; a tiny "
              "one destroys the model.", "RankOneEditor", f"{FALL}, 3"),
        Field("denominator_relative", NUMBER, SHARE,
              "The denominator over the key's norm: a cosine.", "RankOneEditor"),
        Field("key_cosine", NUMBER, "-1 to 1",
              "Cosine of the plain key and the mean key over contexts.",
              "KeyValueEditor", FALL),
        Field("subject_position", NUMBER, "tokens, from 0",
              "Position of the subject's last token in the prompt; 0 is dangerous.",
              "KeyValueEditor", FALL),
        Field("value_loss", NUMBER, "nats",
              "Final loss of the value search: NLL, KL divergence and weight decay.",
              "KeyValueEditor", "ROME, equation 4"),
        Field("value_steps", NUMBER, "losses evaluated", "Length of the value search.",
              "KeyValueEditor"),
        Field("value_unconverged", NUMBER, "0 or 1; a share in a batch",
              "Whether the value search missed its goal and left the target unlikely: its NLL fell "
              "by less than half, and its probability per token is below one half.",
              "KeyValueEditor"),
        Field("anchor", NUMBER, "Euclidean norm",
              "Norm to which found values are scaled.", "KeyValueEditor", "NAS"),
        Field("value_scale", NUMBER, "ratio", "Factor by which the found value was scaled.",
              "KeyValueEditor", "NAS"),
        Field("loss", NUMBER, "nats per token",
              "Loss of the targets, as last computed.", "GradientEditor"),
        Field("steps", int, "from 0", "Gradient steps taken.", "FineTuning"),
    )),
    Group("Experts", "edit", (
        Field("edited_experts", int, "from 1",
              "Number of experts that the edit changed, over all edited layers.", "RoutingShift"),
        Field("edited_experts_load", NUMBER, SHARE,
              "Share of the watched tokens, in an edited layer, that a changed expert serves.",
              "RoutingShift"),
        Field("routing_shift", NUMBER, SHARE,
              "Share of the routers' choices on the watched text, in layers above the lowest "
              "edited one, that the unedited model does not make.", "RoutingShift"),
    )),
    Group("Cost", "cost", (
        Field("seconds_edit", NUMBER, "seconds",
              "Time of the edit; in a sweep its share of the edits made together.", "Editor"),
        Field("seconds_watch", NUMBER, "seconds",
              "Time of the validation after the edit: perplexity and tasks.", "EditJournal"),
    )),
    Group("Tasks", "tasks", (
        Field("tasks", dict, "score's name to 0 to 1",
              "Accuracy, exact match or F1 of each downstream task.", "Downstream",
              "lm-evaluation-harness"),
    )),
    Group("Early warning", "warning", (
        Field("norm_growth", NUMBER, "ratio, from -1",
              "Growth of a weight's Frobenius norm; of several the largest.", "WarningSignals"),
        Field("weight_change", NUMBER, "ratio",
              "Norm of W' - W over that of W; of several weights the largest.", "WarningSignals"),
        Field("overlap_output", NUMBER, SHARE,
              "Mean squared cosine of the principal angles of the leading left singular spaces of "
              "W' and W; of several weights the smallest.", "WarningSignals"),
        Field("overlap_input", NUMBER, SHARE, "The same of the right singular spaces.",
              "WarningSignals"),
        Field("state_drift", NUMBER, "ratio",
              "Distance of watched texts' hidden states behind the last block from the unedited "
              "model's, relative, root mean square over tokens.", "WarningSignals"),
        Field("text_entropy", NUMBER, "bits",
              "Mean n-gram entropy of sampled continuations.", "WarningSignals", "ROME, 3.4"),
    )),
    Group("Studies", "drift", (
        Field("drift_norm[_WEIGHT]", NUMBER, "Frobenius norm",
              "Size of W' - W, the change since the original weights.", "WeightDrift",
              f"{BUTTERFLY}, 4.2"),
        Field("drift_relative[_WEIGHT]", NUMBER, "ratio", "The same over the norm of W.",
              "WeightDrift"),
        Field("drift_spectral_norm[_WEIGHT]", NUMBER, "spectral norm",
              "Largest singular value of W' - W.", "WeightDrift"),
        Field("drift_spectrum[_WEIGHT]", list, "descending",
              "The eight largest singular values of W' - W.", "WeightDrift"),
        Field("drift_effective_rank[_WEIGHT]", NUMBER, "from 1",
              "Effective number of directions of W' - W.", "WeightDrift",
              "Roy and Vetterli 2007"),
        Field("drift_weight_spectral_norm[_WEIGHT]", NUMBER, "spectral norm",
              "Largest singular value of W'.", "WeightDrift"),
        Field("drift_weight_effective_rank[_WEIGHT]", NUMBER, "from 1",
              "Effective number of directions of W'.", "WeightDrift", "Roy and Vetterli 2007"),
    )),
)  # fmt: skip
