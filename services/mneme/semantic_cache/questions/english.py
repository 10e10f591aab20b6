"""What an English sentence does, and one of any other language that has no table."""

from __future__ import annotations

import re

from mneme.semantic_cache.questions.part import Part, Points, Role

_ASKS = re.compile(r"(?:[?？؟]|(?<=[\u0370-\u03ff]);)\s*[\"'”’)）»]*\s*$")
_FRAGMENT_WORDS = 4
# From so many words on a sentence itself has what its "too" adds to.
_LONG = 8
_ALSO = re.compile(r" (?:too|as well|instead)$", re.IGNORECASE)

_FILLER = re.compile(
    r"^(?:(?:hi|hello|hey|hiya|good (?:morning|afternoon|evening|day)|dear (?:all|team)|please|pls|thanks|thank you"
    r"|cheers|thx|ta)(?: very much| so much| a lot| in advance| there| all| team)?\b[\s,.!:;-]*"
    r"|(?:many thanks|ok|okay|well|so|um+|excuse me|sorry if this was asked before|sorry|oops|oh no"
    r"|quick (?:question|one)|question|just wondering"
    r"|(?:i )?hope (?:you are|you're|all is|this finds you) (?:doing )?well|much appreciated|help(?=[!,.:])"
    r"|(?:can|could) (?:you|anyone|someone)(?: please)? help(?: me)?(?: out)?(?: with (?:this|that"
    r"|something))?(?=[?!,.]|$)"
    r"|i have (?:a|one) (?:quick |short )?question(?=[.!,:]|$)|(?:can|could|may) i ask (?:you )?(?:something"
    r"|a question)(?=[?.,:]|$))\b[\s,.!:;-]*)+",
    re.IGNORECASE,
)
# "I'd like to know whether …" asks, and tells nothing.
_ASKS_INDIRECTLY = re.compile(
    r"^(?:(?:and|so|hi|hello)\W+)?(?:i(?:'d| would) (?:like|love) to (?:know|ask|find out|check)|i(?: want(?:ed)?"
    r"| need) to (?:know|ask|check)"
    r"|i(?:'m| am| was)(?: just)? (?:wondering|curious|asking)|(?:can|could|may|might) i (?:just )?(?:ask|check|know)"
    r"|(?:do|would) you (?:happen to )?know|(?:can|could|would|will) you (?:please |kindly )?(?:tell me|let me know"
    r"|say|confirm|check)"
    r"|(?:just )?wondering|(?:please )?(?:tell me|let me know)|any idea)(?: about)?,? "
    r"(?=(?:(?:at|in|on|by|from|for|to|with|until|after) (?:which|what|whom)|if|whether|what|which|who|whom|whose"
    r"|where"
    r"|when|why|how|the \w+ (?:of|for)|the \w+ \w+ (?:of|for))\b)(?:(?:if|whether)\b)?",
    re.IGNORECASE,
)
_INTERROGATIVE = r"what(?:'s|s|'re)?|who(?:'s|m|se)?|which|where(?:'s)?|when(?:'s)?|why(?:'s)?|how(?:'s)?"
_AUXILIARY = (
    r"is|are|am|was|were|do|does|did|can|could|will|would|shall|should|may|might|must|has|have|had"
    r"|isn't|aren't|wasn't|weren't|don't|doesn't|didn't|can't|cannot|couldn't|won't|wouldn't|shouldn't|hasn't|haven't"
)
_SUBJECT = (
    r"i|you|he|she|it|we|they|there|the|a|an|my|your|his|her|its|our|their|this|that|these|those|any|some|all|every"
    r"|each|both|no|most|many|more|people|someone|anyone|everyone"
)
_PREPOSITION = (
    r"(?:between|within|up to|in|on|at|for|from|to|of|with|by|about|under|until|since|during|after|before)\s+"
)
_ASKS_ENGLISH = re.compile(rf"^(?:{_PREPOSITION})?(?:{_INTERROGATIVE}|{_AUXILIARY})\b", re.IGNORECASE)
# Without a question mark the order of words must show it: "where is the shop", not "where I live".
_ASKS_UNMARKED = re.compile(
    rf"^(?:{_PREPOSITION})?(?:"
    rf"(?:what|which|where|when|why|how)(?:'s|s|'re)?\b(?!\s+(?:i|you|he|she|it|we|they|an?|my|your|our|the)\b)"
    rf"|who(?:'s|m|se)?\b(?!\s+(?:i|you|we|they)\b)"
    rf"|(?:is|are|am|was|were|does|did|can|could|will|would|shall|should|may|must|has)(?:n't)?\s+(?:{_SUBJECT}"
    rf"|\w+s?)\b"
    rf"|(?:do|have|had|don't|haven't)\s+(?:{_SUBJECT})\b(?!.*\bplease$))",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"^(?:(?:can|could|would|will) you (?:please )?)?(?:tell me|explain|describe|define|list|name|show me"
    r"|summari[sz]e"
    r"|compare|translate|calculate|compute|give me (?:a|an|the|some|all|examples?))\b",
    re.IGNORECASE,
)
# How a sentence begins that only tells; whatever begins otherwise, as "answer in French" does, may want something.
_DECLARES = re.compile(
    r"^(?:and |but |because |since |as |if |when |while |now |once |after |before |until |although |though |so )*(?:"
    r"(?:i|i'?m|i'?ve|i'?d|i'll|we|we're|we've|we'd|my|our|the|an?|this|that's|that is|these|there|there's|there is"
    r"|its?|it's"
    r"|some|somebody|someone|something|nothing|one of|none of|both|only|they|he|she|he's|she's|they're|your)\b"
    r"|(?:in|on|at|for|from|to|with|without|by|during|due to|thanks to|today|tomorrow|yesterday|last|next) "
    r"|(?:planning|looking|thinking|considering|hoping|trying|fed up|tired|interested|unhappy|worried)\b)",
    re.IGNORECASE,
)
# A bare subject and its verb ("red wine got on the rug"), or a subject left out ("bought a tent last week").
_REPORTS = re.compile(
    r"^(?:(?:just |only |recently )*(?:bought|ordered|received|got|lost|broke|tried|been|having|need|needed|want"
    r"|wanted"
    r"|can't|cannot|couldn't|didn't|don't (?:have|want|need)|not sure|no idea)\b"
    r"|(?!(?:answer|reply|respond|speak|write|use|be|keep|stop|start|do|don't|make|give|say|talk|translate|note|act"
    r"|pretend|assume|suppose|ignore|imagine|treat|let|please|put|take|add|set|check|tell|show|explain|list"
    r"|describe)\b)"
    r"[a-z'-]+(?: [\w'-]+){0,4} (?:is|are|was|were|has|have|had|got|won't|can't|doesn't|didn't|isn't|aren't|keeps"
    r"|came"
    r"|arrived|stopped|broke)\b)",
    re.IGNORECASE,
)
# What the model must learn at once: who the user is, what is good for them, how to behave, what was wrong.
_LASTS = re.compile(
    r"\b(?:remember|memori[sz]e|keep in mind|don't forget|do not forget|from now on|going forward|in future"
    r"|call me|address me|for your information|fyi|note that|nickname|pronouns"
    r"|my (?:\w+ ){0,2}?(?:name|birthday|anniversary)(?:'s| is| was)\b|(?:is|was|are|am) (?:called|named)\b"
    r"|(?:whose|with the) name|(?:i|we)(?:'m| am|'re| are) (?:called|named|from|married|divorced|engaged|single"
    r"|pregnant|vegan"
    r"|vegetarian|diabetic|deaf|blind|retired|allergic|intolerant|left-handed|right-handed)\b"
    r"|allerg\w+|intoleran\w+|vegans?|vegetarians?|c(?:o)?eliac|diabet\w+|asthma\w*|pregnan\w+"
    r"|(?:i|we)(?:'ve| have)? (?:just |recently |only )*(?:moved (?!on)|relocated|married|retired|adopted)"
    r"|(?:i|we)(?:'m| am|'re| are)(?: \w+)? (?:moving|relocating)"
    r"|i was born|born (?:in|on)|years old|(?:i|we) (?:work|study|teach|worship|believe|speak)\b"
    r"|(?:i|we) (?:really |just |absolutely )?(?:like|love|hate|prefer|enjoy|dislike|adore|can't stand|cannot stand"
    r"|always|never|usually)\b|(?:i|we) (?:don't|do not|can't|cannot|mustn't|must not) (?:eat|drink|like|take"
    r"|tolerate)\b"
    r"|my (?:doctor|pronouns)\b|my (?:new )?(?:phone|mobile|number|telephone|email|e-mail|address|job|employer"
    r"|size|(?:\w+ )?size"
    r"|favou?rite(?: \w+)?|phone number|(?:\w+ )?address|postcode|zip code) (?:is|are)\b(?! (?:not|no longer"
    r"|wrong|broken))"
    r"|my (?:\w+ )?(?:wife|husband|partner|son|daughter|brother|sister|mother|father|mum|mom|dad|dog|cat|boss|friend)"
    r" (?:is|was|has|had|likes|loves|lives|works)\b(?! (?:turning|given|bought|ordered|broken)))",
    re.IGNORECASE,
)
_PRESENTS_ONESELF = re.compile(
    r"^(?i:i am|i'm|we are|we're|this is) (?:(?:[A-Z][\w-]*)(?: [A-Z][\w-]*)*$|\w+$"
    r"|an? (?!bit |little |.*\b(?:members?|customers?|subscribers?|beginners?|students?|guests?|buyers?)\b))",
)
_CORRECTS = re.compile(
    r"^(?:no|nope|wrong|correction|not true)$|^(?:actually|i mean|i meant|correction|wait|rather|that's (?:not|wrong)"
    r"|that is (?:not|wrong)|that was (?:not|wrong)|it's not|it is not|you(?:'re| are) (?:wrong|mistaken))\b",
    re.IGNORECASE,
)
_COMMANDS = re.compile(
    r"^(?:(?:can|could|will|would) you (?:please |kindly )?|please |kindly )?"
    r"(?:remember|memori[sz]e|note|write|remind|save|store|forget|delete|remove|update|change|book|order|buy|cancel"
    r"|send"
    r"|schedule|call|set|sign|make sure|keep in mind)\b",
    re.IGNORECASE,
)
_OPENS_ON_CONTEXT = re.compile(
    r"^(?:and|but|or|then|also|plus|what about|how about|what else|who else|where else|anything else|any others?"
    r"|anyone else|which ones?|what if(?=(?: \S+){0,2}$)|same(?=$| (?:for|in|with|question|here|as|thing)\b)"
    r"|really|are you sure|such as|like what|how so|how come"
    r"|why not|more|continue|go on|again|yes|no|nope|yeah)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\b(?:it|its|it's|they|them|their|theirs|they're|he|she|him|her|hers|his|he's|she's|these|those"
    r"|this(?=$| (?:is|was|be|too|work\w*|happen\w*|allowed|possible|ok|okay|normal|covered|on|in|with|for"
    r"|through|at)\b)"
    r"|(?:^|, )that (?:is|was)|that(?=$|\s+(?:mean|means|work|works|cost|costs|be|for|in|of|to|at|on|go|go\w*|do|does"
    r"|many|still)\b)"
    r"|(?:is|are|was|were|do|does|did|about|of|for|with|like|after|before|than|why|how|if|would|will|can|could) that"
    r"|(?:over|in|out|up|from|go|get|going|back|be|been|were|to) there)\b",
    re.IGNORECASE,
)
_POINTS_ELSEWHERE = re.compile(
    r"\b(?:(?:the |that |this |which |another |other |first |second |third |last |next )ones?"
    r"|others|(?:the|any) other(?! way| hand| side)|another(?=$| one)|former|latter|previous|previously|the above"
    r"|above$|below$|these (?!days)\w+|those \w+"
    r"|aforementioned|earlier$|instead$|(?:what|who|where|anything) else$|there (?:anything|anyone) else|too$|either$"
    r"|(?:have|take|get) both$|the two (?:is|are)|which of the two|that again|say again|again$(?<=^.{25})"
    r"|same(?=$| (?:for|in|with|about|question|goes)\b| as (?:before|that|last|above|it)\b| as$)|likewise"
    r"|as well$|just now|so far"
    r"|you (?:just )?(?:said|mentioned|told|meant|wrote|suggested|listed)"
    r"|(?:did|have|had) (?:i|you|we) (?:just )?(?:say|said|mention|mentioned|tell|told|ask|asked|mean|discuss)"
    r"|we (?:just )?(?:discussed|talked|said)"
    r"|this(?! (?:year|month|week|weekend|morning|afternoon|evening|quarter|season|spring|summer|autumn|winter|time"
    r"|is|was|be|too|work\w*|happen\w*|allowed|possible|ok|okay|normal|covered|on|in|with|for|through|at)\b)(?=.)"
    r"|that one|(?<!buy )(?<!order )(?<!shop )(?<!is )(?<!are )here)\b",
    re.IGNORECASE,
)
# An "it" that stands for nothing, or for what the same sentence named before.
_EMPTY_IT = re.compile(
    r"\bhow (?:much )?\w+ is it (?:to|when|if)\b|\b(?:than|from|to) the one (?=i|you|we|that|which)"
    r"|\b(?:is|was|would|will) it (?:be )?(?!close|near|next|similar|equal|related|going back)"
    r"(?:[a-z]+ ){0,2}[a-z]+(?: for (?:me|us|my \w+|\w+))? (?:to|that|if)\b"
    r"|\b(?:does|did|will|would) it (?:take|cost)(?: (?:me|us|you|one|people|customers))? (?:to|for|until|before)\b"
    r"|^it(?:'s| is) [a-z]+ (?:to|that|for)\b|\bit(?:'s|s| is| has) been\b|\bwill it (?:rain|snow)\b|\bdo this(?=:)"
    r"|(?<=people )(?:\w+ )?(?:take|use|wear|buy|order|bring) their\b",
    re.IGNORECASE,
)
_NAMED_BEFORE = re.compile(
    r"(?P<named>\b(?:when|once|if|after|while|as soon as|because|since|until) (?:the|my|your|our"
    r"|an?) (?:[\w'-]+ ){1,4}?"
    r"(?:is|are|was|were|has|have|does|did|breaks?|arrives?|arrived|broke|comes?|came|gets?|got|doesn't"
    r"|isn't)\b[^,?-]*(?:,| -|–) .*?)"
    r"\b(?:it|they|them)\b"
    r"|(?P<object>\b(?:the|my|your|our|an?) (?:[\w'-]+ ){1,4}(?:without|before|after|and|or)(?: [\w']+){1,3}) (?:it"
    r"|them)\b"
    r"|(?P<subject>\b(?:[\w'-]+ ){3,}(?:if|when|because|once|until|unless|after|before|and what is)) (?:it"
    r"|they)(?= [a-z]+|'re\b|'s\b|$)"
    r"|(?P<either>\b(?:is|are) (?:the|my|your|our|an?) (?:[\w'-]+ ){2,8}or how \w+ (?:does|do|is|are)) (?:it|they)\b",
    re.IGNORECASE,
)
# Words with which a search asks without a verb: "gold membership annual fee".
_ATTRIBUTES = (
    r"prices?|pricing|costs?|fees?|charges?|rates?|hours|times?|address|policy|weight|width|height|depth|length"
    r"|diameter"
    r"|dimensions|wattage|voltage|temperature|capacity|resolution|availability|warranty|guarantee|ingredients"
    r"|deadline"
    r"|expiry|validity|duration|compatibility|sizing|eligibility|requirements?"
)
_SEARCHES = re.compile(
    rf"\b(?:{_ATTRIBUTES}|options?|how|where|when|which|sizes?|chart|limit|minimum|maximum|compatible|available"
    rf"|possible"
    r"|allowed|accepted|included|discounts?|deals?|offers?|bonus|points?|vouchers?|coupons?|guide|instructions"
    r"|manual|setup"
    r"|contact|number|difference|vs|plus|service|documents|replacement|spare|parts?|refills?|accessor\w+|delivery"
    r"|shipping"
    r"|return|refund|exchange|cancellation|tracking|collection|pickup|installation|assembly|cleaning|washing|care"
    r"|maintenance|oiling|storage|disposal|recycling|trade-in|interval|recommendation|value|amount|samples?|colou?rs?"
    r"|materials?|fabric|origin|noise|battery|charging|charger|power|consumption|catalog(?:ue)?|subscription"
    r"|membership"
    r"|model|version|update|stock|restock|preorder|pre-order|release|launch|access|parking|appointment|booking|course"
    r"|workshop|newsletter|account|password|login|privacy|currency|instalments?|financing|payments?|invoice"
    r"|receipt|tax"
    r"|vat|customs|duty|insurance|protection|age|reset|waterproof|gift|express|missing)\b",
    re.IGNORECASE,
)
_ENDS_ON_ATTRIBUTE = re.compile(rf"\b(?:{_ATTRIBUTES})$", re.IGNORECASE)
_NO_SEARCH = re.compile(
    r"\b(?:i|i'm|i've|me|my|mine|we|our|us|you|your|he|she|it|they|this|that|these|those|is|are|was|were|am|be|been"
    r"|has|have|had"
    r"|do|does|did|will|would|please|not|no|yes|the (?:other|same)|one)\b|[.,!;:=]|n't\b",
    re.IGNORECASE,
)
_SEARCH_WORDS = range(3, 9)
_BARE = re.compile(
    rf"^(?:(?:{_INTERROGATIVE}|much|many|long|far|old|often|for|so|then|now|exactly|really|not|to|from|with"
    rf"|(?:{_AUXILIARY})|i|you|we|there|one)\s*)+$",
    re.IGNORECASE,
)
_WHO_ARE_YOU = re.compile(
    r"^(?:who|how|what) (?:are|can|do) you(?: do)?$|^(?:who|what) am i$|^how old are you$", re.IGNORECASE
)
_CLAUSE = re.compile(r"[,;:]\s|\s[-–—]\s")
_NAMES = re.compile(
    r"\b(?:the|my|our|an?|some|your|any|one|two|three|four|five|\d+) (?!it\b)[\w'-]+"
    r"|\b(?:i|we)(?:'\w+)? \w+ (?:\w+ ){0,2}[\w'-]{4,}"
    r"|^(?:can|could|do|does|is|are|will|would) (?!(?:i|we|you|they|it|he|she)\b)[\w'-]{3,}",
    re.IGNORECASE,
)
_STARTS_FRAGMENT = re.compile(rf"^(?:{_PREPOSITION}|(?:{_SUBJECT}|much|many|\d\S*)\b)", re.IGNORECASE)
_DECLARES_ONESELF = re.compile(r"^(?:i|i'm|i've|we|my|our)\b", re.IGNORECASE)


def part(sentence: str) -> Part | None:
    """Returns what a sentence does; None for a greeting, which says nothing."""
    marked = bool(_ASKS.search(sentence))
    text = _FILLER.sub("", sentence).strip(" \t,.!?？;:\"'()")
    if not text:
        return None
    indirect = _ASKS_INDIRECTLY.match(text)
    if indirect is not None or _is_search(text, marked=marked):
        rest = text[indirect.end() :].strip() if indirect else ""
        return Part(Role.ASKS, _points(rest) if rest else Points.NOWHERE)
    clauses = [clause.strip() for clause in _CLAUSE.split(text)]
    asks = [bool(_ASKS_ENGLISH.match(clause) or _REQUEST.match(clause)) for clause in clauses]
    told = [clause for clause, ask in zip(clauses, asks, strict=True) if not ask]
    if _COMMANDS.match(text) or any(map(_lasts, told)):
        return Part(Role.LASTS)
    if not marked and not any(_ASKS_UNMARKED.match(clause) or _REQUEST.match(clause) for clause in clauses):
        return _telling(text)
    if not any(asks) and (len(text.split()) <= _FRAGMENT_WORDS or _DECLARES_ONESELF.match(text)):
        return Part(Role.ASKS, Points.ELSEWHERE)
    points = _points(text)
    named = points is Points.WITHIN and any(map(_names, clauses[:-1]))
    return Part(Role.ASKS, Points.NOWHERE if named else points)


def _telling(text: str) -> Part:
    """What a sentence does that asks nothing."""
    if _OPENS_ON_CONTEXT.match(text) and not _DECLARES.match(text):
        return Part(Role.ASKS, Points.ELSEWHERE)
    if not _DECLARES.match(text) and not (text.isascii() and _REPORTS.match(text)):
        return Part(Role.LASTS)
    points, pronoun = _points(text), _PRONOUN.search(text)
    if points is Points.WITHIN and pronoun is not None and _names(text[: pronoun.start()]):
        points = Points.NOWHERE
    return Part(Role.TELLS, points, names=_names(text))


def _lasts(clause: str) -> bool:
    return any(pattern.search(clause) for pattern in (_LASTS, _PRESENTS_ONESELF, _CORRECTS))


def _names(clause: str) -> bool:
    """Whether it has a thing that "it" may stand for."""
    return _NAMES.search(clause) is not None and _POINTS_ELSEWHERE.search(clause) is None


def _is_search(text: str, *, marked: bool) -> bool:
    """Whether a text without a verb names all that is asked for, as one types into a search field."""
    words = text.split()
    if (
        not text.isascii()
        or (len(words) not in _SEARCH_WORDS and not (len(words) == 2 and _ENDS_ON_ATTRIBUTE.search(text)))
        or _NO_SEARCH.search(text)
        or _OPENS_ON_CONTEXT.match(text)
        or _COMMANDS.match(text)
    ):
        return False
    return not _ASKS_ENGLISH.match(text) and (
        (marked and len(words) >= _SEARCH_WORDS.start and not _STARTS_FRAGMENT.match(text))
        or _SEARCHES.search(text) is not None
    )


def _points(text: str) -> Points:
    if _WHO_ARE_YOU.match(text):
        return Points.NOWHERE
    long = len(text.split()) >= _LONG
    rest = _EMPTY_IT.sub(" ", _ALSO.sub("", text) if long else text)
    rest = _NAMED_BEFORE.sub(lambda match: next(part for part in match.groups() if part), rest)
    if _POINTS_ELSEWHERE.search(rest) or _OPENS_ON_CONTEXT.match(text):
        return Points.ELSEWHERE
    return Points.WITHIN if _PRONOUN.search(rest) or _BARE.match(text) else Points.NOWHERE
