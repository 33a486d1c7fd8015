from __future__ import annotations

import pytest

from burnish.evaluation.text import (
    find_phrase,
    fold,
    normalise,
    paragraphs,
    plain,
    sentences,
    without_quotations,
    wordings,
    words,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("One.", 1),
        ("One. Two! Three?", 3),
        ("Dr. Smith met Mr. J. K. Rowling at 3.5 p.m. in the U.S. embassy.", 1),
        ("It closes at 5 p.m. The shop is shut then.", 2),
        ("Bring fruit, e.g. apples, bread etc. and milk.", 1),
        ("He takes vitamin C. It helps.", 2),
        ("So the answer is no. He left.", 2),
        ("See No. 5 on page 2.", 1),
        ('"Who is there?" she asked.', 1),
        ('"Stop!" He ran.', 2),
        ("Wait... what happened?", 1),
        ("Wait... It is over.", 2),
        ("no full stop here", 1),
        ("First line\nSecond line", 2),
        ("Roses are red,\nviolets are blue.", 1),
        ("1. Boil water.\n2. Add tea.", 2),
        ("- Boil water\n- Add tea", 2),
        ("**Bold claim.** Plain claim.", 2),
        ("What?! No.", 2),
        ("i like tea. you like milk.", 2),
        ("On Jan. 5 we met.", 1),
        ("It was Sept. 11, 2001.", 1),
        ("He was born in Feb. and she in Oct. of that year.", 1),
        ("We met in Jan. The snow was deep.", 2),
        ("I saw Jan. She was well.", 2),
        ("It happened in May. 5 people came.", 2),
        ("Lt. Dan lost his legs, and Maj. Tom was lost.", 1),
        ("See vol. 2, pp. 3-5.", 1),
        ("The answer is B. Option A is wrong.", 2),
        ("The answer is (B). Paris is in France.", 2),
        ("Take option C. Nobody else will.", 2),
        ("Oranges give vitamin C. Carrots do not.", 2),
        ("The author is J. Smith.", 1),
        ("The answer came from J. Smith and B. Jones.", 1),
        ("Harry S. Truman won.", 1),
        # Scripts whose full stop needs no space after it.
        ("\u8fd9\u662f\u7b2c\u4e00\u53e5\u3002\u8fd9\u662f\u7b2c\u4e8c\u53e5\u3002", 2),
        ("\u4f60\u597d\uff01\u4f60\u53eb\u4ec0\u4e48\uff1f\u6211\u53ebAnna\u3002OK\uff01", 4),
        ("\u4ec0\u4e48\uff1f\uff01\u6211\u4e0d\u77e5\u9053\u3002", 2),
        ("\u300c\u306f\u3044\u3002\u300d\u3068\u8a00\u3063\u305f\u3002", 1),
        ("\u8fd9\u662f3.5\u516c\u65a4\u3002", 1),
        ("\u092f\u0939 \u090f\u0915 \u0939\u0948\u0964 \u092f\u0939 \u0926\u094b \u0939\u0948\u0964", 2),
        ("\u092f\u0939 \u090f\u0915 \u0939\u0948\u0964\u092f\u0939 \u0926\u094b \u0939\u0948\u0964", 2),
        ("\u0645\u0627 \u0647\u0630\u0627\u061f \u0647\u0630\u0627 \u0643\u062a\u0627\u0628.", 2),
    ],
)
def test_sentences_are_counted_as_a_reader_counts_them(text: str, count: int) -> None:
    assert len(sentences(text)) == count, sentences(text)


def test_sentences_are_the_same_after_normal_form_has_folded_wide_marks() -> None:
    text = "\u4f60\u597d\uff01\u4f60\u53eb\u4ec0\u4e48\uff1f\u6211\u53eb\u738b\u3002"
    assert len(sentences(text)) == len(sentences(normalise(text))) == 3


def test_words_are_split_at_white_space_and_need_a_letter_or_digit() -> None:
    assert words("well-known - don't, 3.5 % !") == ["well-known", "don't,", "3.5"]


def test_normal_form_straightens_quotes_and_dashes_but_keeps_lines() -> None:
    assert normalise("\u201cIt\u2019s\u201d\u200b\r\n2\u20133") == '"It\'s"\n2-3'
    assert fold("  **\u00c9mile**   Bront\u00eb ") == "emile bronte"


def test_plain_text_writes_contractions_out() -> None:
    assert (
        plain("I can\u2019t, won't and don't; it's what I'm not.")
        == "i can not, will not and do not; it is what i am not."
    )
    assert plain("cannot") == "can not"
    assert plain("Anna's book") == "anna's book"


def test_quotations_are_cut_out_unless_they_are_all_there_is() -> None:
    assert "help" not in without_quotations('Say: "I can\'t help."')
    assert without_quotations('"I can\'t help."') == '"I can\'t help."'


def test_phrases_are_whole_words_whatever_the_case_and_accents() -> None:
    assert find_phrase("Bronte", "by Charlotte BRONT\u00cb.")
    assert find_phrase("way out", "the way\n out")
    assert not find_phrase("ink", "I think")
    assert not find_phrase("ocean", "oceans")


def test_paragraphs_stand_between_blank_lines() -> None:
    assert paragraphs("One.\nStill one.\n\n***\n\nTwo.\n \nThree.") == ["One.\nStill one.", "Two.", "Three."]


def test_wordings_expand_classes_and_start_at_a_word() -> None:
    pattern = wordings(
        r"""
        # a comment
        <who> (?:runs|\
            walks)\b
        ^only here\b
        """,
        animal="cat|dog",
        who="""
            the <animal>
            everybody
        """,
    )
    assert pattern.search("see the dog walks")
    assert pattern.search("everybody runs")
    assert not pattern.search("lathe cat runs")
    assert pattern.search("only here")
    assert not pattern.search("not only here")
    assert not pattern.search("a comment")
    with pytest.raises(ValueError, match="ends with a space"):
        wordings("<name>", name="lost ")
