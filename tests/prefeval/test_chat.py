"""Chat templates: one BOS, the right end of turn, a padding id that ends nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import CHAT_TEMPLATE, make_tiny_tokenizer
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from prefeval import chat
from prefeval.errors import ConfigError
from prefeval.types import Message, Prompt

PROMPT = Prompt.from_text("Why is the sky blue?", id="p")
TURNS = Prompt("t", (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Name a fox.")))
HEADERS = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
ASK = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# name -> (template, tokens added to the tokenizer, whether as special ones, its EOS, the token that ends a turn)
STYLES: dict[str, tuple[str, list[str], bool, str, str]] = {
    "tiny": (CHAT_TEMPLATE, [], True, "<|end|>", "<|end|>"),
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], True, "<|im_end|>", "<|im_end|>"),
    "chatml on a base tokenizer": (CHATML, ["<|im_start|>", "<|im_end|>"], True, "<|end|>", "<|im_end|>"),
    "chatml, ordinary tokens": (CHATML, ["<|im_start|>", "<|im_end|>"], False, "<|end|>", "<|im_end|>"),
    "end of turn, then end of text": (
        HEADERS + "<|done|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% else %}<|eot|>{% endif %}",
        ["<|done|>", "<|eot|>"],
        True,
        "<|eot|>",
        "<|done|>",
    ),
    "eos after the reply alone": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
        "{% else %}[Q] {{ m['content'] }} [/Q]{% endif %}{% endfor %}",
        [],
        True,
        "<|end|>",
        "<|end|>",
    ),
    "new lines that are tokens of their own": (
        HEADERS + "\n\n<|done|>{% endfor %}" + ASK,
        ["\n\n", "<|done|>"],
        False,
        "<|end|>",
        "<|done|>",
    ),
    "closes nothing": (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        [],
        True,
        "<|end|>",
        "<|end|>",
    ),
}


def styled(name: str) -> Any:
    template, added, special, eos, _ = STYLES[name]
    tokenizer = make_tiny_tokenizer()
    if added:
        tokenizer.add_tokens([AddedToken(t, special=special, normalized=False) for t in added])
    tokenizer.eos_token = eos
    tokenizer.chat_template = template
    return tokenizer


def adding_bos(tokenizer: Any) -> Any:
    """The tokenizer as many are published: a plain call puts BOS in front by itself."""
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    assert tokenizer("a")["input_ids"][0] == bos
    return tokenizer


@pytest.mark.parametrize("prompt", [PROMPT, TURNS], ids=["one turn", "three turns"])
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, None], ids=["template", "base model"])
@pytest.mark.parametrize("by_itself", [True, False])
def test_one_bos_whatever_the_tokenizer_adds_by_itself(template: str | None, by_itself: bool, prompt: Prompt) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    if by_itself:
        adding_bos(tokenizer)
    ids, _ = chat.encode_pair(tokenizer, prompt, "Light scatters.")
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_template_with_two_bos_is_refused() -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    with pytest.raises(ConfigError, match="two BOS"):
        chat.encode_prompt(tokenizer, PROMPT)
    with pytest.raises(ConfigError, match="two BOS"):
        chat.template_hash(tokenizer)


def test_a_base_model_without_bos_of_its_own_gets_none() -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template, tokenizer.bos_token = None, "<|end|>"  # as GPT-2: BOS and EOS are one token
    assert tokenizer.decode(chat.encode_prompt(tokenizer, PROMPT)) == "Why is the sky blue?\n"


@pytest.mark.parametrize("name", STYLES)
def test_the_end_token_is_what_closes_a_turn(name: str) -> None:
    tokenizer = styled(name)
    end = tokenizer.convert_tokens_to_ids(STYLES[name][4])
    assert chat.end_token_id(tokenizer) == end
    assert chat.end_token_ids(tokenizer) == tuple(sorted({end, tokenizer.eos_token_id}))
    assert chat.encode_completion(tokenizer, "Blue.")[-1] == end


@pytest.mark.parametrize("name", STYLES)
def test_padding_never_ends_a_turn(name: str) -> None:
    tokenizer = styled(name)
    tokenizer.pad_token = tokenizer.eos_token  # as many chat models have it
    assert chat.safe_pad_id(tokenizer) not in (*chat.end_token_ids(tokenizer), tokenizer.bos_token_id)


def test_padding_falls_back_to_reserved_tokens_or_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    def bare() -> Any:
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="a")),
            bos_token="<s>",
            eos_token="</s>",
        )

    with pytest.raises(ConfigError, match="pad token"):
        chat.safe_pad_id(bare())
    tokenizer = bare()
    tokenizer.add_tokens([AddedToken("<|reserved_0|>", special=True)])
    assert chat.safe_pad_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|reserved_0|>")


@pytest.mark.parametrize("name", STYLES)
def test_the_prompt_is_a_prefix_of_the_pair(name: str) -> None:
    tokenizer = styled(name)
    for prompt in (PROMPT, TURNS):
        head = chat.encode_prompt(tokenizer, prompt)
        ids, count = chat.encode_pair(tokenizer, prompt, "Light scatters, and so on.")
        assert ids[:count] == head
        assert chat.decode(tokenizer, [i for i in ids[count:] if i != chat.end_token_id(tokenizer)]) == (
            "Light scatters, and so on."
        )


@pytest.mark.parametrize("name", ["tiny", "chatml", "chatml, ordinary tokens"])
def test_a_pair_is_what_the_template_makes_of_the_whole_conversation(name: str) -> None:
    tokenizer = styled(name)
    ids, _ = chat.encode_pair(tokenizer, TURNS, "A red one.")
    whole = [*TURNS.as_dicts(), {"role": "assistant", "content": "A red one."}]
    rendered = tokenizer.apply_chat_template(whole, tokenize=False)
    assert tokenizer.decode(ids) == rendered.removesuffix("\n")


def test_the_hash_follows_the_template_and_nothing_else() -> None:
    same = {chat.template_hash(make_tiny_tokenizer()) for _ in range(2)}
    assert len(same) == 1
    others = {chat.template_hash(styled(name)) for name in STYLES}
    assert len(others) == len({template for template, *_ in STYLES.values()})
    assert same < others
    systemless = make_tiny_tokenizer()
    systemless.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
    )
    assert chat.template_hash(systemless) not in same


def test_decode_drops_special_tokens_and_outer_space() -> None:
    tokenizer = make_tiny_tokenizer()
    ids = tokenizer("  Red , green .\n", add_special_tokens=False)["input_ids"]
    assert chat.decode(tokenizer, [*ids, tokenizer.eos_token_id]) == "Red , green ."


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>so\nso</think>\n\nBlue.", "Blue."),
        ("<Thinking>a</Thinking> <reasoning>b</reasoning>Blue.", "Blue."),
        ("<think>never closed", ""),
        ("Blue. <think>cut off", "Blue."),
        ("I think so.", "I think so."),
        ("<think>a</reasoning>", ""),
    ],
)
def test_strip_reasoning(text: str, kept: str) -> None:
    assert chat.strip_reasoning(text) == kept


def test_with_instruction_goes_behind_the_last_user_turn() -> None:
    asked = chat.with_instruction(TURNS, "Be brief.")
    assert [m.content for m in asked.messages] == ["Hi", "Yes?", "Name a fox. Be brief."]
    assert asked.id == TURNS.id
    assert chat.with_instruction(TURNS, "") == TURNS
