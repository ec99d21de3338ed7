import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize

from lightning_modules.language_model.gguf_files import gguf_file
from lightning_modules.language_model.loading import fingerprint, load
from tests.gguf_models import CHAT, FAMILIES, quantisable_model, write_gguf
from tests.tiny import save_tiny, tiny_tokenizer

TEXT = "Rome is the capital of Italy. <|endoftext|>"
MAP = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf", quantisable_model())


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_were_never_quantised_give_the_same_logits(tmp_path, family):
    original = quantisable_model(family)
    lm, tokenizer = load(str(write_gguf(tmp_path / "tiny.gguf", original, "F32")))
    tokens = torch.tensor([tokenizer(TEXT)["input_ids"]])
    torch.testing.assert_close(lm(tokens).logits, original(tokens).logits)
    assert not hasattr(lm.config, "dequantised_from")


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "Q8_0"])
def test_quantised_weights_are_what_their_blocks_say(tmp_path, kind):
    original = quantisable_model()
    lm, _ = load(str(write_gguf(tmp_path / "tiny.gguf", original, kind)))
    typed = GGMLQuantizationType[kind]
    blocks = quantize(original.get_parameter(MAP).numpy(), typed)
    expected = torch.from_numpy(dequantize(blocks, typed))
    assert torch.equal(lm.get_parameter(MAP), expected)
    assert not torch.equal(expected, original.get_parameter(MAP))
    assert f" {kind}" in lm.config.dequantised_from


def test_tokenizer_of_the_file_encodes_as_the_one_that_was_written(intact):
    _, tokenizer = load(str(intact))
    assert tokenizer(TEXT)["input_ids"] == tiny_tokenizer()(TEXT)["input_ids"]
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert tokenizer.chat_template == CHAT


def test_weights_come_in_the_dtype_asked_for(intact):
    lm, _ = load(str(intact), "bfloat16")
    assert {parameter.dtype for parameter in lm.parameters()} == {torch.bfloat16}


def test_folder_with_one_gguf_is_the_file(intact):
    assert gguf_file(str(intact.parent)) == intact
    assert fingerprint(*load(str(intact.parent))) == fingerprint(*load(str(intact)))


def test_safetensors_of_a_folder_win_over_its_gguf(tmp_path, intact):
    folder = save_tiny(tmp_path, "llama")
    (folder / intact.name).write_bytes(intact.read_bytes())
    assert gguf_file(str(folder)) is None


def test_name_on_the_hub_is_no_gguf():
    assert gguf_file("org/no-such-model") is None


def test_saved_copy_is_the_same_model_and_still_says_what_it_was(intact, tmp_path):
    lm, tokenizer = load(str(intact))
    lm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    copy, its_tokenizer = load(str(tmp_path))
    assert fingerprint(copy, its_tokenizer) == fingerprint(lm, tokenizer)
    assert copy.config.dequantised_from == lm.config.dequantised_from
    assert copy.config.dequantised_from.startswith("tiny.Q8_0.gguf (")
    assert its_tokenizer.chat_template == CHAT


def refused(name):
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        load(str(name))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_file_is_said_to_be_missing():
    assert refused("no/such.gguf").startswith("there is no GGUF file 'no/such.gguf'")


def test_folder_with_two_ggufs_asks_for_one(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    asked = f"2 GGUF files (a.gguf, b.gguf); name one of them, such as --model.lm {tmp_path}"
    assert asked in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"# Keel\n" * 1000])
def test_other_file_is_no_gguf(tmp_path, content):
    (tmp_path / "README.md").write_bytes(content)
    assert "README.md is not a GGUF file; give one, or a folder" in refused(tmp_path / "README.md")


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.2, 0.5, 0.99])
def test_truncated_file_is_said_to_be_truncated(tmp_path, intact, share):
    whole = intact.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: max(8, int(share * len(whole)))])
    assert "cut.gguf is truncated, damaged or of a newer format" in refused(cut)


def test_type_that_cannot_be_dequantised_is_named(tmp_path):
    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    tensor = torch.zeros(4, 40, dtype=torch.uint8).numpy()
    writer.add_tensor("output.weight", tensor, raw_dtype=GGMLQuantizationType.Q8_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "holds 'output.weight' as Q8_1, which cannot be dequantised" in (
        refused(tmp_path / "tiny.gguf")
    )


def changed(file, intact, old, new):
    content = intact.read_bytes()
    assert len(old) == len(new)
    assert old in content
    file.write_bytes(content.replace(old, new))
    return file


def test_family_that_transformers_cannot_read_is_said_to_be(tmp_path, intact):
    other = changed(tmp_path / "tiny.gguf", intact, b"llama", b"lamma")
    assert "cannot read the model in" in refused(other)


def test_file_without_tokenizer_asks_for_one(tmp_path, intact):
    other = changed(tmp_path / "tiny.gguf", intact, b"tokenizer.ggml", b"t0kenizer.ggml")
    assert "holds no tokenizer" in refused(other)


def test_part_of_a_model_is_refused_before_weights_are_drawn_by_chance(tmp_path):
    part = write_gguf(tmp_path / "part.gguf", quantisable_model(), leave_out="blk.2.")
    assert "for 9 parameters of its model, such as 'model.layers.2." in refused(part)
