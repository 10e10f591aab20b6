"""The guards from the outside: pairs that a cosine takes for the same, by the guard that must see the difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.semantic_cache.guards import Verdict, check, read

REFUSED = {
    "number": [
        ("Can I return shoes after 30 pairs?", "Can I return shoes after 60 pairs?"),
        ("Can twelve people use the room?", "Can twenty people use the room?"),
        ("Is this the 2nd edition of the atlas?", "Is this the third edition of the atlas?"),
        ("买一百本书有优惠吗？", "买三百本书有优惠吗？"),
        ("错误代码4041是什么意思？", "错误代码4031是什么意思？"),
    ],
    "unit": [
        ("Is a 2 m cable long enough?", "Is a 2 ft cable long enough?"),
        ("Does the laser have 5 mW?", "Does the laser have 5 MW?"),
        ("一次能搬60斤吗？", "一次能搬60吨吗？"),
        ("收到货七天内能退吗？", "收到货七个月内能退吗？"),
    ],
    "money": [
        ("Is shipping free above $50?", "Is shipping free above €50?"),
        ("I spent $50. Is shipping free?", "I spent $80. Is shipping free?"),
        ("Is shipping free above 50 dollars?", "Is shipping free above 80 dollars?"),
        ("满50元包邮吗？", "满50美元包邮吗？"),
    ],
    "date": [
        ("Are you open on 24 December?", "Are you open on 26 December?"),
        ("Are you open on Monday?", "Are you open on Sunday?"),
        ("Do you serve lunch at 1 pm?", "Do you serve lunch at 1 am?"),
        ("博物馆周一闭馆吗？", "博物馆周五闭馆吗？"),
        ("药店上午8点关门吗？", "药店晚上8点关门吗？"),
    ],
    "id": [
        ("Is the K-12 kettle in stock?", "Is the K-21 kettle in stock?"),
        ("Where is order #4711?", "Where is order #4712?"),
        ("K-12水壶有货吗？", "K-21水壶有货吗？"),
    ],
    "negation": [
        ("Is it safe to swim in the lake?", "Is it not safe to swim in the lake?"),
        ("I did not open the box. Can I return the lamp?", "I opened the box. Can I return the lamp?"),
        ("Can I pay with a card?", "Can I pay without a card?"),
        ("Which cakes contain nuts?", "Which cakes never contain nuts?"),
        ("Do all rooms have heating?", "Do all rooms except the attic have heating?"),
        ("保修包括什么？", "保修不包括什么？"),
        ("有发票可以退货吗？", "没有发票可以退货吗？"),
    ],
    "opposite": [
        ("How do I turn on the alarm?", "How do I turn off the alarm?"),
        ("When does the sale begin?", "When does the sale end?"),
        ("How do I increase the font size?", "How do I decrease the font size?"),
        ("图书馆几点开门？", "图书馆几点关门？"),
        ("怎么增大字号？", "怎么减小字号？"),
    ],
    "comparison": [
        ("Which phone is cheaper?", "Which phone is cheapest?"),
        ("What is the minimum order?", "What is the usual order?"),
        ("哪种油更健康？", "哪种油健康？"),
    ],
    "order": [
        ("What did Ann do since her exam?", "What did Ann do until her exam?"),
        ("林芳先当会长吗？", "林芳当会长吗？"),
    ],
    "tense": [
        ("Who is the head of the bank?", "Who was the head of the bank?"),
        ("Who will play in the final?", "Who played in the final?"),
        ("What does the ticket cost?", "What did the ticket cost?"),
        ("公司叫什么名字？", "公司原来叫什么名字？"),
        ("他写了几本书？", "他会写几本书？"),
        ("工厂正在生产电池吗？", "工厂生产电池吗？"),
    ],
    "modality": [
        ("Can I sign the form?", "Must I sign the form?"),
        ("Should I insure the ring?", "Can I insure the ring?"),
        ("眼药水必须停吗？", "眼药水能停吗？"),
        ("你愿意搬家吗？", "你必须搬家吗？"),
    ],
    "type": [
        ("I potted a rose. How do I prune roses?", "I potted a rose. When do I prune roses?"),
        ("How do I prune roses?", "When do I prune roses?"),
        ("Where do you repair phones?", "Why do you repair phones?"),
        ("月季什么时候修剪？", "月季怎么修剪？"),
    ],
    "quantifier": [
        ("Do all trains carry bicycles?", "Do trains carry bicycles?"),
        ("Is the lift only for staff?", "Is the lift for staff?"),
        ("电梯只给员工用吗？", "电梯给员工用吗？"),
        ("房间都有窗户吗？", "房间有窗户吗？"),
    ],
    "name": [
        ("Did Daniel Craig play the spy?", "Did Matthew Jones play the spy?"),
        ("When is Uncle Ben's birthday?", "When is Uncle Tom's birthday?"),
    ],
    "place": [
        ("Do you have a store in Norway?", "Do you have a store in Sweden?"),
        ("I live in Oslo. When does a parcel come?", "I live in Bergen. When does a parcel come?"),
        ("Where can I park in Oslo?", "Where can I park in Bergen?"),
    ],
    "person": [
        ("What is my account number?", "What is your account number?"),
        ("Can you hear me?", "Can I hear you?"),
        ("我锁门了吗？", "你锁门了吗？"),
    ],
    "word": [
        ("Can I feed my snail oats?", "Can I feed my goat oats?"),
        ("Is the leather sofa washable?", "Is the fabric sofa washable?"),
        ("Does the warranty cover scratches?", "Does the warranty cover scratches from pets?"),
        ("血压怎么降？", "血压怎么量？"),
        ("The filter leaks. Can I order a spare one?", "The hose leaks. Can I order a spare one?"),
        ("I dropped the phone. Is it covered by the warranty?", "Is the phone covered by the warranty?"),
        ("Does your phone let me use two cards?", "Does your watch let me use two cards?"),
        ("水壶坏了，可以修吗？", "台灯坏了，可以修吗？"),
        ("王丽的生日是哪天？", "王莉娜的生日是哪天？"),
    ],
    "role": [
        ("Is Emma loyal to Andrea?", "Is Andrea loyal to Emma?"),
        ("Did Olivia inherit the car?", "Was Olivia inherited by the car?"),
        ("Is there a flight from Paris to London?", "Is there a flight from London to Paris?"),
        ("How do I convert pesos to dollars?", "How do I convert dollars to pesos?"),
        ("Who called Ann yesterday?", "Who did Ann call yesterday?"),
        ("Do red shoes match blue trousers?", "Do blue shoes match red trousers?"),
        ("猫追狗吗？", "狗追猫吗？"),
        ("小王跟小李借钱吗？", "小李跟小王借钱吗？"),
        ("你听得见我吗？", "我听得见你吗？"),
        ("从武汉怎么去长沙？", "从长沙怎么去武汉？"),
    ],
}

SAME = [
    ("How do I return shoes?", "What is the best way to return shoes?"),
    ("How can I send back shoes?", "Could you please tell me how to return shoes?"),
    ("In order to reset my password, what should I do?", "How do I reset my password?"),
    ("Is it possible to pay with PayPal?", "Can I pay by PayPal?"),
    ("How much is delivery to Norway?", "What does shipping to Norway cost?"),
    ("Did Mary buy the house?", "Was the house bought by Mary?"),
    ("In Berlin, what time does the museum open?", "When does the museum open in Berlin?"),
    ("Is a 2 m cable long enough?", "Is a 200 cm cable long enough?"),
    ("Can thirty people use the hall?", "Can 30 people use the hall?"),
    ("Do you serve lunch at 1 pm?", "Do you serve lunch at 13:00?"),
    ("Is shipping free above $50?", "Is delivery free of charge above 50 dollars?"),
    ("Is Amanda close to Kelly?", "Is Kelly close to Amanda?"),
    ("Can I return a lamp without the box?", "Can I return a lamp if I don't have the box?"),
    ("Do I need a visa?", "Is a visa required?"),
    ("What colour is the sofa?", "Which color is the couch?"),
    ("I live in Oslo. How long does delivery take?", "How long does delivery take in Oslo?"),
    ("Hi! I'd like to pay with a voucher - is that possible?", "Is it possible to pay with a voucher? Thanks!"),
    ("What steps do I follow to reset the router?", "How do I reset the router?"),
    ("Sorry if this was asked before. Can boots be returned at all?", "Can I return boots?"),
    ("怎么退货？", "请问如何退货？"),
    ("运费多少钱？", "邮费是多少钱？"),
    ("礼堂能坐一千人吗？", "礼堂可以坐1000人吗？"),
    ("药店晚上8点关门吗？", "药店20:00关门吗？"),
    ("你们能不能开发票？", "你们可以开发票吗？"),
]


def refusal(first: str, second: str) -> Verdict | None:
    """The verdict that ended the list, when it was a refusal; the other way round the pair fares alike."""
    one, other = read(first), read(second)
    forth, back = check(one, other), check(other, one)
    assert forth
    assert all(verdict.passed for verdict in forth[:-1])
    assert forth[-1].passed == back[-1].passed
    return None if forth[-1].passed else forth[-1]


@pytest.mark.parametrize(
    ("guard", "first", "second"),
    [pytest.param(guard, *pair, id=f"{guard}: {pair[1]}") for guard, pairs in REFUSED.items() for pair in pairs],
)
def test_a_small_difference_is_seen_by_its_guard(guard: str, first: str, second: str) -> None:
    """Near misses that a cosine serves (Redis vLLM Semantic Router 36, 160; GPTCache 388; hydra 945)."""
    found = refusal(first, second)
    assert found is not None
    assert found.guard == guard
    assert found.detail


@pytest.mark.parametrize(("first", "second"), SAME, ids=[first for first, _ in SAME])
def test_the_same_question_in_other_words_passes_all_guards(first: str, second: str) -> None:
    assert refusal(first, second) is None


def test_a_pair_more_alike_than_its_paraphrase_is_refused() -> None:
    """Opposite questions answered alike (semantic-router issues 2691, 2727, 2728, 3075; GPTCache issues 694, 386)."""
    assert refusal("How do I turn on notifications?", "How do I turn off notifications?") is not None
    assert refusal("Is it legal to fish in the lake?", "Is it illegal to fish in the lake?") is not None


@pytest.mark.parametrize(
    "text",
    [
        "¿Cuál es la capital de Francia?",
        "Was ist die Hauptstadt von Frankreich?",
        "Quelle est la capitale de la France ?",
        "フランスの首都はどこですか？",
        "프랑스의 수도는 어디입니까?",
        "Какая столица Франции?",
    ],
)
def test_a_language_without_tables_is_never_compared(text: str) -> None:
    question = read(text)
    assert not question.semantic
    assert question.reason
    found = refusal(text, text)
    assert found is not None
    assert found.guard == "language"


def test_languages_are_not_compared_with_each_other() -> None:
    found = refusal("When does the shop open?", "商店什么时候开门？")
    assert found is not None
    assert found.guard == "language"


@pytest.mark.parametrize("text", ["Who are you?", "你是谁的？", "?", "", "the a of"])
def test_what_has_no_words_to_compare_is_refused(text: str) -> None:
    assert not read(text).semantic or refusal(text, "What is the delivery fee?") is not None


def test_a_verdict_tells_nothing_but_words_of_the_two_questions() -> None:
    first, second = "Do you have a store in Norway?", "Do you have a store in Sweden?"
    found = refusal(first, second)
    assert found is not None
    assert found.detail == "norway and sweden"


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_two_texts_get_verdicts_and_a_text_never_differs_from_itself(first: str, second: str) -> None:
    one, other = read(first), read(second)
    assert check(one, other)
    last = check(one, read(first))[-1]
    assert last.passed == one.semantic


@given(
    st.sampled_from(["Can I return shoes after {} days?", "Is shipping free above ${}?", "Do you have {} m of cable?"]),
    st.integers(2, 10_000),
    st.integers(2, 10_000),
)
def test_numbers_pass_only_when_equal(pattern: str, first: int, second: int) -> None:
    assert (refusal(pattern.format(first), pattern.format(second)) is None) == (first == second)
