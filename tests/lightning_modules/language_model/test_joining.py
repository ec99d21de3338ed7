import pytest

from lightning_modules.language_model.joining import separator


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("The capital of France is", "Paris"),
        ("It lies in (the north of)", "Italy"),
        ('He wrote "Faust"', "in German"),
        ("He wrote “Faust”", "in German"),
        ("John O'Neill's", "tongue"),
        ("the dogs'", "owner"),
        ("It was written in", ".NET"),
        ("The mean is", "-5 degrees"),
        ("The band is", '"Queen"'),
        ("The band is", "(unknown)"),
        ("Answer:", "Paris"),
        ("[/INST]", "Paris"),
        ("The capital of Japan is", "東京"),
        ("수도는", "서울"),
        ("🙂", "Rome"),
        ("", "Rome"),
    ],
)
def test_one_blank_stands_before_a_word(prompt, target):
    assert separator(prompt, target) == " "


@pytest.mark.parametrize("end", ["\n", "\n\n", " ", "\t", "\u00a0", "\u3000"])
def test_nothing_stands_behind_white_space(end):
    assert separator(f"assistant{end}", "Paris") == ""


@pytest.mark.parametrize("target", [", France", ".", "!", "?!", "…", ") is", "%", "'s", "-based"])
def test_nothing_stands_before_punctuation(target):
    assert separator("The capital of Rome", target) == ""


@pytest.mark.parametrize(
    "prompt", ["the (", "the [", 'He said "', "He said “", "„", '"', "((", "('"]
)
def test_nothing_stands_behind_an_opening_bracket_or_quote(prompt):
    assert separator(prompt, "Paris") == ""


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("日本の首都は", "東京"),
        ("法国的首都是", "Paris"),
        ("データ", "ー"),
        ("首都\uff1a", "北京"),
        ("「東京」", "は"),
        ("เมืองหลวงของฝรั่งเศสคือ", "ปารีส"),
        ("ພາສາ", "ລາວ"),
        ("𠀋", "𠀋"),
        ("Tokyo", "、東京"),
    ],
)
def test_nothing_stands_in_scripts_without_blanks(prompt, target):
    assert separator(prompt, target) == ""
