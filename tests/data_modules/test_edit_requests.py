import json
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from data_modules.edit_requests import EditingDataModule, ResumableLoader, selection
from data_modules.embedded import embedded_requests, embedded_sentences
from data_modules.records import EditRequest, WatchedText
from data_modules.resumable import shuffled_loader
from data_modules.selection import edits_of

EDITS = 7


def prepared(**arguments: object) -> EditingDataModule:
    data = EditingDataModule(**arguments)
    data.setup("fit")
    return data


def requests(*case_ids: int) -> list[EditRequest]:
    return [EditRequest(case_id, "{} is", "Rome", "x") for case_id in case_ids]


class Recorder(L.LightningModule):
    """Takes one step per edit, as an editor does, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.edited: list[int] = []

    def training_step(self, batch: list[EditRequest], batch_idx: int) -> None:
        assert all(isinstance(request, EditRequest) for request in batch)
        self.edited += [request.case_id for request in batch]
        self.optimizers().step()

    def validation_step(self, batch: WatchedText, batch_idx: int) -> None:
        assert isinstance(batch, WatchedText)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=1.0)


class SavedAfterWatching(L.Callback):
    """Keeps a checkpoint after each validation, in the middle of the training loop's turn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"watched={trainer.global_step}.ckpt")


def run(
    folder: Path, resume: str | None = None, data: dict | None = None, **options: object
) -> list[int]:
    """Case ids seen in a fit that keeps a checkpoint after every edit."""
    keeper = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[keeper, SavedAfterWatching(folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 1, "check_val_every_n_epoch": None, "val_check_interval": 1} | options,
    )
    recorder = Recorder()
    module = EditingDataModule(limit=EDITS, watch_limit=4, **data or {})
    trainer.fit(recorder, datamodule=module, ckpt_path=resume and str(folder / resume))
    return recorder.edited


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*heckpoint directory")
class TestResume:
    @pytest.mark.parametrize("watch", [0, 1.0])
    @pytest.mark.parametrize("done", [1, 4, EDITS - 1])
    def test_an_interrupted_run_goes_on_with_the_remaining_edits(
        self, tmp_path: Path, done: int, watch: float
    ) -> None:
        first = run(tmp_path, limit_val_batches=watch, max_steps=done)
        second = run(tmp_path, f"step={done}.ckpt", limit_val_batches=watch)
        assert len(first) == done
        assert first + second == list(range(EDITS))

    @pytest.mark.parametrize("moment", ["step", "watched"])
    @pytest.mark.parametrize("done", [1, 3, EDITS - 1])
    def test_a_checkpoint_amid_a_whole_run_counts_the_edits_made(
        self, tmp_path: Path, done: int, moment: str
    ) -> None:
        whole = run(tmp_path)
        assert run(tmp_path, f"{moment}={done}.ckpt") == whole[done:]

    def test_batches_are_counted_not_requests(self, tmp_path: Path) -> None:
        whole = run(tmp_path, data={"batch_size": 2})
        assert run(tmp_path, "step=2.ckpt", data={"batch_size": 2}) == whole[4:]

    @pytest.mark.parametrize("done", [3, EDITS, EDITS + 2])
    def test_a_later_epoch_is_whole(self, tmp_path: Path, done: int) -> None:
        whole = run(tmp_path, max_epochs=2)
        assert whole == [*range(EDITS), *range(EDITS)]
        assert run(tmp_path, f"step={done}.ckpt", max_epochs=2) == whole[done:]

    def test_a_limit_of_train_batches_counts_from_the_first(self, tmp_path: Path) -> None:
        whole = run(tmp_path)
        assert run(tmp_path, "step=2.ckpt", limit_train_batches=5) == whole[2:5]

    @pytest.mark.parametrize("done", [3, EDITS, EDITS + 2])
    def test_a_resumed_epoch_has_the_same_order(self, tmp_path: Path, done: int) -> None:
        shuffled = {"data": {"shuffle": True, "seed": 4}, "max_epochs": 2}
        whole = run(tmp_path, **shuffled)
        assert whole[:EDITS] != whole[EDITS:]
        assert sorted(whole[:EDITS]) == sorted(whole[EDITS:]) != whole[:EDITS]
        assert run(tmp_path, f"step={done}.ckpt", **shuffled) == whole[done:]


def test_shuffling_keeps_the_requests_of_an_edit_together() -> None:
    requests = [r._replace(joined=n % 3 == 1) for n, r in enumerate(embedded_requests()[:9])]
    loader = shuffled_loader(requests, 2, seed=0)
    epochs = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        epochs.append(list(loader))
        edits = [edit for batch in epochs[-1] for edit in edits_of(batch)]
        assert sorted(edits) == sorted(edits_of(requests))
        assert [len(edits_of(batch)) for batch in epochs[-1]] == [2, 2, 2]
        assert len(loader) == 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_edits_that_stand_alone_are_not_shuffled_by_epoch() -> None:
    data = prepared(shuffle=True)
    data.alone = True
    with pytest.raises(ValueError, match=r"data.shuffle orders each epoch.*give data.seed"):
        data.train_dataloader()


def test_a_restored_loader_skips_once_and_keeps_its_length() -> None:
    loader = ResumableLoader(range(5), batch_size=1, collate_fn=list)
    loader.load_state_dict({"yielded": 3})
    assert loader.state_dict() == {"yielded": 3}
    assert len(loader) == 5
    assert list(loader) == [[3], [4]]
    assert list(loader) == [[0], [1], [2], [3], [4]]


def test_nothing_but_defaults_feeds_what_is_embedded() -> None:
    data = prepared()
    edits = [request for batch in data.train_dataloader() for request in batch]
    texts = [text for batch in data.val_dataloader() for text in batch.texts]
    assert edits == embedded_requests()
    assert sorted(texts) == sorted(embedded_sentences())


def test_batches_are_lists_of_requests_in_order() -> None:
    data = prepared(limit=5, batch_size=2)
    batches = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [request for batch in batches for request in batch] == embedded_requests()[:5]
    assert list(data.test_dataloader()) == list(data.predict_dataloader()) == batches


def test_watched_texts_run_from_short_to_long_and_tell_their_place(tmp_path: Path) -> None:
    corpus = [{"Corpus": "web", "Text": text} for text in [" ccc", "a", "dddd", "b"]]
    (tmp_path / "w.json").write_text(json.dumps(corpus))
    loader = prepared(watch=str(tmp_path / "w.json"), watch_batch_size=3).val_dataloader()
    assert list(loader) == [([1, 3, 0], ["a", "b", " ccc"]), ([2], ["dddd"])]


def test_selection_is_made_once(tmp_path: Path) -> None:
    case = {"prompt": "Oslo is", "subject": "Oslo", "target_new": "x"}
    (tmp_path / "a.json").write_text(json.dumps([case]))
    data = prepared(path=str(tmp_path / "a.json"))
    (tmp_path / "a.json").unlink()
    data.setup("test")
    assert [request.subject for request in data.requests] == ["Oslo"]


def test_cases_are_kept_in_the_wanted_order_with_their_namesakes() -> None:
    kept = selection(requests(1, 2, 3, 2), case_ids=[3, 2], seed=None)
    assert [request.case_id for request in kept] == [3, 2, 2]


def test_a_seed_shuffles_before_the_limit() -> None:
    shuffled = prepared(seed=1, limit=20).requests
    assert shuffled == prepared(seed=1, limit=20).requests
    assert shuffled != prepared(seed=2, limit=20).requests
    assert set(shuffled) != set(embedded_requests()[:20])


def test_unknown_cases_are_named() -> None:
    with pytest.raises(ValueError, match=r"case_ids \[8, 9\] are not in the dataset"):
        selection(requests(1, 2), case_ids=[9, 1, 8], seed=None)


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="case_ids is empty, so no request is left"):
        selection(requests(1), case_ids=[], seed=None)


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no text"):
        prepared(watch=str(tmp_path / "w.json"))


@pytest.mark.parametrize("name", ["limit", "batch_size", "watch_limit", "watch_batch_size"])
@pytest.mark.parametrize("size", [0, -1])
def test_sizes_must_be_positive(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got {size}"):
        EditingDataModule(**{name: size})


def test_what_is_not_watched_is_the_rest_of_the_embedded_sentences():
    data = EditingDataModule(limit=1, watch_limit=4)
    data.setup("fit")
    watched = [text for _, text in data.watched]
    assert sorted(data.unwatched() + watched) == sorted(embedded_sentences())
