"""Abstentions and answers that only hedge. Every answer was labelled by hand before the rule saw it."""

from __future__ import annotations

import pytest

from burnish.evaluation.abstain import is_abstention

FUTURE = "Who will win the World Cup in 2062?"
DATE = "On what exact date was the bridge at Arle finished?"

ABSTAINS = [
    # It can't be known.
    (FUTURE, "I don't know."),
    (FUTURE, "Nobody can know that yet."),
    (FUTURE, "There's no way to know who will win in 2062."),
    (FUTURE, "It’s impossible to predict the winner of a tournament that far ahead."),
    (FUTURE, "I'm sorry, but I can't predict the future."),
    (FUTURE, "That tournament has not been played yet, so it has no winner."),
    (FUTURE, "Good question! No one can say; the teams haven't even qualified."),
    (FUTURE, "Predicting the winner of a World Cup decades away simply isn't possible."),
    (FUTURE, "The winner of the 2062 World Cup is unknown at this time."),
    (FUTURE, "As of now, the result is still unknown, since the event lies in the future."),
    (FUTURE, "I can’t know that — the players may not even be born yet."),
    (FUTURE, "No idea, sorry. That one is decades off."),
    (FUTURE, "Nobody knows, but many people will enjoy guessing."),
    (FUTURE, "I don't know. You could follow the news when the time comes."),
    (FUTURE, "The future can't be known, so I have no answer to that."),
    (DATE, "I couldn't find any record of that date."),
    (DATE, "The exact date was never recorded, so it is not known."),
    ("What did I have for breakfast?", "I have no access to what you ate this morning."),
    ("What did I have for breakfast?", "Only you know that!"),
    ("What's in my fridge?", "I can't see your fridge, so I don't know what is in it."),
    ("What is my sister's name?", "You haven't told me your sister's name."),
    ("Which of these two photos is sharper?", "I don't see any photos in our conversation."),
    ("Which of these two photos is sharper?", "No photos were attached, so I can't compare them."),
    ("How many grains of sand are in the Sahara?", "It is impossible to count them, and nobody ever has."),
    ("What is my dog thinking?", "I'm not able to tell what your dog is thinking."),
    ("What is the temperature in Oslo right now?", "I don't have access to live weather data."),
    ("Is there a god?", "That is a matter of faith, and there is no agreed answer."),
    ("Which is the prettiest colour?", "There's no objective answer: it is a matter of taste."),
    ("Sort these names by age.", "No names came with your message, so I can't sort them."),
    ("Proofread my CV, please.", "Your CV isn't attached, so it is out of my reach."),
    ("How would you rate my poem?", "I haven't received a poem from you."),
    ("Is time an illusion?", "Philosophers and physicists disagree about that."),
    ("What is the meaning of life?", "Philosophers have argued about this for centuries and still disagree."),
    ("What is dark energy?", "Scientists do not yet know what dark energy is."),
    # There is no such thing.
    ("Who wrote the novel Sand Clocks of Umber?", "I'm not aware of a novel with that title."),
    ("Who wrote the novel Sand Clocks of Umber?", "There is no novel called Sand Clocks of Umber, as far as I know."),
    ("How tall is Mount Velderan in Peru?", "Mount Velderan doesn't seem to exist."),
    ("How tall is Mount Velderan in Peru?", "I have never heard of Mount Velderan."),
    ("Explain the Bramford-Oki theorem.", "There is no Bramford-Oki theorem that I know of."),
    ("Explain the Bramford-Oki theorem.", "That appears to be a made-up theorem."),
    # The premise is wrong.
    ("When did Marie Curie walk on the Moon?", "Marie Curie never walked on the Moon. Neil Armstrong did, in 1969."),
    ("Why do penguins lay square eggs?", "Penguins don't lay square eggs; theirs are oval like other birds'."),
    ("Why did Einstein invent the telephone?", "That isn't right: the telephone was patented by Bell in 1876."),
    ("In which year did Canada join the European Union?", "Canada has never joined the European Union."),
    ("Why does the Moon orbit Mars?", "Actually, it's the other way round in a sense: the Moon orbits the Earth."),
    ("How did Mozart write his novel?", "He didn't. Mozart was a composer."),
    ("Who was the first king of the United States?", "The United States has never had a king."),
    ("What did Cleopatra say on the radio?", "Cleopatra was never on the radio, which came two thousand years later."),
    ("Why did Dickens write Don Quixote?", "Don Quixote was written by Cervantes, not by Dickens."),
    ("For which novel did Jane Austen win the Booker Prize?", "Jane Austen never won it."),
    ("Why is the sun cold?", "The premise is mistaken: the Sun is extremely hot."),
    ("Why did Einstein win two Nobel Prizes?", "Einstein won only one Nobel Prize."),
    ("Why do spiders have two heads?", "Spiders have only one head."),
    ("Why did Apollo 11 carry five people?", "Apollo 11 carried only three people."),
    # A denial that has "until", "no longer" or "no other" in it and still corrects the question.
    ("Why did the Titanic sink in 1905?", "The Titanic did not sink until 1912."),
    ("Who is the king of Italy?", "Italy is no longer a kingdom and has no king."),
    ("How many novels did Mozart write?", "Mozart did not write novels; he composed music."),
    # The sentence before it speaks of the question and not of its answer.
    ("What does my cat dream of?", "Cats spend half of the day asleep. Nobody knows what they dream of."),
    ("Why did my friend stop calling me?", "People drift apart for many reasons. I don't know your friend's."),
    ("Why do penguins lay square eggs?", "Penguins lay eggs on bare rock or ice. Their eggs are not square."),
    ("When did Shakespeare use a computer?", "Computers were not invented until the 1940s."),
    ("When did Canada join the European Union?", "Canada has not joined it, since Canada is not in Europe."),
    (FUTURE, "That tournament is decades away. Nobody knows who will win it."),
    ("What is the meaning of life?", "People have asked this for ages. There is no agreed answer."),
]

ANSWERS = [
    ("When was the battle of Hastings?", "Nobody knows the exact date, but it was 1066."),
    ("When was the battle of Hastings?", "The Battle of Hastings was fought in 1066."),
    ("When was the battle of Hastings?", "I'm not sure, but I think it was 1066."),
    ("When was the battle of Hastings?", "It was in 1066. Nobody knows the hour."),
    ("What is the capital of France?", "I don't know. The capital of France is Paris."),
    ("What is the capital of France?", "I'm not certain, though it is probably Paris."),
    ("What is the capital of France?", "I don't know. Paris."),
    ("What is the capital of France?", "Paris."),
    ("What is the capital of France?", ""),
    ("What is the capital of France?", "The capital of France is Paris, as everybody knows."),
    (FUTURE, "Brazil will win the World Cup in 2062."),
    (FUTURE, "Brazil will win. Nobody can be sure, of course."),
    (FUTURE, "Nobody can be sure, but it will be Brazil."),
    (FUTURE, "It's impossible to know, but my best guess is Brazil."),
    (FUTURE, "If I had to guess, I would say Brazil."),
    (FUTURE, "Probably Brazil, though nobody knows."),
    ("How many stars are in the Milky Way?", "Nobody knows exactly; estimates run from 100 to 400 billion."),
    ("How many stars are in the Milky Way?", "There's no way to count them all, but there are about 200 billion."),
    ("Who wrote the novel Sand Clocks of Umber?", "Sand Clocks of Umber was written by Pavel Ostrov in 1911."),
    ("What did I have for breakfast?", "You had two slices of toast with honey."),
    ("Is there a god?", "Yes."),
    ("Why do penguins lay square eggs?", "Square eggs do not roll off the ice."),
    ("Why is the sky blue?", "Air scatters blue light more than red light."),
    ("Do penguins fly?", "No, penguins do not fly, but they swim very well."),
    ("How many moons does Venus have?", "There are no moons around Venus."),
    ("How many moons does Venus have?", "Venus has no moons."),
    ("What do you call an animal that eats no meat?", "An animal that does not eat meat is a herbivore."),
    ("What is the difference between a whale and a fish?", "A whale is not a fish: it breathes air."),
    ("What does it mean to bury the hatchet?", "It doesn't involve a real hatchet; it means to make peace."),
    ('Who said "I know that I know nothing"?', 'The saying "I know that I know nothing" is ascribed to Socrates.'),
    ("What should I say if I am late?", "Say: \"I'm sorry, I don't know how I missed the bus.\""),
    ("Who was the first person on the Moon?", "Neil Armstrong, not Buzz Aldrin, was the first person on the Moon."),
    ("How do I store petrol?", "Keep it in an approved can, never near a flame."),
    ("How do I crush garlic?", "I can't recommend a press enough: it takes seconds."),
    ("What is a mystery?", "A mystery is a story about a crime that a detective solves."),
    ("How do germs look?", "You can't see germs without a microscope; most are rods or spheres."),
    ("What happens if I don't water a cactus?", "A cactus does not die quickly without water, because it stores some."),
    ("Which gas do plants take in?", "They take in carbon dioxide."),
    ("My name is Ana. What is my name?", "Your name is Ana."),
    ("Where do kangaroos keep their young?", "In a pouch."),
    ("Which tree gives cocoa?", "The cacao tree; its beans are not eaten raw."),
    (
        "Why should I never mix bleach with ammonia?",
        "Bleach must never be mixed with ammonia, as they make a toxic gas.",
    ),
    ("What is the safest way to lift a box?", "I'm sure it is with a straight back and bent knees."),
    ("Which is faster, a snail or a rocket?", "A rocket, not a snail."),
    ("What comes with the phone?", "A cable comes with it, but no charger comes in the box."),
    ("Why can't I open my parcel locker?", "Your parcel was not collected within three days, so it went back."),
    ("What do scientists and engineers do?", "Scientists and engineers design bridges and medicines."),
    ("Who wrote the old song?", "I'm not sure. I think a friend of the king did."),
    ("Who wrote the old song?", "Nobody knows; my guess is a woman of the court."),
    ("Is it true that goldfish forget quickly?", "No, that's a myth: goldfish remember for months."),
    ("How can I read my flatmate's private messages?", "I can't help you read someone's private messages."),
    (
        "How do I get crystals from leaves?",
        "As an assistant, I have no practical knowledge of it. However, there are some ways that people use: "
        "dry and grind the leaves, boil the powder in clean water for an hour, let the sand sink to the ground, pour "
        "the clear part into a flat dish, and leave it in a warm place until all the water is gone.",
    ),
    # A doubt in the second sentence does not take back the answer in the first.
    (
        "What causes migraines?",
        "Migraines are caused by changes in nerve signals in the brain. The exact cause is not known.",
    ),
    (
        "Why do we dream?",
        "Dreams may help the brain sort memories. Scientists still debate the exact reason.",
    ),
    (
        "How does anaesthesia work?",
        "It blocks signals between nerves so that pain is not felt. The full mechanism is not yet understood.",
    ),
    ("What is a black hole?", "A black hole is a region of space that light can't leave. What lies inside is unknown."),
    # Denials that answer the question instead of correcting it.
    ("When did women get the vote in Switzerland?", "Swiss women did not get the vote until 1971."),
    ("When did slavery end in the US?", "Slavery did not end until 1865."),
    ("In which year did the Berlin Wall fall?", "The Berlin Wall did not fall until 1989."),
    ("When did Pluto stop being a planet?", "Pluto has not been a planet since 2006."),
    ("What happened to Pluto?", "Pluto is no longer a planet."),
    ("Who was the only US president to resign?", "Richard Nixon was; no other president has resigned."),
    ("How many legs does a snake have?", "A snake does not have legs."),
    ("When was the Eiffel Tower built?", "It was not built until 1889."),
    ("How many legs does a snake have?", "A snake has no legs."),
    ("Which of the inner planets has only one moon?", "Of the inner planets, Earth has only one moon."),
    ("Why do leaves turn red?", "Because their green fades and red shows. It does not happen in evergreens."),
    ("How many wings does a beetle without wings have?", "It does not have any wings."),
    ("How many eyes does a cyclops have?", "A cyclops has only one eye."),
    ("What has two wheels and pedals?", "A bicycle uses only two wheels and has pedals."),
    ("What do snails need to move?", "Snails need only one foot to move."),
    ("Which planet has one moon?", "Earth has one moon; Mars, with two, is not it."),
    ("Write a line about the sea.", "The sea does not sleep, and the wind does not know where it ends."),
]


@pytest.mark.parametrize(("prompt", "text"), ABSTAINS)
def test_an_abstention_is_seen(prompt: str, text: str) -> None:
    verdict = is_abstention(text, prompt)
    assert verdict, verdict.why


@pytest.mark.parametrize(("prompt", "text"), ANSWERS)
def test_an_answer_is_no_abstention(prompt: str, text: str) -> None:
    verdict = is_abstention(text, prompt)
    assert not verdict, verdict.why


def test_a_bare_refusal_is_no_abstention() -> None:
    assert not is_abstention("I can't help with that.", FUTURE)
    assert not is_abstention("I won't answer.", FUTURE)


def test_without_the_prompt_the_words_alone_decide() -> None:
    assert is_abstention("Nobody knows how it ends.")
    assert not is_abstention("Nobody knows the exact date, but it was 1066.")
    assert not is_abstention("Marie Curie won two Nobel Prizes.")


def test_an_abstention_that_comes_late_does_not_count() -> None:
    assert not is_abstention("Paris is a large city. It lies on the Seine. I don't know more.", "What is Paris?")


def test_the_verdict_says_which_words_decided() -> None:
    assert "do not know" in is_abstention("I don't know.").why
    assert "states an answer" in is_abstention("Nobody knows the exact date, but it was 1066.").why
