"""The patterns that the PICO reviewer looks for in a sentence. They were written by hand from abstracts of trials."""

from __future__ import annotations

from example_project.screening.reviewers.patterns import any_of

NUMBER = (
    r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty"
    r"|sixty|seventy|eighty|ninety)"
)
PERSONS = (
    r"(?:patients?|subjects|volunteers|participants|persons|wom[ae]n|m[ae]n|males|females|children|infants|newborns"
    r"|mothers|boys|girls|adults|students|outpatients|nurses|smokers|alcoholics|asthmatics|diabetics|schizophrenics"
    r"|addicts)"
)

PARTS = {
    "people": any_of(rf"{PERSONS} | in man | human"),
    "counted people": any_of(rf"{NUMBER}(?:[- ]\w+)? (?:[\w-]+ ){{0,4}}{PERSONS} | {PERSONS} \(n ?="),
    "intervention": any_of(
        r"(?:was|were|been|being|and|by|after|when) (?:\w+ ){0,2}(?:given|administered|treated|infused)"
        r" | (?:was|were|been|being|and|by|after|when) (?:\w+ ){0,2}(?:injected|instilled)"
        r" | received | treated (?:with|by)"
        r" | (?:treatment|therapy|premedication|prophylaxis|infusion) (?:with|of|by|using)"
        r" | administration of"
        r" | \d+(?:\.\d+)?[- ]?(?:mg|mcg|microg|micrograms?|mug|g|ml|units?|iu|rads?) | doses?"
        r" | \w*therapy | \w+prophylaxis | vaccin\w+ | immunized | regimens? | training | diets?"
        r" | ingest\w+ | anaesthetized | medication | counsel+ing | behaviou?r modification | tablets"
        r" | placebo"
    ),
    "comparison": any_of(
        r"compared? (?:with|to|the|against) | (?:was|were) compared"
        r" | a?\s?comparison (?:of|with|between) | comparative | comparing | versus | vs | controls?"
        r" | (?:both|two|three|four|all|other|either) (?:\w+ )?groups?"
        r" | than (?:with|after|following|in|that|those|when|the|on) | as effective as"
        r" | (?:more|less) effective | (?:superior|inferior|equal|preferable) to"
        r" | differences? between | half | the other | the remain\w+ | whereas"
        r" | no (?:significant )?difference | either | alternate\w* | before and after | placebo"
    ),
    "outcome": any_of(
        r"significant(?:ly)? | improv\w+ | effective(?:ness)? | efficacy | relief | responded"
        r" | response rates? | remissions? | side[- ]effects? | reduc\w+ | prevent\w+ | increase[sd]?"
        r" | decreas\w+ | tolerated | no (?:\w+ )?effect"
    ),
    "design": any_of(
        r"random\w* | placebo\w* | (?:double|single)[- ]blind\w* | blind(?:ly|ed)? | cross-?\s?over"
        r" | controlled | sham | \w*trials? | latin square | own controls? | matched pairs?"
        r" | prospective(?:ly)? | phase I{1,3} | pilot study | in a study of | assigned | allocated"
    ),
}

NOT_PEOPLE = any_of(
    r"rats? | mice | mouse | rabbits? | dogs? | monkeys? | guinea[- ]pigs? | hamsters? | cats?"
    r" | sheep | pigs? | piglets? | calves | cows? | cattle | steers? | chicks? | chickens?"
    r" | hens? | baboons? | goats? | horses? | ponies | lambs? | frogs? | fish | larvae | in vitro"
    r" | cell lines? | coli | bovine | murine | canine | plants? | insects?"
)
NOT_A_TRIAL = any_of(
    r"\d+[- ](?:year|month|yr|week|day)s?[- ]old (?:\w+ )?(?:man|woman|boy|girl|male|female|patient)"
    r" | \d+[- ](?:year|month|yr|week|day)s?[- ]old (?:\w+ )?(?:infant|child)"
    r" | case reports? | a case of | this case | a patient with | the literature"
    r" | (?:is|are|were) reviewed"
    r" | this (?:review|article|paper) (?:\w+ )?(?:reviews|discusses|describes|summarizes)"
    r" | retrospective\w* | survey\w* | autops\w+ | necropsy | questionnaires? | interviewed"
    r" | prevalence | epidemiolog\w+ | biops(?:y|ies)"
)
