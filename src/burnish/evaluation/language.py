"""Which language is a text in? By its script, and where languages share one, by their most common words and letters.

Small and deterministic, for one purpose: to see whether an answer is in the language that was asked for. It knows the
languages that IFEval asks for (Zhou et al. 2023) and their neighbours; it is no general language identifier.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from burnish.evaluation.text import word_set

_ENOUGH_WORDS = 8
"""Fewer words than these need not hold any of a language's most common ones."""

_SCRIPTS = {
    "ar": "ARABIC", "fa": "ARABIC", "ur": "ARABIC", "he": "HEBREW", "bn": "BENGALI", "gu": "GUJARATI", "pa": "GURMUKHI",
    "kn": "KANNADA", "ml": "MALAYALAM", "ta": "TAMIL", "te": "TELUGU", "th": "THAI", "ko": "HANGUL", "zh": "CJK",
    "ja": "KANA", "el": "GREEK", "hi": "DEVANAGARI", "mr": "DEVANAGARI", "ne": "DEVANAGARI", "ru": "CYRILLIC",
    "bg": "CYRILLIC", "uk": "CYRILLIC",
}  # fmt: skip
"""The script of every language that is not written in Latin letters."""

_COMMON = {
    "en": "the and of to is in that it for you with are on this be as have was not can will your from or an they we",
    "de": "der die und das ist nicht ein eine zu den von mit sich auf für im dem sie es ich auch wie aber oder wir",
    "fr": "le la les et des est un une du que dans pour qui sur pas vous avec nous ce il au sont plus elle ou",
    "es": "el la los las de que y es en un una por con para no se su más como pero lo este está son muy",
    "pt": "o os as e de que não um uma do da em para com é se mais como mas por na no são você ao dos",
    "it": "il la di che e è un una per non con sono del della le gli si come più ma nel anche questo al lo",
    "nl": "de het een en van is dat niet op te zijn voor met die in je maar ook aan er om naar wordt deze bij",
    "sv": "och att det är en som på i för av inte med den till har de ett om var jag du kan men vi så",
    "da": "og at det er en som på i for af ikke med den til har de et om var jeg du kan men vi så",
    "no": "og å det er en som på i for av ikke med den til har de et om var jeg du kan men vi så",
    "fi": "ja on ei se että en hän oli ovat mutta kun myös niin tämä voi kuin sen jos mitä joka olla ole sekä",
    "pl": "i w nie na się jest to że z do jak o ale po co tak za od czy dla przez są być oraz który",
    "cs": "a je se v na že to s z do si o jako ale po k za by co tak jsou pro nebo být který",
    "ro": "și de la în un o nu este cu pe care că din mai să pentru sunt au fi sau dar ce prin al",
    "hu": "a az és hogy nem egy is van meg ez de mint ha csak már vagy azt volt el lesz kell ki mert",
    "tr": "ve bir bu da de için ile çok ne gibi daha olarak var değil ama en ben o olan kadar sonra mi",
    "vi": "là và của có không một cho các được trong người với những này đã để tôi khi bạn cũng như về ở",
    "id": "yang dan di dengan untuk tidak ini itu dari dalam adalah pada akan ke ada juga saya atau bisa karena oleh",
    "tl": "ang ng sa na mga ay at ko ito para hindi ako mo siya kung may ka rin lang o po ni isang",
    "sw": "na ya wa kwa ni katika za la kuwa hii hiyo kama cha yake watu sana lakini au pia yangu bila kila",
    "ru": "и в не на что я он с как это а по но она к у из за так же от для вы мы их",
    "bg": "и на да е се в за от с не са по че това като но ще към или при си са тази може",
    "uk": "і в не на що я з та це до як у він за але так від для або ми ви їх є бути який",
    "hi": "है के में की और का से को हैं कि यह पर नहीं एक लिए भी ने तो था इस ही हो",
    "mr": "आहे आणि आहेत मध्ये या हे ते की नाही आपण तर पण एक होते असे किंवा तो ती म्हणून करण्यासाठी साठी",
    "ne": "छ र को मा यो हुन्छ छन् लागि पनि भने तर हो गर्न एक तपाईं हामी यस गर्नुहोस् छैन थियो वा",
    "fa": "و در به از که این را با است برای آن یک خود تا بر هم می شود اما نیز",
    "ar": "في من على إلى أن هذا هذه التي الذي لا ما كان مع عن هو هي كل قد أو",
    "ur": "کے میں کی ہے اور سے کا کو ہیں یہ پر نہیں ایک بھی کہ نے تو لیے جو آپ",
}
_COMMON_WORDS = {code: word_set(block) for code, block in _COMMON.items()}
_OWN_LETTERS = {"ur": "ٹڈڑےںھہ", "fa": "پچژگی", "uk": "іїєґ", "ru": "ыэё", "bg": "ъ"}

LANGUAGES = frozenset(_SCRIPTS) | frozenset(_COMMON)
"""Known codes (ISO 639-1)."""

_TOKEN = re.compile(r"[^\W\d_]+(?:[\u0300-\u036f\u0900-\u0dff]+[^\W\d_]*)*")


def in_language(text: str, code: str) -> str | None:
    """None when the text is in the language `code`, or too short to tell and in its script; else what it seems to be.

    Raises:
        ValueError: `code` is not among `LANGUAGES`.
    """
    if code not in LANGUAGES:
        raise ValueError(f"{code!r} is none of the known languages: {', '.join(sorted(LANGUAGES))}")
    scripts = _scripts(text)
    if not scripts:
        return "no letters"
    wanted = _SCRIPTS.get(code, "LATIN")
    found = scripts.most_common(1)[0][0]
    if found == "CJK" and scripts["KANA"]:
        found = "KANA"  # Japanese mixes kana among Chinese characters
    if found != wanted:
        return f"in {found.lower()} letters"
    rivals = {other for other in _COMMON_WORDS if _SCRIPTS.get(other, "LATIN") == wanted}
    if code not in rivals or len(rivals) == 1:
        return None
    scores = {other: _score(text, other) for other in sorted(rivals)}
    best = max(scores.values())
    if scores[code] == best:
        return None if best or len(_tokens(text)) < _ENOUGH_WORDS else "in no language that it knows"
    return f"looks like {max(scores, key=lambda other: scores[other])!r}"


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(unicodedata.normalize("NFC", text).lower())


def _score(text: str, code: str) -> int:
    tokens = _tokens(text)
    own = sum(1 for token in tokens for letter in token if letter in _OWN_LETTERS.get(code, ""))
    return sum(token in _COMMON_WORDS[code] for token in tokens) + own


def _scripts(text: str) -> Counter[str]:
    """Letters by script; kana and Hangul syllables under one name each."""
    counts: Counter[str] = Counter()
    for letter in text:
        if not letter.isalpha():
            continue
        name = unicodedata.name(letter, "").split(" ")[0]
        counts["KANA" if name in ("HIRAGANA", "KATAKANA") else name] += 1
    return counts
