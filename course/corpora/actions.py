"""What the captions corpus may say of whom: verbs, with who does it to what, and where."""

from __future__ import annotations

from dataclasses import dataclass, field

PEOPLE = "grown grown kid kid visitor"  # a group named twice is met twice as often


@dataclass(frozen=True, eq=False)
class Action:
    """A verb in both languages, who does it, to what, and where.

    Words of `who` and of the objects are groups of `lexicon.GROUPS`; those of `where` and `goal`
    name tables of `lexicon.PLACES` and `lexicon.GOALS`.
    """

    de: tuple[str, ...]  # third person singular, plural (also the infinitive), separable prefix
    en: tuple[str, ...]  # participle, base, adverbial particle
    who: list[str]
    acc: list[str] = field(default_factory=list)
    dat: list[str] = field(default_factory=list)
    prep: list[str] = field(default_factory=list)  # the object of the preposition `governs`
    acc_en: str = ""  # the English preposition of the accusative object: looking AT a picture
    dat_en: str = ""
    governs: tuple[str, str, str] = ("", "", "")  # auf, acc, for; "-" where English has none
    dets: list[str] = field(default_factory=lambda: ["ein", "ein", "ein", "der", "many"])
    where: list[str] = field(default_factory=list)
    goal: list[str] = field(default_factory=list)
    how: list[str] = field(default_factory=list)
    zone: str = ""  # "in" or "out" of doors, "" for either
    flags: list[str] = field(default_factory=list)


# German = English | who | frame, its parts separated by "; ". The parts:
#   acc, dat, prep   objects; after "=" the English preposition; prep names German preposition and
#                    case first
#   dets             determiners of the objects: ein, der, poss(essive), many, plural, the
#                    ("the guitar", in German without article)
#   at, at!          where it may, must be; to: the direction, always said
#   how, in, out     manner; indoors, outdoors
#   flags            each: several subjects have several objects. plain: nothing is said of the
#                    subject's clothes. rel: a relative clause may say where the object is, watch:
#                    what it does. try: one may try to do it. group: a group may do it, alone:
#                    only one may. sich: reflexive. cold: what it makes is not hot yet.

POSTURES = """
sitzt sitzen = sitting sit | PEOPLE singer | at! bench sofa lawn; flags group
sitzt sitzen = sitting sit | dog cat | at! rug lawn house
steht stehen = standing stand | PEOPLE police | at! town stop sight; flags group
steht stehen = standing stand | singer busker clown | at! stage
steht stehen = standing stand | horse farm | at! pasture
liegt liegen = lying lie | grown kid | at! lawn beach
liegt liegen = lying lie | dog cat | at! rug lawn
liegt liegen = lying lie | farm | at! pasture
sitzt sitzen = sitting sit | bird | at! perch
sitzt sitzen = sitting sit | monkey | at! perch
steht stehen = standing stand | zoo | at! shade
"""

# What one can do while sitting or standing.
SEATED = """
liest lesen = reading read | PEOPLE | acc book letter; dets ein ein der; at read nature
isst essen = eating eat | PEOPLE | acc apple fruit; at kitchen nature; flags each
isst essen = eating eat | PEOPLE | acc ice; at cafe nature
trinkt trinken = drinking drink | grown visitor | acc coffee; at cafe kitchen garden
hört hören = listening listen | PEOPLE | acc music = to; at room nature
schaut schauen an = looking look | PEOPLE | acc picture = at; dets ein der many; flags rel sich
hält halten = holding hold | PEOPLE | acc balloon flower; dets ein; flags each
hält halten = holding hold | PEOPLE | acc umbrella; dets ein; out; flags each
hält halten = holding hold | grown | acc baby; dets ein; flags alone
spielt spielen = playing play | grown kid busker | acc strings; dets the; at stage street nature
schreibt schreiben = writing write | grown kid visitor | acc letter; dets ein; at room garden; \
flags each
malt malen = painting paint | grown kid artist artist | acc picture; dets ein many; at nature room
füttert füttern = feeding feed | PEOPLE | acc bird duck dog cat; at nature; flags rel try
streichelt streicheln = petting pet | PEOPLE | acc dog cat; at nature room; flags rel
zeigt zeigen = pointing point | PEOPLE | prep auf acc bird horse duck = at; out; flags watch
winkt winken zu = waving wave | PEOPLE | dat friend grown kid = at; dets ein many; flags watch
hört hören zu = listening listen | PEOPLE | dat busker = to; at town; flags rel group
schaut schauen zu = watching watch | PEOPLE | dat player builder clown busker artist; \
dets ein der many many; out; flags watch group
spricht sprechen = talking talk | grown visitor | prep mit dat police waiter farmer builder \
grown = to; flags rel
spricht sprechen = talking talk | grown visitor | prep mit dat friend = to; dets ein; flags rel
wartet warten = waiting wait | PEOPLE | prep auf acc bus train = for; dets ein der; \
at station; out; flags group
wartet warten = waiting wait | PEOPLE | prep auf acc friend = for; dets ein; at stop
fotografiert fotografieren = photographing photograph | grown visitor | \
acc bird duck horse dog flower busker; at nature; flags watch try
"""

SOLITARY = """
liest lesen vor = reading read | grown | acc book letter; dat kid = to; dets ein; at room; \
flags alone
hebt heben auf = picking pick up | PEOPLE | acc ball stone stick bag; dets ein der; at street; \
flags rel try alone
macht machen auf = opening open | PEOPLE builder | acc window door box; dets ein der der; flags try
macht machen zu = closing close | PEOPLE police | acc window door box; dets ein der der; flags try
zieht ziehen an = putting put on | PEOPLE | acc coat; dets ein poss; flags each plain
zieht ziehen aus = taking take off | PEOPLE | acc coat; dets poss; flags each plain
setzt setzen auf = putting put on | PEOPLE clown | acc hat glasses shades; dets ein poss; \
flags each plain
nimmt nehmen ab = taking take off | PEOPLE clown | acc hat glasses shades; dets poss; \
flags each plain
zündet zünden an = lighting light | grown waiter | acc candle; dets ein many; at room cafe; \
flags try
hängt hängen auf = hanging hang up | grown artist | acc picture; dets ein many; at room; flags try
kauft kaufen ein = shopping shop | grown cook waiter visitor | at! market shop
kauft kaufen = buying buy | grown visitor cook | acc produce greens flower bread; dets plural; \
at market shop
führt führen aus = walking walk | grown kid | acc dog; dets ein many poss poss; at play
steigt steigen = getting get | grown visitor kid | prep in acc bus train = on; dets ein der; \
at station; out; flags group
steigt steigen = getting get | grown builder police | prep in acc car = into; dets ein; out
steigt steigen = getting get | grown visitor kid | prep aus dat bus train = off; dets ein der; \
at station; out; flags group
geht gehen vorbei = walking walk | PEOPLE | prep an dat busker clown car horse = past; \
dets ein many; out; flags group
gibt geben = giving give | grown kid farmer | dat horse; acc apple; dets ein; out; flags alone
gibt geben = giving give | grown | dat kid; acc apple fruit ball book balloon; dets ein; flags alone
zeigt zeigen = showing show | grown police | dat visitor; acc map; dets ein; out; flags alone
bringt bringen = bringing bring | waiter | dat grown visitor; acc coffee pizza; dets ein; in; \
flags alone
hilft helfen = helping help | PEOPLE police | dat grown visitor farmer; flags try
folgt folgen = following follow | kid kid grown | dat dog cat duck; out; flags try
trägt tragen = carrying carry | PEOPLE | acc bag suitcase box; how slowly carefully; flags try
trägt tragen = carrying carry | waiter | acc soup coffee; how carefully; at cafe
trägt tragen = carrying carry | builder | acc box ladder; dets ein; at site
zieht ziehen = pulling pull | PEOPLE | acc sled; to snow; flags try plain
zieht ziehen = pulling pull | grown visitor | acc suitcase; to way; flags each
schiebt schieben = pushing push | grown | acc pram bicycle; dets ein; to way; flags each try
schiebt schieben = pushing push | grown | acc cart; dets ein; to aisle; flags each
wäscht waschen = washing wash | grown | acc car dog; dets ein poss; at house; out; flags try
putzt putzen = cleaning clean | grown waiter | acc window; dets ein der many
repariert reparieren = repairing repair | grown | acc bicycle car fence; \
how carefully; at house; flags try
streicht streichen = painting paint | grown builder farmer | acc wall fence; out
baut bauen = building build | grown kid kid | acc snowman; dets ein ein many; at snow; \
flags try plain
baut bauen = building build | grown kid kid | acc castle; dets ein ein many; at beach; flags try
gräbt graben = digging dig | grown builder farmer dog | acc hole; dets ein many; at field; flags try
pflückt pflücken = picking pick | grown kid farmer | acc flower; dets plural; at garden
gießt gießen = watering water | grown | acc flower; dets plural; at garden
kocht kochen = cooking cook | grown cook | acc soup greens; at kitchen; flags cold
schneidet schneiden = cutting cut | grown cook | acc tomato bread cake; at kitchen; how carefully
backt backen = baking bake | grown cook kid | acc cake pizza bread; dets ein many; at kitchen; \
flags try
fängt fangen = catching catch | kid grown player | acc ball; dets ein der; at play; flags try alone
wirft werfen = throwing throw | kid grown | acc ball stone; dets ein der many; to water air; \
flags alone
reitet reiten = riding ride | grown kid farmer | prep auf dat horse = -; dets ein; to way; \
flags each
fährt fahren = riding ride | grown kid visitor | prep auf dat bicycle = -; dets ein; to way; \
how slowly; flags each
umarmt umarmen = hugging hug | grown kid | acc friend grown; dets ein
legt legen = putting put | grown kid | acc book letter; dets ein der; to table; flags alone
stellt stellen = putting put | grown waiter | acc vase candle; dets ein der many; to table
setzt setzen = sitting sit down | PEOPLE | to bench sofa; flags sich
legt legen = lying lie down | grown kid dog cat | to lawn; flags sich
"""

FREE = """
schläft schlafen = sleeping sleep | grown kid dog cat | at rug lawn
tanzt tanzen = dancing dance | grown kid clown | at street stage room beach; how happily; \
flags group
singt singen = singing sing | grown kid singer singer busker | at stage church street; how loudly; \
flags group
lacht lachen = laughing laugh | grown kid baby | how loudly; flags group
spielt spielen = playing play | kid dog | at! snow; how happily; flags plain group
spielt spielen = playing play | kid kid dog cat | at play playground home; how happily; flags group
spielt spielen = playing play | kid grown dog cat | prep mit dat ball = with; dets ein ein der; \
at play home
spielt spielen = playing play | kid grown | prep mit dat dog cat = with; at play home
spielt spielen = playing play | kid player player visitor | acc soccer; at pitch; flags group
jongliert jonglieren = juggling juggle | clown grown | prep mit dat ball = -; dets many; \
at street stage; flags try
wartet warten = waiting wait | PEOPLE | at! stop station; flags group
arbeitet arbeiten = working work | farmer | at! field
arbeitet arbeiten = working work | builder | at! site
arbeitet arbeiten = working work | cook waiter | at! kitchen
schwimmt schwimmen = swimming swim | grown kid dog duck duck | at water; out; how slowly; \
flags plain group
jagt jagen = chasing chase | dog | acc cat bird duck ball; dets ein many; at play; flags try
bellt bellen an = barking bark | dog | acc cat bird horse = at; dets ein many; out; \
how loudly; flags rel
bellt bellen = barking bark | dog | how loudly
frisst fressen = eating eat | horse farm | acc grass; at pasture; how slowly
frisst fressen = eating eat | zoo monkey monkey | acc apple fruit; dets ein; at zoo; flags each
frisst fressen = eating eat | horse | acc apple; dets ein; at pasture; flags each
trinkt trinken = drinking drink | dog cat | acc water
rennt rennen = running run | kid kid grown dog | to way run errand; flags plain group
geht gehen = walking walk | PEOPLE | to way errand; how slowly; flags group
läuft laufen = walking walk | horse cat duck | to way; how slowly
springt springen = jumping jump | kid dog | to jump; flags try plain
springt springen = jumping jump | cat | to leap; flags try
springt springen = jumping jump | horse | to fence
klettert klettern = climbing climb | kid kid grown | to climb; how carefully; flags try
klettert klettern = climbing climb | cat | to tree; flags try
fliegt fliegen = flying fly | bird duck | to fly
"""

# What things do, and where one finds them.
THINGS = """
liegt liegen = lying lie | book letter map picture | at! table
liegt liegen = lying lie | ball stick | at! ground
steht stehen = standing stand | vase | at! table
steht stehen = standing stand | suitcase box | at! house
lehnt lehnen = leaning lean | bicycle | at! against
hängt hängen = hanging hang | picture | at! wall
parkt parken = parked park | car | at! house road
brennt brennen = burning burn | candle | at! tabletop
fährt fahren = driving drive | car bus | to drive
fliegt fliegen = flying fly | balloon | to fly
"""

WEAR = "trägt tragen = wearing wear | | dets ein; flags each plain"

# The weather as a reason (tag, word, and index of its German word), and what one does then.
REASONS = """
es regnet = PRP:it:0 | VBZ:is:1 | VP VBG:raining:1
  hält halten = holding hold | PEOPLE | acc umbrella; dets ein; flags each
  rennt rennen = running run | PEOPLE | to refuge
  wartet warten = waiting wait | PEOPLE | at! shelter
es schneit = PRP:it:0 | VBZ:is:1 | VP VBG:snowing:1
  zieht ziehen an = putting put on | PEOPLE | acc coat; dets ein poss; flags each
  setzt setzen auf = putting put on | PEOPLE | acc hat; dets ein poss; flags each
es kalt ist = PRP:it:0 | VBZ:is:2 | ADJP JJ:cold:1
  zieht ziehen an = putting put on | PEOPLE | acc coat; dets ein poss; flags each
  trägt tragen = wearing wear | PEOPLE | acc coat scarf; dets ein; flags each
  trinkt trinken = drinking drink | grown visitor | acc coffee
die Sonne scheint = DT:the:0 NN:sun:1 | VBZ:is:2 | VP VBG:shining:2
  setzt setzen auf = putting put on | PEOPLE | acc hat shades; dets ein poss; flags each
  zieht ziehen aus = taking take off | PEOPLE | acc coat; dets poss; flags each
"""

TRY = "versucht versuchen = trying try | |"

# An action, and what it is for.
PURPOSES = """
steht stehen = standing stand | grown grown builder | at! ladder; flags alone
  putzt putzen = cleaning clean | | acc window; dets ein der many
  hängt hängen auf = hanging hang up | | acc picture; dets ein
  streicht streichen = painting paint | | acc wall; dets ein
  repariert reparieren = repairing repair | | acc roof; dets der
springt springen = jumping jump | kid player dog | to air; flags alone
  fängt fangen = catching catch | | acc ball; dets ein der
geht gehen = walking walk | grown cook visitor | to market
  kauft kaufen = buying buy | | acc produce greens flower bread; dets plural
  kauft kaufen ein = shopping shop | |
geht gehen = walking walk | grown kid farmer | to garden
  pflückt pflücken = picking pick | | acc flower; dets plural
  füttert füttern = feeding feed | | acc bird duck dog cat; dets der many; out
setzt setzen = sitting sit down | PEOPLE | to bench; flags sich
  liest lesen = reading read | | acc book letter; dets ein
  isst essen = eating eat | | acc ice
  hört hören zu = listening listen | | dat busker = to; dets ein
  schaut schauen zu = watching watch | | dat player builder; dets many
"""


def parse(row: str) -> Action:
    """Read one row of the tables above. Raises ValueError for a part that it does not know."""
    verbs, who, frame = (column.strip() for column in (row + " ").split("|"))
    de, en = verbs.split(" = ")
    parts: dict[str, object] = {}
    for part in filter(None, frame.split("; ")):
        name, _, rest = part.partition(" ")
        words, _, english = rest.partition(" = ")
        values = words.split()
        if name == "prep":
            parts["governs"] = (values[0], values[1], english)
            parts["prep"] = values[2:]
        elif name in ("acc", "dat"):
            parts |= {name: values, f"{name}_en": english}
        elif name in ("at", "at!"):
            parts["where"] = values
        elif name in ("in", "out"):
            parts["zone"] = name
        elif name in ("dets", "how", "flags"):
            parts[name] = values
        elif name == "to":
            parts["goal"] = values
        else:
            raise ValueError(f"unknown part {name!r} in the row {row!r}")
    if "at! " in frame:
        parts["flags"] = [*parts.get("flags", []), "must"]
    groups = who.replace("PEOPLE", PEOPLE).split()
    return Action(tuple(de.split()), tuple(en.split()), groups, **parts)  # type: ignore[arg-type]


def rows(table: str) -> list[Action]:
    """Read a table, one action a row."""
    return [parse(row) for row in table.strip().splitlines()]


def nested(table: str) -> list[tuple[str, list[Action]]]:
    """Read a table of two levels: a row as it is, and the actions indented below it."""
    found: list[tuple[str, list[Action]]] = []
    for row in table.strip().splitlines():
        if row.startswith(" "):
            found[-1][1].append(parse(row.strip()))
        else:
            found.append((row, []))
    return found
