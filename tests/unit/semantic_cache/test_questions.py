"""What is looked up and what never is, by kind; each example stands for a way of speaking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.semantic_cache.questions import Kind, classify

QUESTIONS = {
    "wh-question": ["What must I not eat?", "When does the store open on Sundays?", "Why is the sky blue?"],
    "without a question mark": [
        "what is the capital of france",
        "can I return shoes after 30 days",
        "who wrote Hamlet",
    ],
    "yes-no question": [
        "Do you ship to Norway?",
        "Are there any vegan options on the menu?",
        "Isn't Monday a holiday?",
    ],
    "an it that stands for nothing": ["Is it safe to eat raw eggs?", "How long does it take to ship to Canada?"],
    "request for information": [
        "Tell me the opening hours of the Berlin store.",
        "Could you explain how refunds work?",
    ],
    "how-to about a command": ["How do I cancel my order?", "Where do I delete my account?"],
    "greeting first": ["Hi, what is the delivery fee for Zürich?", "Hello! How much is the blue backpack?"],
    "topic first": ["In France, what is the minimum wage?", "In which year was Dr. Smith born?"],
    "order of a statement": ["You ship to Canada for free?"],
    "contraction": ["Where's my order 4711?", "What’s the fee for late payment?"],
    "about the agent": ["Who are you?", "What can you do?"],
    "numbers": ["What is 12.5 % of 80?", "How much is 3 m² of oak?"],
    "other language": ["¿Cuál es la capital de Francia?", "Was ist die Hauptstadt von Frankreich?"],
    "Chinese, interrogative word": [
        "我不能吃什么？",
        "法国的首都是哪里？",
        "怎么退货？",
        "退款需要多长时间",
        "你是谁？",
    ],
    "Chinese, particle": ["北京店周末营业吗", "能不能用支付宝付款"],
    "Chinese, greeting first": ["请问你们几点关门", "您好，运费是多少？"],
    "Chinese, topic first": ["在北京，哪家店最大？", "我的订单什么时候到？"],
    "Chinese, thanks at the end": ["奶锅能在电磁炉上用吗？谢谢啦", "新疆可以下单吗？麻烦了"],
    "Chinese search": ["抽油烟机 噪音 分贝", "无人机 续航"],
    "search": ["Gold membership annual fee", "replace saved card how", "old TV removal service?"],
    "question around the question": [
        "I'd like to know whether earrings can be sent back for a refund.",
        "I'm wondering if it's possible to be billed in US dollars.",
    ],
    "an it that the sentence names": [
        "How do I clean my leather sofa without damaging it?",
        "When the power bank is empty, how long must it stay on the charger?",
    ],
    "other and same within the question": [
        "Do you share my phone number with other companies?",
        "Can two vouchers be used on the same purchase?",
    ],
    "told beside the question": [
        "I live in Austin - when does the shop open?",
        "The filter is worn out. Can I order a new one?",
        "The filter of my vacuum is clogged. Where do I get it replaced?",
        "I have some spare bulbs, will they fit the lamp?",
        "Can the size still be changed? I ordered an hour ago.",
        "If I reserve the phone before its release, when do I pay?",
        "I am a Gold member. Is delivery free?",
    ],
    "courtesy beside the question": [
        "Hi, hope you are well. Could anyone help? What is the delivery fee? Thanks a lot!",
        "Sorry if this was asked before. How old must one be for the course?",
    ],
    "wish before a short question": ["I'd like my parcel left at reception, is that possible?"],
    "Chinese, told beside the question": [
        "我家在新疆，你们的快递到得了吗？",
        "咖啡机坏了，可以修吗？",
        "我是高级会员，生日那天能领到什么？",
    ],
    "Chinese, greeting that asks": ["在吗？请问运费是多少？"],
    "Chinese words that only look like pointers": ["吉他多少钱？", "也门的首都是哪里？", "其实应该怎么洗羊毛衫？"],
}

ELLIPTICAL = {
    "opens on what was said": [
        "And the other one?",
        "What about Berlin?",
        "And Canada?",
        "But why is the fee so high?",
    ],
    "bare word": ["Why?", "How much?", "Which one is cheaper?", "Is it?", "Really?"],
    "pronoun": ["How much is it?", "Does she like tea?", "What does that mean?", "Can I return them?", "What is this?"],
    "points at the conversation": ["What did you say about refunds?", "Can you repeat the above?", "What else?"],
    "fragment": ["Paris?", "The red one?", "In Berlin?", "¿Y el otro?"],
    "asks again": ["Are you sure?", "What are the others?", "Tell me more about them"],
    "the rest of the text points elsewhere": [
        "The other one is broken. Can I return the shoes?",
    ],
    "in full, but about what was said": [
        "Which of the two is better?",
        "Can I have both?",
        "How much is the other size?",
    ],
    "Chinese, opens on what was said": ["那上海呢？", "还有别的吗？", "然后怎么办？"],
    "Chinese, particle without a question": ["北京呢？", "红色的呢"],
    "Chinese, bare": ["为什么？", "多少钱", "真的吗？", "怎么办"],
    "Chinese, pronoun": ["它多少钱？", "那个怎么用？", "这家店几点开门？", "他是谁？"],
    "Chinese, points at the conversation": ["你刚才说的是什么意思？", "上海也有吗？"],
}

STATEMENTS = {
    "about oneself": ["My name is Ann and I am allergic to nuts.", "I live in Paris", "I wonder what the fee is"],
    "statement before a question": [
        "I am allergic to nuts. What can I eat?",
        "My name is Ann, what is your name?",
        "Ich heiße Ann. Was ist die Hauptstadt?",
        "I moved to Rome\nWhere is the next store?",
    ],
    "to be learnt at once, beside a question": [
        "My birthday is in May. Is there a gift for members?",
        "I'm vegan. Which cakes can I order?",
        "I work as a nurse - do you sell clogs?",
        "My new address is 5 Elm Road. When does my parcel come?",
        "My daughter is called Eva. Can her name be engraved?",
        "I prefer tea. What do you have?",
    ],
    "instruction beside a question": [
        "From now on be brief. What is the delivery fee?",
        "Answer in French. What is the delivery fee?",
        "Call me Bob. When do you open?",
    ],
    "correction beside a question": [
        "No, I meant the blue bag. What is the price of the blue bag?",
        "That's wrong. When does the shop open?",
    ],
    "command": [
        "Remember that my sister is called Eva",
        "Please book a table for two",
        "Can you remind me to call Bob tomorrow?",
        "Could you send the report to Eva?",
        "Do not forget my birthday",
        "Call me Bob, ok?",
    ],
    "question word in a statement": ["When I was young I lived in Rome", "where I live it is cold", "What a nice day"],
    "several questions": ["What is the fee? Who pays the fee?", "运费是多少？周末送货吗？"],
    "politeness": ["Thanks!", "Ok", "Hello", "", "   ", "?!", "🙂"],
    "facts without a verb": ["Seattle bike repair", "red wine", "my sister Eva, Rome"],
    "plain fact": ["The store closes at nine."],
    "other language without a question mark": ["Ich wohne in Berlin", "こんにちは"],
    "Chinese, about oneself": ["我叫安，我对坚果过敏。", "我喜欢茶", "请记住我住在北京"],
    "Chinese, statement before a question": ["我对坚果过敏，我能吃什么？", "我搬家了。最近的店在哪里？"],
    "Chinese, to be learnt at once": [
        "我叫安，运费是多少？",
        "我不吃辣，有什么推荐？",
        "以后请用英文回答。运费是多少？",
        "不对，我说的是蓝色的包。蓝色的包多少钱？",
    ],
    "Chinese, command": ["提醒我明天开会，好吗？", "帮我订一张票可以吗？"],
    "Chinese, plain": ["谢谢", "今天天气很好。"],
}


def cases(groups: dict[str, list[str]]) -> list[object]:
    return [pytest.param(text, id=f"{kind}: {text}") for kind, texts in groups.items() for text in texts]


@pytest.mark.parametrize("text", cases(QUESTIONS))
def test_a_question_that_stands_for_itself_is_looked_up(text: str) -> None:
    assert classify(text) is Kind.QUESTION


@pytest.mark.parametrize("text", cases(ELLIPTICAL))
def test_a_question_that_needs_its_conversation_is_not(text: str) -> None:
    assert classify(text) is Kind.ELLIPTICAL


@pytest.mark.parametrize("text", cases(STATEMENTS))
def test_everything_else_is_a_statement(text: str) -> None:
    assert classify(text) is Kind.STATEMENT


@given(st.sampled_from([t for texts in QUESTIONS.values() for t in texts]), st.sampled_from(["I am Ann.", "我叫安。"]))
def test_what_must_be_learnt_makes_the_whole_text_a_statement(question: str, statement: str) -> None:
    assert classify(f"{statement} {question}") is Kind.STATEMENT
    if question.endswith(("?", "？", ".")):
        assert classify(f"{question} {statement}") is Kind.STATEMENT


@pytest.mark.timeout(5)
@pytest.mark.parametrize("unit", ["a ", "I ", "it is ", "the a ", "!", "? ", "吗", "我"])
@pytest.mark.parametrize("length", [2_000, 100_000])
def test_a_hostile_text_ends_before_the_limit_of_a_test(unit: str, length: int) -> None:
    assert classify((unit * length)[: length - 1] + "?") in Kind


@given(st.text(max_size=300))
def test_any_text_has_a_kind(text: str) -> None:
    assert classify(text) in Kind
