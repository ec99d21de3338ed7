import torch

from data_modules.records import EditRequest
from lightning_modules.editing.replies import replies
from lightning_modules.methods.rome import ROME
from tests.tiny import END, tiny_chat_tokenizer, tiny_editor, tiny_model

REQUEST = EditRequest(0, "{} is the capital of", "Paris", "Italy")


def test_what_is_said_is_the_greedy_continuation_up_to_the_end_of_the_line():
    editor = tiny_editor(ROME, tiny_model("gpt2"))
    (text,) = replies(editor, [REQUEST], 16)
    tokens = editor.tokenizer("Paris is the capital of", return_tensors="pt")["input_ids"]
    for _ in range(16):
        tokens = torch.cat([tokens, editor.lm(tokens).logits[:, -1].argmax(-1)[None]], 1)
        if tokens[0, -1] == 0:  # the end of the text
            break
    whole = editor.tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert text == whole.removeprefix("Paris is the capital of").partition("\n")[0].strip()


def test_a_chat_model_is_asked_in_its_template(monkeypatch):
    asked = []

    def generate(lm, tokenizer, prompts, until, max_new_tokens):
        asked.append((*prompts, *until))
        return [" Italy"]

    monkeypatch.setattr("lightning_modules.editing.replies.generate", generate)
    editor = ROME(lm="tiny", layer=1, second_moment="identity", contexts={4: 2}, chat="both")
    editor.attach(tiny_model("gpt2"), tiny_chat_tokenizer())
    assert replies(editor, [REQUEST], 16) == ["Italy"]
    chat = f"<user>\nParis is the capital of{END}\n<assistant>\n"
    assert asked == [(chat, "\n", END)]
