"""The wordings of abstentions, of premise corrections and of guesses, for `abstain.py`.

They are matched against text with contractions written out (`text.plain`); `text.wordings` says how to read them.
"""

from __future__ import annotations

import re

from burnish.evaluation.text import word_set, wordings

LEAD_IN = wordings(
    r"""
    ^(?:i am )?(?:very |so |really )?(?:sorry|afraid)(?: about that| to say)?[.,!]*$
    ^(?:that is |what )?(?:such )?(?:an? )?(?:very |really )?<kind> (?:one|question)[.,!]*$
    ^(?:i|we|let us) hope (?:so|not)[.!]*$
    ^(?:who knows|i wish i knew|if only (?:i|we) knew)[?.!]*$
    ^(?:thanks?|thank you)(?: for asking)?[.,!]*$
    ^(?:hm+|well|ah|oh|unfortunately|actually|honestly)[.,!]*$
    """,
    kind="good|great|interesting|fascinating|fun|hard|tough|tricky|deep|big",
)

_SPEAKER = {
    "adv": r"""(?:,? (?:really|simply|just|also|sadly|unfortunately|honestly|actually|yet|currently|possibly|still\
        |truly|reliably|genuinely|ever),?)*""",
    "I": "(?:i|we)(?: am afraid(?: that)? (?:i|we))?<adv>",
    # What a speaker can't do who has no way to know.
    "sense": """
        know|be (?:sure|certain)|tell|say|see|predict|foresee|forecast|look|check|read|hear|open|view|access|find
        identify|confirm|verify|determine|count|remember|recall|give|name|answer|judge|measure|track|translate|correct
        describe|list|provide|decide|promise|guess|speculate|guarantee|explain|detect|observe|feel|watch|reach|search
        browse|compare|prove|locate|date|state|point to|speak for|smell|taste|vouch
    """,
    "things": """
        photos?|pictures?|images?|files?|attachments?|documents?|letter|text|notes?|invoice|message|sign|audio
        recording|links?|table|chart|screenshot|emails?|list|code|article|video|page|receipt|drawing|sketch|essay
        menu|map|poem
    """,
    "shared": "attached|included|shared|sent|uploaded|pasted|provided|visible|through",
    "here": "here|below|above|to (?:read|look at|see|translate|correct|compare|judge)|(?:in|with) (?:this|our|your)",
    "told": """
        told|tell|shared?|shown?|given?|attach(?:ed)?|said|say|mention(?:ed)?|includ(?:ed?)|upload(?:ed)?|pasted?
        sen[dt]|provided?|specif(?:ied|y)
    """,
}
SPEAKER_DOES_NOT_KNOW = wordings(
    r"""
    <I> do not<adv> (?:know|remember|recall|recogni[sz]e|have|see (?:any|an?|the|your))\b
    <I> (?:can|could) not<adv> <sense>\b
    <I> (?:can|could) not,? (?:because|as|since)\b
    <I> (?:am|are)<adv> not<adv> (?:sure|certain|aware|familiar|able to <sense>)\b
    <I> (?:am|are)<adv> (?:unable to <sense>|unaware|unsure|uncertain|unfamiliar)\b
    <I> (?:have|had) no (?!doubt|problem|objection|trouble|choice|interest|intention|need)\w+
    <I> (?:know of|am aware of|have heard of|see|find|found|know|can find|could find) no\b
    <I> have (?:not|never)<adv> (?:heard|seen|come across|met|encountered|received|been (?:told|given|shown))\b
    <I> did not<adv> (?:receive|get) (?:any|an?|the|your)\b
    <I> was not (?:there|told|given|present|shown)\b
    <I> (?:will|may|might|shall|can)(?: probably| likely| surely)? never<adv> \
        (?:know|find out|learn|be (?:sure|certain|able))\b
    <I> (?:lack|keep no|hold no)\b
    \w+ and <I> do not(?=[,.;:]|$)
    (?:not|nothing) (?:something |anything |an? (?:\w+ ){1,2})?(?:that )?<I>(?: would)? \
        (?:know|recogni[sz]e|(?:can|could) <sense>|have|am aware|came across)\b
    not in any(?:thing| \w+)(?: that)? <I>\b
    my (?:knowledge|information|training|data|memory)(?: data)? \
        (?:does not|stops?|ends?|only goes|goes only|is limited)\b
    <I> would (?:only|just) be guessing\b
    your guess is (?:as good as|better than)\b
    (?:that|this|it) is between you and\b
    ^(?:sorry,? )?(?:no idea|not sure|impossible to (?:say|know|tell)|unknown(?= to me|[.!,;:]|$))(?!\w)
    # The user did not say or show it.
    you (?:have|did|had) not (?:yet )?<told>\b
    only you (?:can |would |could |will )?(?:know|tell|remember|say)\b
    (?:no|not any|not an?) (?:\w+ )?<things>(?: \w+){0,3} (?:<shared>|<here>)\b
    (?:nothing|no (?:\w+ ){1,2})(?:came|has come|have come|comes) (?:through|with)\b
    your (?:\w+ ){1,3}(?:is|are|was|were) not <shared>\b
    nothing (?:is|was|has been|about [^.;]{1,50} has been) <shared>\b
    """,
    **_SPEAKER,
)

_ANYBODY = {
    "source": """
        human|person|scientist|forecaster|forecast|expert|historian|source|instrument|ledger|model|chronicle
        document|record|method|theory
    """,
    "nobody": r"(?:nobody|no one|no-one|none of us|no <source>s?)",
    "know": """
        know|be (?:sure|certain)|tell|say|predict|foresee|forecast|find out|determine|name|answer|work out|identify
        count|measure|check|see|give|guess|calculate|verify|confirm|pin down|put a (?:date|number)|judge|estimate
    """,
    "knows": """
        knows?|known|knew|tells?|says?|said|predicts?|predicted|foresee|counted|count|recorded|records?|wrote|written
        measured?|sure|certain|agrees?|proven?|proved|answer(?:ed)?|explain(?:ed)?|decided?|guess|names?|settled?
        determined?|understands?|solved|kept|noted|mentions?|survives?|reach(?:es)?
        give (?:an?|the|that) (?:exact|precise|date|definite|certain|sure|day)
        found (?:out|an answer|proof|evidence)
    """,
    "found_out": """
        known|predicted|foreseen|determined|answered|settled|proven|proved|decided|verified|forecast|established
        worked out
    """,
    "unknown": """
        unknown|unknowable|unpredictable|undecided|undetermined|uncertain|unrecorded|unsolved|unresolved|unanswered
        unproven|an (?:open|unsolved|unanswered|unresolved) (?:question|problem|mystery|puzzle)
        a mystery(?! (?:novel|story|book|film|play))|any(?:one|body)'s guess|(?:pure |mere )?speculation
        a question (?:that )?(?:nobody|no one|science)
        not (?:yet )?(?:clear|known|recorded|decided|settled|predictable|written down|documented|understood)
        not (?:yet )?(?:determined|knowable|public|something (?:i|we|anyone) can)
    """,
    "done": """
        happened|taken place|been (?:held|played|decided|written|made|born|built|drawn|cast)
        been (?:chosen|elected|awarded|announced|run|set)
    """,
    "people": """
        (?:(?:scientists|philosophers|experts|historians|researchers|physicists|people|thinkers|scholars|science\\
        |\\w+ologists|astronomers|mathematicians|economists|linguists)(?: and )?){1,2}
    """,
    "sources": "history|records?|sources?|chronicles?|the (?:text|story|book|bible|sources|records|evidence)",
    "verdict": """
        answer|consensus|agreement|proof|records?|count|census|register|evidence|right or wrong|objective(?:ly)?
        (?:exact|definitive|agreed|settled|known|reliable) \\w+
    """,
}
NOBODY_KNOWS = wordings(
    r"""
    <nobody>\b(?: \w+){0,4} <knows>\b
    <nobody> (?:has|have|had) (?:ever|yet)\b
    <nobody> (?:has|have|had)\b[^.;:]* yet\b
    no (?:\w+ ){0,2}(?:way|means) (?:for \w+ )?(?:to|of)(?: \w+ly)? (?:<know>|\w+ing)\b
    there is no (?:telling|knowing|saying)\b
    (?:too (?:far (?:off|ahead|away|in the future)|many unknowns)|for anyone to <know>)\b
    (?:is|are|was|were|has been|have been) never (?:\w+ly )?<recorded>\b
    (?:is|are|was|were) lost (?:to|in) (?:history|time)\b
    (?:may|might) not (?:even )?(?:have been|be) born yet\b
    (?:impossible|not possible|too (?:early|soon)|no use trying) (?:for \w+ )?to <know>\b
    (?:hard|difficult|tricky) to (?:say|tell|know|predict|answer|be sure)\b
    (?:predicting|knowing|counting|forecasting|naming)\b[^.;]{0,80}\b(?:is|would be) (?:not possible|impossible)\b
    (?:can|could) not(?: \w+ly| yet| ever)? be (?:\w+ly )?<found_out>\b
    (?:is|are|was|were|remains?|stays?)(?: still| currently| largely| as yet| \w+ly)* <unknown>\b
    (?:is|are) not enough (?:\w+ )?(?:information|data|evidence|detail|context)\b
    (?:remains?|yet) to be (?:seen|decided|determined|known|written)\b
    only time (?:will|can|could) tell\b
    (?:has|have) not (?:even )?(?:yet )?<done>\b
    (?:has|have) not [^.;:]{1,40} yet\b
    (?:has|have|is|are) yet to (?:be|happen|take|come)\b
    (?:lies|is still|are still|is) in the future\b
    # It is not settled, or a matter of taste.
    there (?:is|was|can be|are|were) (?:\w+ )?no (?:\w+ ){0,2}<verdict>\b
    (?:no|without an?) (?:\w+ ){0,3}answer\b
    <sources> (?:do|does|did) not (?:tell|say|record|mention|name|show)\b
    <people> (?:still )?have no (?:idea|answer|explanation|agreed)\b
    <people> (?:still )?(?:do not (?:yet )?(?:know|agree)|disagree|differ|(?:can|has|have) not (?:yet )?\w+)\b
    <people> (?:still )?(?:debate|argue|continue to|have (?:long |always )?(?:argued|debated|disagreed))\b
    <people> (?:still )?are (?:not (?:sure|certain|able to)|unable to|divided|still \w+)\b
    (?:still|hotly|much|widely) (?:being )?(?:debated|disputed|argued|contested)\b
    (?:a|purely|entirely|just) (?:\w+ly )?matter of (?:personal |individual )?<taste>\b
    depends? (?:entirely |only |purely )?on (?:who you ask|(?:your |personal |individual )?(?:own )?taste)\b
    """,
    recorded="""
        recorded|counted|written down|documented|measured|preserved|revealed|published|announced|established|found|noted
    """,
    taste="taste|opinion|preference|debate|belief|faith",
    **_ANYBODY,
)

NO_SUCH_THING = wordings(
    r"""
    no such\b
    (?:does|do|did) not (?:seem to |appear to |actually |really )?exist\b
    never existed\b
    there (?:was|were|has|have) never\b
    (?:does|do|did) not (?:seem|appear|look) to be\b
    (?:does|do) not ring a bell\b
    (?:no|not|never)\b[^.;]{0,70}\b(?:by|of|with|under) (?:that|this|such a) (?:name|title|description)\b
    there (?:is|was|are|were) no(?:t| [^.;]{0,60}) (?:called|named|known as)\b
    (?:no|nothing|nobody)(?: \w+){0,3} (?:called|named|known as)\b
    no (?:\w+ ){1,3}(?:is|was|are|were|goes by|has been) (?:called|named|known)\b
    not (?:an? )?(?:real|actual|existing) <thing>\b
    (?:appears?|seems?|looks?|sounds?|may|might) (?:to be |be |like )?(?:an? |something )?<made_up>\b
    """,
    thing="""
        place|person|animal|town|city|book|word|thing|country|film|theorem|event|product|company|battle|plant|fruit
        one|novel|river|language|dish|island|mountain|term
    """,
    made_up="made[- ]up|fictional|fictitious|invented|imaginary|not real",
)

FALSE_PREMISE = wordings(
    r"""
    (?:that|this|it) (?:is|was) not (?:\w+ly |quite )?(?:right|correct|true|accurate|the case|so)\b
    (?:premise|assumption)\b[^.;]{0,40} (?:is|was) (?:\w+ly )?(?:not|false|wrong|mistaken|incorrect|untrue)\b
    (?:challenge|question|correct) (?:the|that|this|your) (?:premise|assumption)\b
    (?:a|an|some) (?:mistake|error|mix-up|confusion) in (?:the|your|this)\b
    (?:the|this|your) question (?:assumes|rests on|contains|is based on|has a (?:false|mistaken|wrong))\b
    is (?:actually )?an? (?:common |popular |old )?(?:myth|misconception|mix-up|misunderstanding|legend)\b
    (?:that|this|the) (?:<claim> )?(?:is|was) (?:simply |just )?(?:false|untrue|mistaken)\b
    (?:nothing to do with|nothing of the (?:sort|kind))\b
    (?:the )?other way (?:a)?round\b
    (?:that|this|it|he|she|they) <never> (?:actually |really )?<occurred>\b
    you (?:may|might|must|seem to|could) be (?:thinking of|mixing|confus)
    # Out of its time: "Beethoven died in 1827, fifty years before sound could be recorded".
    (?:died|lived|was born|were born|ended|closed)\b[^.;]{0,40}\
        (?:years|decades|centuries|long|shortly) (?:before|after)\b
    (?:was|were) not (?:even |yet )?(?:born|invented|built|founded|discovered)(?: until)?\b
    """,
    claim="saying|claim|story|idea|belief|statement|notion",
    never="never|did not|does not|do not|was never|were never",
    occurred="happen(?:ed)?|exist(?:ed)?|take place|took place|occur(?:red)?|(?:do|did) (?:that|so|this|any)",
)

# Kinds of question.
PRESUPPOSES = wordings(
    r"""
    ^(?:.*[.:;!?,]\s*)?(?:so |and |but |please |tell me |explain |describe |say )*<asked>\b
    (?:in|on|at|from|during|to|for|with|by|since|under) (?:which|what|whose)\b
    ^(?:tell me|explain|describe|give|name|list|say|summari[sz]e|remind)\b
    """,
    asked="why|when|where|who|whom|whose|which|what|how",
)
ASKS_WHETHER = wordings(r"^(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might)\b")
ASKS_WITH_A_DENIAL = wordings(r"(?:not|never|no|nothing|neither|nor|without|myth|false)\b")
ASKS_FOR_A_DEFINITION = wordings(r"(?:differ\w*|compare\w*|versus|vs|means?|meaning|defin\w+|stands? for)\b")
ASKS_OF_THE_PAST = wordings(r"(?:did|was|were|has|have|had)\b")
DEFINES = wordings(r"(?:what (?:is|are|was|were|does)|who (?:is|are|was|were)|mean(?:s|ing)?|define)\b")
NAMES_A_KIND = wordings(r"^(?:an?|one)\b")
CREATIVE = wordings(
    r"^(?:please |can you |could you |now )*(?:write|compose|make up|invent)\b[^.?!]{0,40}\b<piece>\b",
    piece="(?:poem|story|song|verse|line|haiku|limerick|tale|lyrics|dialogue|monologue|scene|joke|rhyme|play)s?",
)
PRONOUN = re.compile(r"^(?:actually,? |in fact,? |but |well,? )*(?:it|he|she|they|this|that|these|those)\s*$")
RELATIVE = re.compile(r"\w,? (?:for |of |in )?(?:that|which|whom|what|whose)\s*$")
ASKS_HOW_MANY = wordings(r"how (?:many|much)\b")
ASKS_FOR_A_TIME = wordings(r"(?:when|how long|(?:what|which) (?:year|date|time|day|month|decade|century))\b")
ASKS_OF_AN_END = wordings(r"(?:stop(?:s|ped)?|end(?:s|ed)?|ceased?|closed?|happen(?:s|ed)?|bec[ao]mes?)\b")
# "What is the" and "what is my" ask for one thing, which has a name or a number; these ask for a sentence.
ASKS_TO_EXPLAIN = wordings(
    r"""
    ^(?:so |and |but |please )*(?:why|how (?:do|does|did|is|are|was|were|can|come)|explain|describe)\b
    ^(?:so |and |but |please )*what (?:causes?|caused|makes?|made|happens|happened)\b
    ^(?:so |and |but |please )*what (?:is|are) (?!the|my|your|our|his|her|their|its|in|on|at)\w+
    """
)
ASKS_FOR_A_NUMBER = wordings(
    r"""
    how (?:many|much|long|old|far|tall|high|big|large|heavy|fast|deep|warm|cold|hot|wide|often)\b
    (?:when|(?:what|which) (?:year|date|time|day|age|number|price|percentage))\b
    (?:number|count|exact|price|cost|score|date|age|population|temperature|rate|total)\b
    """
)

# Denials of what a question takes for granted.
DENIAL = wordings(
    r"""
    (?:do|does|did|is|was|were|are|has|have|had|can|could|would) not\b
    (?:never|none of|no)\b
    \w+ only (?:one|two|three)\b
    """
)
NOT_UNTIL = wordings(r"(?:not|never)\b[^.;:]*? (?:(?:until|till)\b|since (?:\w+ ){0,2}\d)")
HAS_NONE = re.compile(r" (?:\w+ly )?(?:have|\w+ any)\b")
FLAT_DENIAL = wordings(
    r"""
    ^(?:actually,? |in fact,? |but )*<them>(?: never)? <auxiliary> not(?=\s*[.:;,!]|$| - )
    ^(?:actually,? |in fact,? |but )*<them> never <auxiliary>(?=\s*[.:;,!]|$| - )
    ^(?:actually,? |in fact,? |but )*(?:none of (?:them|these)|nobody|no one) <auxiliary>(?=\s*[.:;,!]|$| - )
    """,
    them="(?:he|she|it|they|there)",
    auxiliary="(?:do|does|did|is|was|were|are|has|have|had)",
)
NOT_THIS = re.compile(r",(?: and)? not (?:\w+ ){0,2}\w+")
GIVES_A_REASON = re.compile(r"\w,? (?:because|since|so that|in order) ")
SPEAKS_OF_ITSELF = re.compile(r"\b(?:i|we|you)(?: am| are)?\s*$")
NEVER_DID = wordings(r"never (?:\w+ly )?\w+")

# Answers that come with an abstention.
NUMBER = r"""(?:\d[\d,.]*|(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty\
    |sixty|seventy|eighty|ninety|a dozen|hundred|thousand|million|billion|trillion)s?)"""
GUESS = wordings(
    r"""
    i <think>\b(?! (?:nobody|no one|that nobody|that no one|it is impossible|not|that))
    my (?:best |own )?(?:guess|estimate|bet)\b
    if i had to (?:guess|choose|pick|say)\b
    ^(?:probably|maybe|perhaps|possibly|most likely|likely)\b(?! (?:not|nobody|no one|never))
    <it>(?: <be>)? (?:probably|most likely|likely|perhaps|maybe)\b(?! (?:not|never|no|unknow|impossible))
    """,
    think="""
        think|believe|guess|suspect|reckon|assume|imagine|would (?:guess|say|bet|imagine|estimate)
        am (?:fairly|pretty|quite) (?:sure|certain)
    """,
    it="it|he|she|they|you|that|the answer",
    be="is|are|was|were|will be|will|would be",
)
ESTIMATE = wordings(
    r"<about> (?:an? |the |[$\u00a3\u20ac])?<number>\b",
    number=NUMBER,
    about=r"""
        about|around|roughly|approximately|nearly|almost|over|between|some|at least|up to|more than|less than
        fewer than|close to|probably|maybe|perhaps|likely|estimated at|estimates?(?: \w+){0,5}|estimated to be
        average of|put it at|put the \w+ at
    """,
)
A_NUMBER = wordings("<number>\\b", number=NUMBER)
AHEAD = wordings(r"(?:ahead|in advance|beforehand)\b")
CONTRAST = re.compile(r"\b(?:but|however|though|although|nevertheless|that said|yet)\b[, ]*", re.IGNORECASE)
APOLOGY = re.compile(r"^(?:(?:i am )?(?:very |so |really )?(?:sorry|afraid)|unfortunately)[, ]+(?:but )?")
CLAUSE_BEFORE = re.compile(r"\w[,;]? (?:and|but|although|though|while|even if|yet) [^,]*$|;[^;]*$")
GOES_ON = wordings(
    r"""
    ^(?:i )?can (?:provide|offer|give|share|suggest|tell)\b
    ^(?:here (?:is|are)|there are (?:some|several|a few|many))\b
    """
)
STATES_IT = wordings(
    r"^<it>(?: \w+ly)? <was>\b(?!(?: \w+ly)? <vague>\b)",
    it="it|he|she|they|the answer|that|this",
    was="""
        is|was|were|are|will be|will|would be|may be|might be|could be|must be|has been|happened|took place|began
        ended|came|went|wrote|won|died|lived
    """,
    # Complements that state nothing: "but it is hard to say", "but it will be decided next year".
    vague="""
        not|never|no|possible|impossible|hard|difficult|unlikely|up to|unknown|unclear|clear|worth|best|better|often
        usually|still|being|a matter|only|too|easy|based|decided|open|able|many|several|some|various|different|thought
        believed|said|likely|set|known (?:as|for)|available|published|listed|on|under|expected|fun|interesting|natural
        understandable|depends?|take|help|tell|show|vary|change|need|generally|sometimes|what|one of|considered
        debated|argued|a (?:good|common|popular|difficult)|an (?:interesting|old|open)
        be (?:decided|known|published|announced|shown|clear|interesting)
    """,
)
WITHOUT_CONTENT = word_set(
    """a about after again all also am an and any are as at away be because been before being but by can could did do
    does doing done down during each else ever every exactly few first for from give go going gone got had has have he
    her here him his how i if in into is it its just like many may me might more most much my name new no nor not now
    of off on once one only or other our out over own please really right said same say see she should since so some
    still such sure take tell than that the their them then there these they thing this those through time to too
    under until up us use used very was way we were what when where which while who whom whose why will with without
    would year yes yet you your"""
)
