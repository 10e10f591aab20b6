"""The offline model in dialogue: what it keeps, finds and says."""

from __future__ import annotations

import json
from pathlib import Path
from time import process_time

import pytest

from mneme.orchestrator.models.offline import OfflineModel
from mneme.orchestrator.models.offline.summary import summarise
from mneme.orchestrator.models.offline.understanding import understand
from mneme.orchestrator.models.port import Turn, complete
from mneme.orchestrator.prompt import PRESSURE_NOTICE, event_text
from tests.unit.orchestrator.clock import NOON
from tests.unit.orchestrator.dialogue import Dialogue

GROUPS: list[list[tuple[str, str, str]]] = json.loads(Path(__file__).with_name("offline_pairs.json").read_text("utf-8"))
DIALOGUES: list[tuple[list[str], str, str, str]] = json.loads(
    Path(__file__).with_name("offline_dialogues.json").read_text("utf-8")
)
SENTENCES: dict[str, list[str]] = json.loads(Path(__file__).with_name("offline_sentences.json").read_text("utf-8"))
PAIRS = [pair for group in GROUPS for pair in group]


@pytest.fixture(scope="module")
def model() -> OfflineModel:
    return OfflineModel()


@pytest.fixture
def dialogue(model: OfflineModel) -> Dialogue:
    return Dialogue(model)


@pytest.mark.parametrize(("fact", "question", "answer"), PAIRS)
async def test_one_fact_is_found_again(dialogue: Dialogue, fact: str, question: str, answer: str) -> None:
    await dialogue.say(fact)
    dialogue.new_window()
    assert answer in await dialogue.say(question)


@pytest.mark.parametrize(("told", "asked", "holds", "lacks"), DIALOGUES)
async def test_what_was_told_in_many_ways(
    dialogue: Dialogue, told: list[str], asked: str, holds: str, lacks: str
) -> None:
    for statement in told:
        await dialogue.say(statement)
    dialogue.new_window()
    answer = await dialogue.say(asked)
    assert holds in answer
    assert not lacks or lacks not in answer


@pytest.mark.parametrize("sentence", SENTENCES["statements"])
def test_statements_are_kept_however_they_are_put(sentence: str) -> None:
    understood = understand(sentence)
    assert understood.statements
    assert not understood.forget


@pytest.mark.parametrize("sentence", SENTENCES["questions"])
def test_questions_are_questions_with_or_without_a_mark(sentence: str) -> None:
    understood = understand(sentence)
    assert understood.questions or understood.topics


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0][0])
async def test_one_fact_is_found_among_fifteen(dialogue: Dialogue, group: list[tuple[str, str, str]]) -> None:
    for fact, _, _ in group:
        await dialogue.say(fact)
    missed = []
    for fact, question, answer in group:
        dialogue.new_window()
        if answer not in await dialogue.say(question):
            missed.append((fact, question))
    assert len(missed) <= 1, missed


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0][0])
async def test_several_facts_in_one_message_are_all_kept(dialogue: Dialogue, group: list[tuple[str, str, str]]) -> None:
    await dialogue.say(" ".join(f"{fact.rstrip('.。')}. " for fact, _, _ in group[:5]).replace("。. ", "。"))
    for _, _, answer in group[:5]:
        assert answer in dialogue.human


@pytest.mark.parametrize(
    ("before", "after", "question", "new", "old"),
    [
        ("I live in Utrecht.", "I moved to Ljubljana last month.", "Where do I live?", "Ljubljana", "Utrecht"),
        ("My shoe size is 39.", "My shoe size is now 40.", "What's my shoe size?", "40", "39"),
        ("I work at a brewery.", "I joined a law firm.", "Where do I work?", "law firm", "brewery"),
        (
            "My favourite colour is teal.",
            "Actually, my favourite colour is ochre.",
            "Favourite colour?",
            "ochre",
            "teal",
        ),
        ("I eat meat.", "I no longer eat meat.", "Do I eat meat?", "no longer", "The user eats meat"),
        ("我住在厦门。", "我上个月搬到了昆明。", "我住在哪里？", "昆明", "厦门"),
        ("我的手机号是1390000。", "我的手机号改成1380000了。", "我的手机号是多少？", "1380000", "1390000"),
        ("我叫阿强。", "我改名叫阿明了。", "我叫什么？", "阿明", "阿强"),
    ],
)
async def test_news_replace_what_they_change(
    dialogue: Dialogue, before: str, after: str, question: str, new: str, old: str
) -> None:
    await dialogue.say(before)
    await dialogue.say(after)
    assert "core_memory_replace" in dialogue.called
    dialogue.new_window()
    answer = await dialogue.say(question)
    assert new in answer
    assert old not in answer
    assert old not in dialogue.human


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("My sister is a nurse.", "My sister lives in Bern."),
        ("I have a dog.", "I have a cat."),
        ("My friend is Bo.", "My friend is Li."),
        ("我有一只狗。", "我现在还养了一只猫。"),
        ("我妹妹是护士。", "我妹妹住在上海。"),
    ],
)
async def test_what_can_be_true_together_is_kept_together(dialogue: Dialogue, one: str, other: str) -> None:
    await dialogue.say(one)
    await dialogue.say(other)
    assert "core_memory_replace" not in dialogue.called
    assert len(dialogue.human.splitlines()) == 2


async def test_what_was_before_is_found_in_the_conversation(dialogue: Dialogue) -> None:
    await dialogue.say("I live in Utrecht.")
    await dialogue.say("I moved to Ljubljana.")
    dialogue.new_window()
    answer = await dialogue.say("Where did I live before?")
    assert "Utrecht" in answer
    assert "conversation of 2026-01-02" in answer


async def test_a_fact_and_a_question_in_one_message(dialogue: Dialogue) -> None:
    await dialogue.say("I play the bassoon.")
    answer = await dialogue.say("I also ride a unicycle. Which instrument do I play?")
    assert "unicycle" in dialogue.human
    assert "unicycle" in answer
    assert "bassoon" in answer


async def test_the_same_fact_is_kept_once(dialogue: Dialogue) -> None:
    await dialogue.say("I play the bassoon.")
    assert "already" in await dialogue.say("I play the bassoon!")
    assert dialogue.human.count("bassoon") == 1


async def test_it_says_what_it_is_and_does_not_repeat_it(dialogue: Dialogue) -> None:
    assert "not a language model" in await dialogue.say("I play the bassoon.")
    assert "not a language model" not in await dialogue.say("I ride a unicycle.")
    assert "not a language model" in await dialogue.say("Are you a real person?")
    assert "不是语言模型" in await dialogue.say("你是谁？")


@pytest.mark.parametrize("text", ["Hello!", "Thanks a lot.", "你好！", "谢谢", "ok", "Good morning", "👍", "..."])
async def test_small_talk_is_answered_and_not_remembered(dialogue: Dialogue, text: str) -> None:
    assert await dialogue.say(text)
    assert dialogue.called == ["send_message"]
    assert dialogue.human == ""


async def test_questions_about_the_world_are_not_answered_from_memory(dialogue: Dialogue) -> None:
    await dialogue.say("I play the bassoon.")
    answer = await dialogue.say("What is the boiling point of mercury?")
    assert "found nothing" in answer
    assert "bassoon" not in answer


@pytest.mark.parametrize("text", ["Write a poem about the sea.", "请帮我写一首诗"])
async def test_work_that_needs_a_language_model_is_declined(dialogue: Dialogue, text: str) -> None:
    answer = await dialogue.say(text)
    assert "language model" in answer or "语言模型" in answer
    assert dialogue.human == ""


async def test_the_time_comes_from_the_clock(dialogue: Dialogue) -> None:
    assert "Sunday 2026-11-22" in await dialogue.say("What time is it?")
    assert "Sunday 2026-11-22" in await dialogue.say("现在几点了？")


@pytest.mark.parametrize("question", ["What did we talk about yesterday?", "我们昨天聊了什么？"])
async def test_talk_of_a_day_comes_from_the_search_by_date(dialogue: Dialogue, question: str) -> None:
    await dialogue.say("I play the bassoon.")
    dialogue.new_window()
    assert "bassoon" in await dialogue.say(question)
    assert dialogue.called[-2:] == ["conversation_search_date", "send_message"]
    assert "bassoon" not in await dialogue.say("What did we discuss on 2025-03-01?")


async def test_forgetting(dialogue: Dialogue) -> None:
    await dialogue.say("I play the bassoon. My locker number is 17.")
    answer = await dialogue.say("Forget my locker number.")
    assert "17" in answer
    assert "17" not in dialogue.human
    assert "bassoon" in dialogue.human
    assert "nothing to forget" in await dialogue.say("Forget my zodiac sign.")


async def test_a_full_block_sends_facts_to_the_archive(model: OfflineModel) -> None:
    dialogue = Dialogue(model, limit=40)
    await dialogue.say("I play the bassoon.")
    answer = await dialogue.say("My unicycle is in the garage of my aunt.")
    assert "archival" in answer
    assert any("unicycle" in text for text in dialogue.archive)
    dialogue.new_window()
    assert "garage" in await dialogue.say("Where is my unicycle?")


async def test_a_refused_append_is_tried_elsewhere(dialogue: Dialogue) -> None:
    dialogue.broken = {"core_memory_append"}
    await dialogue.say("I play the bassoon.")
    assert dialogue.archive == ["The user plays the bassoon."]


async def test_when_nothing_can_be_saved_the_user_is_told(dialogue: Dialogue) -> None:
    dialogue.broken = {"core_memory_append", "archival_memory_insert"}
    assert "could not save" in await dialogue.say("I play the bassoon.")


async def test_a_read_only_block_is_left_alone(model: OfflineModel) -> None:
    dialogue = Dialogue(model, read_only=True)
    await dialogue.say("I play the bassoon.")
    assert dialogue.human == ""
    assert dialogue.archive


async def test_a_broken_search_is_told_and_does_not_stop_the_answer(dialogue: Dialogue) -> None:
    await dialogue.say("I play the bassoon.")
    dialogue.broken = {"archival_memory_search"}
    answer = await dialogue.say("Which instrument do I play?")
    assert "bassoon" in answer
    assert "does not answer" in answer


async def test_memory_pressure_saves_what_the_window_holds(dialogue: Dialogue) -> None:
    dialogue.turns = [Turn("user", "I play the bassoon."), Turn("assistant", "Hm.")]
    await dialogue.say("Hello.")
    assert await dialogue.on(Turn("system", PRESSURE_NOTICE.format(percent=75))) == ""
    assert "bassoon" in dialogue.human


async def test_pressure_in_the_middle_of_a_turn_does_not_lose_the_answer(dialogue: Dialogue) -> None:
    dialogue.turns = [Turn("user", "I play the bassoon."), Turn("assistant", "Hm."), Turn("user", "What do I play?")]
    assert "bassoon" in await dialogue.on(Turn("system", PRESSURE_NOTICE.format(percent=75)))
    assert "bassoon" in dialogue.human


async def test_events_run_without_a_user(dialogue: Dialogue) -> None:
    timed = Turn("system", event_text("timed event", "Water the plants.", NOON))
    assert await dialogue.on(timed) == "Water the plants."
    assert await dialogue.on(Turn("system", event_text("interaction", "The user logged in.", NOON))) == ""


async def test_what_search_found_is_not_stored_as_news(dialogue: Dialogue) -> None:
    dialogue.said.append("My cousin keeps bees.")
    await dialogue.say("What does my cousin keep?")
    assert dialogue.human == ""


async def test_equal_requests_get_equal_answers(dialogue: Dialogue) -> None:
    dialogue.turns = [Turn("user", "I play the bassoon. What is my name?")]
    assert await complete(dialogue.model, dialogue.request) == await complete(OfflineModel(), dialogue.request)


async def test_a_document_goes_to_the_archive_whole(dialogue: Dialogue) -> None:
    document = "\n".join(f"Paragraph {n}, in which I, my aunt and we ask, well, what is it?" for n in range(200))
    await dialogue.say(document)
    assert dialogue.called == ["archival_memory_insert", "send_message"]
    assert "Paragraph 199" in dialogue.archive[0]


@pytest.mark.parametrize(
    "piece", ["I, ", "what, ", "my a b c ", "我，", "什么，", "a.", "please ", "请", "[x] ", "hi ", "，"]
)
async def test_no_text_takes_long(dialogue: Dialogue, piece: str) -> None:
    dialogue.turns = [Turn("user", piece * (3_900 // len(piece)) + "?")]
    before = process_time()
    await complete(dialogue.model, dialogue.request)
    assert process_time() - before < 2.0


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n", "?", "？", "a" * 20_000, "我" * 20_000, '"', "{}", '{"message": 5}', "[x] ", "I", "我", "\x00"],
)
async def test_odd_messages_get_an_answer(dialogue: Dialogue, text: str) -> None:
    dialogue.turns = [Turn("user", text)]
    output = await complete(dialogue.model, dialogue.request)
    assert output.tool_calls or output.text


def test_a_summary_keeps_the_facts_of_the_one_before() -> None:
    first = summarise(
        "Summary of everything before:\n(none)\n\nMessages that follow:\n"
        "user: I play the bassoon. What should I practise?\nassistant: [send_message {}]\nuser: My aunt keeps bees.",
        500,
    )
    assert "The user plays the bassoon." in first
    assert "aunt" in first
    second = summarise(
        f"Summary of everything before:\n{first}\n\nMessages that follow:\nuser: I live in Ljubljana.\nuser: Hello.",
        500,
    )
    assert "continues summary 1" in second
    assert "bassoon" in second
    assert "Ljubljana" in second
    assert "Hello" not in second


def test_a_summary_has_a_bound_and_keeps_the_newest() -> None:
    said = "\n".join(f"user: My neighbour number {n} has {n} doves." for n in range(200))
    text = summarise(f"Summary of everything before:\n(none)\n\nMessages that follow:\n{said}", 100)
    assert len(text) <= 200
    assert "199" in text
