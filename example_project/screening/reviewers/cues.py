"""The cues that the points reviewer counts. They were written by hand from abstracts of trials and of other papers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from example_project.screening.reviewers.patterns import any_of

if TYPE_CHECKING:
    import re


class Cue(NamedTuple):
    name: str
    points: int
    pattern: re.Pattern[str]


PEOPLE = r"(?:patients|subjects|women|men|volunteers|children|infants|mothers|adults|students)"

FOR_A_TRIAL = (
    # How the trial is designed.
    Cue("random allocation", 5, any_of(
        r"randomi[sz]ed | randomi[sz]ation | randomly | (?:at|in|on a) random\w*"
    )),
    Cue("placebo", 5, any_of(
        r"placebos? | dummy | sham"
    )),
    Cue("blinding", 5, any_of(
        r"(?:double|single|triple)[- ]blind(?:ed|ly)?"
        r" | blind(?:ed)? (?:trial|study|assessment|fashion)"
    )),
    Cue("crossover", 3, any_of(
        r"cross-?\s?over"
    )),
    Cue("trial", 3, any_of(
        r"(?:clinical|controlled|comparative|therapeutic|treatment|prospective|field|vaccine|open) trials?"
        r" | multi-?cent(?:re|er) trials?"
        r" | trials? (?:of|with|in) | in a trial"
    )),
    Cue("controlled study", 2, any_of(
        r"controlled (?:study|investigation|protocol|comparison) | prospective(?:ly)?"
    )),
    Cue("control group", 1, any_of(
        r"control groups? | treatment groups? | two groups | matched groups?"
        r" | untreated (?:group|patients|controls?)"
    )),
    # The people and what they are given.
    Cue("given to people", 2, any_of(
        rf"{PEOPLE} (?:\w+ ){{0,6}}(?:received|were given|given|were treated|treated with|took)"
        rf" | {PEOPLE} underwent treatment"
    )),
    Cue("people", 1, any_of(
        r"patients | volunteers | subjects | women | children | outpatients | inpatients | mothers"
        r" | infants | men"
    )),
    Cue("volunteers", 1, any_of(
        r"(?:healthy|normal|paid) (?:\w+ )?(?:subjects|men|adults) | volunteers"
    )),
    Cue("a dose", 1, any_of(
        r"\d+(?:\.\d+)?[- ]?(?:mg|g|micrograms?|mcg|mug|units?|iu|ml)(?:[/ ](?:kg|day|d|daily|m2)\w*)?"
        r" | (?:single|oral|daily|intravenous) doses? | per os | orally | daily | twice a day"
    )),
    Cue("comparison of treatments", 2, any_of(
        r"compar(?:ed|ing|ison|ative)[^.]{0,80}(?:with|versus|vs\.?|between|of)[^.]{0,60}(?:treat|therap|drug|mg|placebo|program)\w*"
        r" | versus | vs\."
    )),
    Cue("efficacy", 2, any_of(
        r"efficacy | effectiveness | effective than | as effective | therapeutic effects?"
        r" | beneficial effects? | side[- ]effects? | well tolerated | adverse (?:effects?|reactions?)"
    )),
    Cue("improvement", 1, any_of(
        r"improve(?:d|ment) | relief | remissions? | response rates? | responded"
        r" | prevent(?:ed|ion|ing) | prophyla\w+ | reduced | reduction"
    )),
    Cue("treatment", 1, any_of(
        r"treatments? | therapy | therapeutic | regimens? | programs? | training | vaccin\w+"
        r" | infusions? | administration"
    )),
)  # fmt: skip

AGAINST_A_TRIAL = (
    Cue("animals", -7, any_of(
        r"rats? | mice | mouse | rabbits? | dogs? | monkeys? | guinea[- ]pigs? | hamsters? | cats?"
        r" | sheep | pigs? | calves | cows? | cattle | chick(?:en|s|ens)? | murine | bovine | canine"
        r" | rhesus | swine | goats? | frogs? | fish | horses? | lambs? | puppies | animals?"
    )),
    Cue("laboratory", -3, any_of(
        r"in vitro | cell lines? | cultured | cultures? | homogenates? | membranes? | enzymes?"
        r" | mutants? | strains? | escherichia | receptors? | purified | molecular"
        r" | electron microscop\w+ | isolated from"
    )),
    Cue("case report", -5, any_of(
        r"(?:a|an|one|this) (?:\d+[- ]year[- ]old|case|patient) | case reports?"
        r" | cases? of .{3,60} (?:is|are) (?:reported|presented|described)"
        r" | report of (?:a|two|three) cases?"
    )),
    Cue("review or opinion", -3, any_of(
        r"review(?:s|ed)? | literature | discusses | is discussed | are discussed | survey(?:ed)?"
        r" | questionnaires? | retrospective(?:ly)? | history | epidemiolog\w+ | incidence"
        r" | prevalence | mortality rates?"
    )),
    Cue("a method", -2, any_of(
        r"(?:new|simple|rapid|sensitive) (?:method|technique|procedure|assay) | radioimmunoassay"
        r" | apparatus | model"
    )),
)  # fmt: skip

CUES = FOR_A_TRIAL + AGAINST_A_TRIAL
