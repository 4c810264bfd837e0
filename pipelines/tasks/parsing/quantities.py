"""Numbers as teachers write them -> plain numbers, or a refusal. A wrong label costs more than a missing one.

$1,234.50   3 400   1.234,56   1'234   10^3   12e3   12k   1 million   2 1/2   2½   <1200>          are read
4:30   3:2   5 feet 6 inches   12,5   3 and a half   2 dozen   5-6   between 5 and 6   10x + 120     are refused
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from pipelines.errors import UnparsableError
from pipelines.tasks.parsing.answers import MAX_STATED_CHARACTERS, boxed, plain_text
from pipelines.tasks.parsing.expressions import ExpressionError, evaluate_expression, format_value, spell_signs

_MAX_EXPONENT = 30
_SHOWN = 60
_MAGNITUDES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PLAIN = r"[0-9]+(?:\.[0-9]+)?"

_VULGAR = re.compile(r"(?<=[0-9]) ?([¼½¾⅐-⅞])")
_SUPERSCRIPT = re.compile(r"(?<=[0-9)])[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_GROUPS = (  # (groups of digits, what separates them)
    (re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]{1,2}(?![0-9.,]*[0-9])"), ".,"),
    (re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9.,]*[0-9])"), "."),
    (re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])"), ","),
    (re.compile(r"(?<![0-9.,])[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9]|,[0-9])"), ","),
    (re.compile(r"(?<![0-9.,] )(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?! ?[0-9])"), " "),
    (re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:['’][0-9]{3})+(?![0-9])"), "'’"),
)
_BROKEN_GROUPS = re.compile(r"[0-9],[0-9]")
_CLOCK = re.compile(r"[0-9] ?: ?[0-9]")
_POWER = re.compile(rf"(?<![A-Za-z0-9.])({_PLAIN}|\({_PLAIN}\)) ?(?:\^|\*\*) ?[({{]?(-?[0-9]{{1,3}})(?![0-9.])[)}}]?")
_SCIENTIFIC = re.compile(rf"(?<![A-Za-z0-9.])({_PLAIN})[eE]([+-]?[0-9]{{1,3}})(?![A-Za-z0-9.])")
_MIXED = re.compile(r"(?<![0-9./])([0-9]+)(?: and)? ([0-9]+) ?/ ?([0-9]+)(?![0-9./])")
_MIXED_LATEX = re.compile(r"(?<![0-9./])([0-9]+) ?\(\(([0-9]+)\) / \(([0-9]+)\)\)")
_UNIT_POWER = re.compile(
    r"(?<=[0-9a-z] )((?:mm|cm|m|km|in|ft|yd|mi|inch|inches|feet|meters?|metres?|units?) ?)\^ ?[({]?[23][)}]?(?![0-9])"
)
_MAGNITUDE = re.compile(rf"({_PLAIN})[ -]?(hundred|thousand|million|billion|trillion)s?\b", re.IGNORECASE)
_THOUSANDS = re.compile(rf"(?<![A-Za-z0-9.])({_PLAIN})[kK]\b")
_ABBREVIATED = re.compile(rf"(?:{_PLAIN}) ?(?:mil|mn|mln|bn|MM)\b|(?<=[0-9])[MB]\b")
_HALF = re.compile(
    r"[0-9] (?:[A-Za-z]+ )?and (?:a|one) (?:half|third|quarter)\b|[0-9] (?:half|halves|quarters?)\b", re.IGNORECASE
)
_DOZEN = re.compile(r"(?:[0-9] |\ba )(?:dozen|score)s?\b", re.IGNORECASE)
_FEET = re.compile(r"[0-9] ?['′] ?[0-9]{1,2}(?![0-9])")
_ORDINAL = re.compile(r"\b[0-9]+(?:st|nd|rd|th)\b", re.IGNORECASE)
_NAME = re.compile(r"\b[A-Za-z]+-?[0-9]+\b|(?<![A-Za-z0-9])#[0-9]+")


def plain_numbers(text: str, question: str = "") -> str:
    """Text whose numbers are plain digits: `about $1,2 million` is refused, `3 400 kg` -> `3400 kg`, `10^3` -> `1000`.

    Args:
        text: without LaTeX and decoration (`plain_text`).
        question: of the example. A unit that it asks for is no factor: `How many million ...?`

    Raises:
        UnparsableError: a number has a form that could be read in two ways.
    """
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]), text)
        text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[1]).replace("⁄", "/"), text)
        text = re.sub(r"[¼½¾⅐-⅞]", lambda m: unicodedata.normalize("NFKC", m[0]).replace("⁄", "/"), text)
    for pattern, rule in (
        (_CLOCK, "a time or a ratio"), (_FEET, "feet and inches"), (_HALF, "a number and a fraction in words"),
        (_ABBREVIATED, "an abbreviated magnitude"),
    ):  # fmt: skip
        _refuse(pattern, text, rule)
    for groups, separators in _GROUPS:
        text = groups.sub(lambda m, s=separators: _ungrouped(m[0], s), text)  # type: ignore[misc]
    _refuse(_BROKEN_GROUPS, text, "a comma within a number")
    text = _UNIT_POWER.sub(r"\1", text)
    text = _SCIENTIFIC.sub(lambda m: _power(m[1], 10, int(m[2])), text)
    text = _POWER.sub(lambda m: _power("1", m[1].strip("()"), int(m[2])), text)
    _refuse(re.compile(r"\^|\*\*"), text, "a power of something else than a number")
    text = _magnitudes(text, question)
    return _MIXED_LATEX.sub(r"(\1 + \2/\3)", _MIXED.sub(r"(\1 + \2/\3)", text))


def _magnitudes(text: str, question: str) -> str:
    lower = question.casefold()
    if "how many dozen" in lower:
        text = re.sub(r"\bdozens?\b", "", text)
    _refuse(_DOZEN, text, "dozens")
    text = _THOUSANDS.sub(lambda m: format_value(Fraction(m[1]) * 1000), text)
    while (found := _MAGNITUDE.search(text)) is not None:
        word = found[2].lower()
        if re.search(rf"(?:how many|number of|in) {word}", lower):
            raise UnparsableError(f"{text.strip()[:_SHOWN]!r}: the question asks for {word}s")
        value = format_value(Fraction(found[1]) * _MAGNITUDES[word])
        text = text[: found.start()] + value + text[found.end() :]
    return text


def _ungrouped(number: str, separators: str) -> str:
    whole, comma, decimals = number.partition(",") if separators == ".," else (number, "", "")
    for separator in separators:
        whole = whole.replace(separator, "")
    return f"{whole}.{decimals}" if comma else whole


def _power(factor: str, base: str | int, exponent: int) -> str:
    if abs(exponent) > _MAX_EXPONENT or len(str(base)) > _MAX_EXPONENT or Fraction(base) == 0 > exponent:
        raise UnparsableError("a power that is too large")
    value = Fraction(factor) * Fraction(base) ** exponent
    text = format_value(value)
    return f"({text})" if "/" in text else text


def _refuse(pattern: re.Pattern[str], text: str, rule: str) -> None:
    if pattern.search(text):
        raise UnparsableError(f"{text.strip()[:_SHOWN]!r} holds {rule}")


_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_WORKED = re.compile(rf"-?[( ]*-?{_NUMBER}(?:[-+*/() ]+{_NUMBER}\)*)*\)*(?![0-9])")
_EQUALS = re.compile(r"=|≈|\\approx")
_ANGLES = re.compile(r"<([^<>]*[0-9][^<>]*)>")
NEGATIVE = re.compile(r"\b(?:negative|minus) (?=[$]?[0-9])", re.IGNORECASE)
# `... is 1,200 dollars` at the end of a sentence, whatever stands before it.
_RESULT = re.compile(
    r".*\b(?:is|are|was|were|be|equals|totals)\s+((?:now |only |about |approximately |exactly |a total of )?[-$€£(]*[0-9][^=]*)\Z",
    re.IGNORECASE | re.DOTALL,
)
_IS_NUMBER = re.compile(r"\b(?:is|are|was|were|be|equals|totals)\s+[-$€£(]*[0-9]", re.IGNORECASE)
_BOUND_AFTER = re.compile(r"\s*[+±]")
# `>5`, `up to 5`, and numbers that are part of a name or a date: `Room 12`, `June 5`
_BOUND_BEFORE = re.compile(
    r"(?:[<>≤≥±]|\bup to|(?:\A|\bin |\bon )\s*(?!About|Approx|Around|Exactly|Only|Total|Roughly|Just|Nearly)[A-Z][a-z]+)\s*[$(]*\s*\Z"
)
_COMPARED = re.compile(
    r"\s*(?:[A-Za-z]+ ){0,2}(?:more|less|fewer|higher|lower|greater|times)\s+(?:than|as)\b", re.IGNORECASE
)
_ASKS_DIFFERENCE = re.compile(
    r"\bhow (?:many|much)\b.{0,40}?\b(?:more|less|fewer|higher|lower|greater|times)\b", re.IGNORECASE | re.DOTALL
)
_CENTS = re.compile(r"[0-9] ?(?:cents?\b|¢)", re.IGNORECASE)
_ASKS_DOLLARS = re.compile(r"\b(?:how many|in) dollars\b", re.IGNORECASE)
_RANGE = re.compile(r"\s*([0-9.]+)-([0-9.]+)\s*\Z")
_AFTERTHOUGHT = re.compile(r"(?<=[0-9A-Za-z%])\s+\((?!or\b)[^()]*\)\s*\Z")
_UNKNOWN = re.compile(
    r"[0-9)] ?\*? ?[a-z] ?[-+*/=] ?[0-9(]|(?<![A-Za-z])[0-9]+[xyzn]\b|\b[xyzn] ?[-+*/=] ?[0-9]|[0-9)] ?\*? ?(?:π|\\pi\b|pi\b)|√|\\sqrt"
)
SPELLED = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million|dozen|half|twice|double|triple)\b",
    re.IGNORECASE,
)
_ANY_NUMBER = re.compile(rf"{_NUMBER}|{SPELLED.pattern}", re.IGNORECASE)
_JOINS = re.compile(
    r"\b(?:and|or|plus|but|versus|vs|then|out of|of|minus|times|with|containing|at|divided|multiplied|"
    r"(?:more|less|fewer) than)\b|[,;&/:+*-]|\b(?:to|per|every)\s*[$(]*\s*\Z",
    re.IGNORECASE,
)
_ANOTHER = re.compile(r"\b(?:and|or|but|plus) (?:[a-z]+ ){0,2}[$€£]?[0-9]", re.IGNORECASE)
_PREPOSITION = re.compile(
    r"\b(?:for|to|after|on|in|at|per|each|every|if|when|because|since|before|by|until|with|from|so|more|as|during|"
    r"over|left|compared|than|that|who|which|while|given)\b",
    re.IGNORECASE,
)
_BEFORE_REFUSED = re.compile(
    r"(?:\b(?:during|in|after|within|every|per|than|between|from|until|since|over|before|ago|under|nearly|almost|"
    r"step|part|day|week|year|chapter|page|number|no|version|one|some|any)\b|#)\s*[$(]*\s*\Z",
    re.IGNORECASE,
)
_TOTAL_OF = re.compile(
    r"\b(?:total|sum|average|profit|cost|price|amount|number|value|distance|result|change|equal|savings?|loss|gain)\s+(?:of|to)\s*[$(]*\s*\Z",
    re.IGNORECASE,
)
_OF = re.compile(r"\b(?:of|half|twice|double|triple|third|quarter|minus|negative)\s*(?:the )?[$(]*\s*\Z", re.IGNORECASE)
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|will|would|can|could|must|should|need|needs|needed|cost|costs|paid|pays|spent|spends|"
    r"earn|earns|earned|make|makes|made|get|gets|got|take|takes|took|equal|equals|sell|sells|sold|give|gives|leaves?|use|uses|used|"
    r"about|approximately|around|exactly|only|total|roughly|just|at least)\b",
    re.IGNORECASE,
)


def read_quantity(stated: str, question: str = "", *, sentence: bool = False) -> str:
    """The one number that a phrase states: `$1,234.50 per year` -> `1234.5`, `7 + 5 = 12 apples` -> `12`.

    Args:
        stated: text after `answer is`, or a whole sentence.
        question: of the example.
        sentence: the phrase is a sentence, so words stand before the number.

    Raises:
        UnparsableError: the phrase states no number, several, or one that could be read in two ways.
    """
    if len(stated) > MAX_STATED_CHARACTERS:
        raise UnparsableError(f"a label of {len(stated):,} characters")
    if not sentence or stated.count("\\boxed") == 1:
        stated = boxed(stated) or stated
    marked = _ANGLES.findall(stated)
    stated = marked[0] if len(marked) == 1 else stated
    text = _EQUALS.split(plain_text(spell_signs(plain_text(stated))))[-1]
    text = NEGATIVE.sub("-", _NAME.sub("", _ORDINAL.sub("", text)))
    if _CENTS.search(text) and question and ("cent" not in question.casefold() or _ASKS_DOLLARS.search(question)):
        raise UnparsableError(f"{stated[:_SHOWN]!r} states cents, which the question does not ask for")
    result = _RESULT.search(text) if sentence and len(_IS_NUMBER.findall(text)) == 1 else None
    text = plain_numbers(result[1] if result else text, question)
    text = _AFTERTHOUGHT.sub("", text)
    if _UNKNOWN.search(text):
        raise UnparsableError(f"{stated[:_SHOWN]!r} holds an unknown")
    match = _WORKED.search(text)
    if match is None:
        raise UnparsableError(f"{stated[:_SHOWN]!r} states no number")
    if _is_range(match[0]):
        raise UnparsableError(f"{stated[:_SHOWN]!r} states a range")
    _check_before(text[: match.start()], stated, sentence)
    check_after(text[match.end() :], stated)
    if _BOUND_AFTER.match(text, match.end()) or _BOUND_BEFORE.search(text[: match.start()]):
        raise UnparsableError(f"{stated[:_SHOWN]!r} states a bound or a name")
    if _COMPARED.match(text, match.end()) and not _ASKS_DIFFERENCE.search(question):
        raise UnparsableError(f"{stated[:_SHOWN]!r} states a difference")
    try:
        label = format_value(evaluate_expression(match[0].rstrip(" (+*/-")))
        evaluate_expression(label)  # scoring reads the label again, which may exceed a limit that its expression kept
        return label
    except ExpressionError as error:
        raise UnparsableError(f"{stated[:_SHOWN]!r} states no number: {error}") from error


def _is_range(worked: str) -> bool:
    found = _RANGE.match(worked.strip())
    return found is not None and found[1].count(".") < 2 > found[2].count(".") and float(found[1]) < float(found[2])


def _check_before(words: str, stated: str, sentence: bool) -> None:
    """Words before the number must not make it something else than the answer: `the cost after 3 days`, `two bags of 5`."""
    if not re.search(r"[A-Za-z#]", words):
        return
    allowed = _TOTAL_OF.search(words)
    if not allowed and (_BEFORE_REFUSED.search(words) or _OF.search(words)):
        raise UnparsableError(f"{stated[:_SHOWN]!r}: the number may not be the answer")
    if _ANY_NUMBER.search(words):
        raise UnparsableError(f"{stated[:_SHOWN]!r} names two numbers")
    if not sentence and not allowed and not _VERB.search(words) and len(words.split()) > 2:
        raise UnparsableError(f"{stated[:_SHOWN]!r}: the number may not be the answer")


def check_after(words: str, stated: str) -> None:
    """Check the words after the number. Raises UnparsableError.

    A further number must belong to a clause of its own: `5 weeks to drink 6 sodas`, but not `7 minutes 30 seconds`."""
    further = _ANY_NUMBER.search(words)
    if further is None:
        return
    between = words[: further.start()]
    is_reason = re.search(r"\b(?:because|since)\b", between)
    if (
        _JOINS.search(between)
        or not _PREPOSITION.search(between)
        or (_ANOTHER.search(words, further.end()) and not is_reason)
    ):
        raise UnparsableError(f"{stated[:_SHOWN]!r} names two numbers")
