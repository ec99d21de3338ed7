"""Tables and pictures of docs/embedded.md: python -m docs.sweeps RUN [RUN …] (runs' folders)."""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from callbacks.keeping.run_folder import read_journal
from docs.tables import SCORES, begins, mean, percent, read


def table(run: Path) -> list[str]:
    """Rows of Markdown: normal requests, then those with a one-word subject first."""
    summary, edits = read(run / "summary.json"), read_journal(run)
    lines = []
    for group, chosen in (
        ("normal", [edit for edit in edits if not begins(edit)]),
        ("one word first", [edit for edit in edits if begins(edit)]),
        ("… at position 0", [edit for edit in edits if edit.get("subject_position") == 0]),
    ):
        if not chosen:
            continue
        scores = " | ".join(percent(mean(chosen, name)) for name in SCORES)
        perplexity = [edit["perplexity"] for edit in chosen]
        lines.append(
            f"| {summary['method']} | {summary['second_moment']} | {group} | {len(chosen)} "
            f"| {scores} | {mean(chosen, 'denominator'):.2f} | {mean(chosen, 'key_cosine'):.2f} "
            f"| {sum(perplexity) / len(perplexity):.1f} | {max(perplexity):.1f} "
            f"| {sum(edit['collapsed'] for edit in chosen)} |"
        )
    return lines


def curves(runs: list[Path], file: Path) -> None:
    """Perplexity of several sequential runs in one picture; edits taken back are circles."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for run, line in zip(runs, ("-", "--", ":", "-."), strict=False):
        summary, edits = read(run / "summary.json"), read_journal(run)
        model = [summary["baseline"]["perplexity"]]  # an edit taken back leaves it as it was
        for edit in edits:
            model.append(model[-1] if edit["status"] == "rolled_back" else edit["perplexity"])
        refused = [edit for edit in edits if edit["status"] == "rolled_back"]
        others = [e for e in edits if e["method"] != summary["method"] and e not in refused]
        guarded = f", guarded: {len(refused)} taken back" if refused else ""
        guarded += f", {len(others)} made by {others[0]['method']}" if others else ""
        label = f"{summary['method']}, moment {summary['second_moment']}{guarded}"
        (curve,) = axes.plot([0, *(edit["edit"] for edit in edits)], model, line, label=label)
        axes.plot(
            [edit["edit"] for edit in refused],
            [edit["perplexity"] for edit in refused],
            "o",
            color=curve.get_color(),
            fillstyle="none",
        )
    axes.axhline(1000, color="#c1121f", linestyle="--", linewidth=0.8, label="collapse")
    axes.set(yscale="log", xlabel="edit", ylabel="perplexity of watched sentences")
    figure.legend(frameon=False, loc="outside upper left")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Prints the table of the runs; with --curves FILE draws them instead."""
    arguments = sys.argv[1:]
    if arguments[0] == "--curves":
        curves([Path(run) for run in arguments[2:]], Path(arguments[1]))
        return
    sys.stdout.write(
        "| method | second moment | requests | n | efficacy % | paraphrase % | neighborhood % "
        "| denominator | key cosine | mean perplexity | highest | collapsed |\n"
        + "|---" * 12
        + "|\n"
        + "\n".join(line for run in arguments for line in table(Path(run)))
        + "\n"
    )


if __name__ == "__main__":
    main()
