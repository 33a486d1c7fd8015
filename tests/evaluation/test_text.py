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
    ],
)
def test_sentences_are_counted_as_a_reader_counts_them(text: str, count: int) -> None:
    assert len(sentences(text)) == count, sentences(text)


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
