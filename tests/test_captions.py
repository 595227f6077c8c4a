"""The captions corpus: its shape, its alignments, and its German, checked by other rules.

The checker below reads finished sentences. It shares nothing with the grammar that wrote them:
its genders, endings and verbs were written down by hand, and a bank of wrong sentences shows
that it can say no.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course.corpora.captions import SIZES, Caption, constituents, generate, load

TRAIN_SHA256 = "855670cb8944503a818ed5c9f3442681450d32b42badb6a8ce10ca7e416f13ea"

# ---- a German grammar for reading ----------------------------------------------------------


def listed(text: str) -> list[str]:
    return text.split()


MASCULINE = listed(
    """Abend Apfel Bahnhof Ball Bart Bauarbeiter Baum Boden Brief Brunnen Bus Clown Einkaufswagen
    Fluss Freund Fußball Fußballplatz Fußballspieler Garten Hund Hut Hügel Kaffee Kellner
    Kinderwagen Koch Koffer Kuchen Künstler Luftballon Mann Mantel Markt Morgen Nachmittag
    Park Pullover Rand Regenschirm Rock Rucksack Schal Schlitten Schnee Schneemann See
    Spielplatz Stadtplan Stein Stock Strand Straßenmusiker Straßenrand Supermarkt Tag Tee
    Teppich Tisch Vogel Wald Zaun Zoo Zug"""
)
FEMININE = listed(
    """Banane Bank Baustelle Blume Brille Brücke Bushaltestelle Bühne Decke Ente Frau Geige
    Gitarre Gruppe Jacke Katze Kellnerin Kerze Kirche Kiste Kuh Küche Lederjacke Leiter Luft
    Mauer Musik Mütze Orange Pizza Sandburg Schürze Sonne Sonnenbrille Straße Suppe Sängerin
    Tasche Tomate Treppe Tür Vase Wand Wiese Zeitung"""
)
NEUTER = listed(
    """Auto Baby Bild Brot Buch Café Dach Eis Fahrrad Feld Fenster Gemüse Gras Halsband Haus Hemd
    Kind Kleid Kätzchen Loch Mädchen Obst Pferd Restaurant Schaf Sofa Wasser Wohnzimmer"""
)
WEAK = listed(
    """Affe/Affen Bauer/Bauern Bär/Bären Elefant/Elefanten Junge/Jungen Polizist/Polizisten
    Student/Studenten Tourist/Touristen Welpe/Welpen"""
)
GENITIVES = {"Hauses": "n", "Waldes": "m", "Brunnens": "m"}
# Plurals; before "/" in nominative, accusative, genitive, after it in the dative.
PLURALS = listed(
    """Affen Autos Babys Bananen Bauarbeiter/Bauarbeitern Bauern Bilder/Bildern Blumen
    Briefe/Briefen Brillen Busse/Bussen Bälle/Bällen Bären Bäume/Bäumen Bücher/Büchern Clowns
    Einkaufswagen Elefanten Enten Fahrräder/Fahrrädern Fenster/Fenstern Frauen
    Freunde/Freunden Fußballspieler/Fußballspielern Haare/Haaren Halsbänder/Halsbändern Hemden
    Hunde/Hunden Häuser/Häusern Hüte/Hüten Jacken Jungen Katzen Kellner/Kellnern Kellnerinnen
    Kerzen Kinder/Kindern Kinderwagen Kisten Kleider/Kleidern Koffer/Koffern Kuchen Kätzchen
    Köche/Köchen Kühe/Kühen Künstler/Künstlern Lederjacken Luftballons Löcher/Löchern Mauern
    Mädchen Männer/Männern Mäntel/Mänteln Mützen Orangen Pferde/Pferden Pizzen Polizisten
    Pullover/Pullovern Regenschirme/Regenschirmen Rucksäcke/Rucksäcken Röcke/Röcken Sandburgen
    Schafe/Schafen Schals Schlitten Schneemänner/Schneemännern Schürzen Sonnenbrillen
    Stadtpläne/Stadtplänen Steine/Steinen Straßenmusiker/Straßenmusikern Studenten
    Stöcke/Stöcken Sängerinnen Taschen Tomaten Touristen Türen Vasen Vögel/Vögeln Welpen
    Zeitungen Zäune/Zäunen Züge/Zügen Äpfel/Äpfeln"""
)

Reading = tuple[str, str]  # gender ("m", "f", "n", "p" for plural) and case ("N", "A", "D", "G")

NOUNS: dict[str, set[Reading]] = {}
for _gender, _nouns in (("m", MASCULINE), ("f", FEMININE), ("n", NEUTER)):
    for _noun in _nouns:
        _cases = "NADG" if _gender == "f" else "NAD"
        NOUNS.setdefault(_noun, set()).update((_gender, case) for case in _cases)
for _noun in WEAK:
    _nominative, _other = _noun.split("/")
    NOUNS.setdefault(_nominative, set()).add(("m", "N"))
    NOUNS.setdefault(_other, set()).update({("m", "A"), ("m", "D"), ("m", "G")})
for _noun in PLURALS:
    _plain, _, _dative = _noun.partition("/")
    NOUNS.setdefault(_plain, set()).update(("p", case) for case in "NAG")
    NOUNS.setdefault(_dative or _plain, set()).add(("p", "D"))
for _noun, _gender in GENITIVES.items():
    NOUNS.setdefault(_noun, set()).add((_gender, "G"))

# Determiners: their readings, and the ending of an adjective after them for each.
DETERMINERS: dict[str, dict[Reading, str]] = {}


def _row(forms: str, endings: str) -> None:
    """Four forms and four endings: masculine, feminine, neuter, plural of one case ("-" none)."""
    case, *forms_ = forms.split()
    for gender, form, ending in zip("mfnp", forms_, endings.split()):
        if form != "-":
            DETERMINERS.setdefault(form, {})[gender, case] = ending


_row("N der die das die", "e e e en")
_row("A den die das die", "en e e en")
_row("D dem der dem den", "en en en en")
_row("G des der des der", "en en en en")
for _stem in ("ein", "sein", "ihr"):
    _many = "-" if _stem == "ein" else f"{_stem}e"
    _row(f"N {_stem} {_stem}e {_stem} {_many}", "er e es en")
    _row(f"A {_stem}en {_stem}e {_stem} {_many}", "en e es en")
    _row(f"D {_stem}em {_stem}er {_stem}em {_many}{'n' * (_stem != 'ein')}", "en en en en")
    _row(f"G {_stem}es {_stem}er {_stem}es -", "en en en en")
for _numeral in ("zwei", "drei"):
    for _case, _ending in zip("NADG", ("e", "e", "en", "er")):
        DETERMINERS.setdefault(_numeral, {})["p", _case] = _ending
DETERMINERS["mehrere"] = {("p", "N"): "e", ("p", "A"): "e"}
DETERMINERS["mehreren"] = {("p", "D"): "en"}
BARE = {  # no determiner
    ("m", "N"): "er", ("m", "A"): "en", ("m", "D"): "em", ("f", "N"): "e", ("f", "A"): "e",
    ("f", "D"): "er", ("n", "N"): "es", ("n", "A"): "es", ("n", "D"): "em", ("p", "N"): "e",
    ("p", "A"): "e", ("p", "D"): "en",
}
ARTICLELESS = listed(
    """Brot Eis Fußball Geige Gemüse Gitarre Gras Kaffee Musik Obst Suppe Tee Wasser"""
)
STEMS = listed(
    """alt blau blond braun bunt frisch fröhlich grau groß heiß jung klein lang neu rot schwarz
    schön sonnig warm weiß"""
)
ADJECTIVE = re.compile(f"({'|'.join(STEMS)})(e|er|es|en|em)")

PREPOSITIONS = {
    "mit": "D", "von": "D", "zu": "D", "aus": "D", "durch": "A", "um": "A",
    **dict.fromkeys(listed("in an auf über unter vor hinter neben zwischen"), "AD"),
}
CONTRACTED = {"im": ("in", "dem"), "am": ("an", "dem"), "ins": ("in", "das"), "zum": ("zu", "dem"),
              "zur": ("zu", "der")}

# Singular, plural, prefix or "-"; the cases of the objects, in order; then what a two-way
# preposition governs: d place, a direction, g a governed accusative (warten auf), b steigen in.
VERBS = """
sitzt sitzen - : d|steht stehen - : d|liegt liegen - : d|hängt hängen - : d|lehnt lehnen - : d
parkt parken - : d|brennt brennen - : d|schläft schlafen - : d|tanzt tanzen - : d
singt singen - : d|lacht lachen - : d|spielt spielen - : d|spielt spielen - A : d
jongliert jonglieren - : d|arbeitet arbeiten - : d|schwimmt schwimmen - : d|wartet warten - : g
zeigt zeigen - : g|zeigt zeigen - DA : d|spricht sprechen - : d|bellt bellen - : d
bellt bellen an A : d|jagt jagen - A : d|frisst fressen - A : d|isst essen - A : d
trinkt trinken - A : d|liest lesen - A : d|liest lesen vor DA : d|hört hören - A : d
hört hören zu D : d|schaut schauen sich-an A : d|schaut schauen zu D : d|hält halten - A : d
schreibt schreiben - A : d|malt malen - A : d|füttert füttern - A : d|winkt winken zu D : d
streichelt streicheln - A : d|fotografiert fotografieren - A : d|hebt heben auf A : d
macht machen auf A : d|macht machen zu A : d|zieht ziehen an A : d|zieht ziehen aus A : d
zieht ziehen - A : a|setzt setzen auf A : d|nimmt nehmen ab A : d|zündet zünden an A : d
hängt hängen auf A : d|kauft kaufen ein : d|kauft kaufen - A : d|führt führen aus A : d
geht gehen vorbei : d|geht gehen - : a|läuft laufen - : a|rennt rennen - : a|gibt geben - DA : d
bringt bringen - DA : d|hilft helfen - D : d|folgt folgen - D : d|trägt tragen - A : d
schiebt schieben - A : a|wäscht waschen - A : d|putzt putzen - A : d|backt backen - A : d
repariert reparieren - A : d|streicht streichen - A : d|baut bauen - A : d|gräbt graben - A : d
pflückt pflücken - A : d|gießt gießen - A : d|kocht kochen - A : d|schneidet schneiden - A : d
fängt fangen - A : d|wirft werfen - A : a|umarmt umarmen - A : d|legt legen - A : a
legt legen sich : a|setzt setzen sich : a|stellt stellen - A : a|springt springen - : a
klettert klettern - : a|fliegt fliegen - : a|fährt fahren - : a|reitet reiten - : a
steigt steigen - : b|versucht versuchen - : d
""".replace("\n", "|").strip("|").split("|")
FRAMES: dict[tuple[str, str], list[tuple[str, str]]] = {}  # (plural verb, prefix): frames
NUMBER: dict[str, set[str]] = {}  # finite form: "s", "p"
INFINITIVE: dict[str, str] = {}
for _verb in VERBS:
    _singular, _plural, _prefix, *_frame = _verb.replace(" : ", " ").split()
    _objects, _place = ("", _frame[0]) if len(_frame) == 1 else _frame
    FRAMES.setdefault((_plural, _prefix), []).append((_objects, _place))
    NUMBER.setdefault(_singular, set()).add("s")
    NUMBER.setdefault(_plural, set()).add("p")
    INFINITIVE[_singular] = INFINITIVE[_plural] = _plural
PREFIXES = sorted({prefix.removeprefix("sich-") for _, prefix in FRAMES} - {"-", "sich"})
ADVERBS = listed("langsam vorsichtig fröhlich laut")
TIMES = listed("Morgen Nachmittag Abend Tag")
WEATHER = ["es regnet", "es schneit", "es kalt ist", "die Sonne scheint"]
PRONOUNS = {("m", "N"): "der", ("f", "N"): "die", ("n", "N"): "das", ("p", "N"): "die"}


class Wrong(Exception):
    """What a German teacher would underline."""


def need(condition: object, message: str) -> None:
    if not condition:
        raise Wrong(message)


class Chunk:
    """A noun phrase with its possible readings, and the preposition before it."""

    def __init__(self, readings: set[Reading], noun: str, preposition: str) -> None:
        self.readings, self.noun, self.preposition = readings, noun, preposition

    def cases(self) -> set[str]:
        return {case for _, case in self.readings}


def read_noun_phrase(tokens: list[str], i: int, preposition: str = "") -> tuple[Chunk, int]:
    """Read determiner, adjectives, noun at i; Wrong unless some gender and case fit them all."""
    start = i
    possible: dict[Reading, str] = dict(BARE)
    bare = True
    if tokens[i] in DETERMINERS:
        possible, bare, i = DETERMINERS[tokens[i]], False, i + 1
        if tokens[start] in ("die", "den") and tokens[i : i + 1] == ["beiden"]:
            possible = {reading: "en" for reading in possible if reading[0] == "p"}
            i += 1
    endings = []
    while i < len(tokens) and (match := ADJECTIVE.fullmatch(tokens[i])):
        endings.append(match[2])
        i += 1
    phrase = " ".join(tokens[start : i + 1])
    need(i < len(tokens) and tokens[i] in NOUNS, f"no noun after {phrase!r}")
    readings = {
        reading
        for reading in NOUNS[tokens[i]]
        if reading in possible and all(ending == possible[reading] for ending in endings)
    }
    if bare and tokens[i] not in ARTICLELESS:
        readings = {reading for reading in readings if reading[0] == "p"}
    allowed = PREPOSITIONS.get(preposition, "NADG")
    readings = {reading for reading in readings if reading[1] in allowed}
    need(readings, f"no gender and case fit {preposition} {phrase!r}")
    return Chunk(readings, tokens[i], preposition), i + 1


def read_clause(tokens: list[str]) -> list[Chunk | str]:
    """Noun phrases become chunks; verbs, prefixes, adverbs, "und", "sich" stay words."""
    items: list[Chunk | str] = []
    i = 0
    while i < len(tokens):
        word = tokens[i]
        if word in CONTRACTED:
            preposition, article = CONTRACTED[word]
            chunk, i = read_noun_phrase([*tokens[:i], article, *tokens[i + 1 :]], i, preposition)
            items.append(chunk)
            continue
        at_end = i + 1 == len(tokens) or tokens[i + 1] == "und"
        if word in PREPOSITIONS and not at_end and tokens[i + 1] not in INFINITIVE:
            chunk, i = read_noun_phrase(tokens, i + 1, word)
            items.append(chunk)
        elif word in PREFIXES and at_end:
            items.append(word)
            i += 1
        elif word in DETERMINERS or word in NOUNS or ADJECTIVE.fullmatch(word):
            chunk, i = read_noun_phrase(tokens, i)
            items.append(chunk)
        else:
            known = word in ("und", "sich", "zu", *PREFIXES, *ADVERBS) or split_verb(word)
            need(known, f"unknown word {word!r}")
            items.append(word)
            i += 1
    return items


def split_verb(word: str) -> tuple[str, str] | None:
    """(prefix or "-", finite verb or infinitive) of a word, if it is a verb."""
    if word in INFINITIVE:
        return "-", word
    for prefix in PREFIXES:
        rest = word.removeprefix(prefix)
        if rest != word and rest in INFINITIVE:
            return prefix, rest
    return None


def check_predicate(verb: str, prefix: str, items: list[Chunk | str]) -> None:
    """Objects in the cases that the verb wants, places in the case of place or direction."""
    if "sich" in items:
        prefix = "sich" if prefix == "-" else f"sich-{prefix}"
    frames = FRAMES.get((INFINITIVE[verb], prefix))
    need(frames, f"{verb} does not go with the prefix {prefix!r}")
    chunks = [item for item in items if isinstance(item, Chunk)]
    bare = [chunk for chunk in chunks if not chunk.preposition and chunk.cases() != {"G"}]
    two_way = [
        chunk
        for chunk in chunks
        if PREPOSITIONS.get(chunk.preposition) == "AD" and chunk.noun not in TIMES
    ]
    for chunk in chunks:
        if chunk.noun in TIMES:
            need("D" in chunk.cases(), f"{chunk.noun}: a time stands in the dative")
    for objects, place in frames or []:
        fits = len(bare) == len(objects) and all(
            case in chunk.cases() for case, chunk in zip(objects, bare)
        )
        if fits and all_places_fit(place, two_way):
            return
    raise Wrong(f"objects or places do not fit {verb} ({prefix}): {[c.noun for c in chunks]}")


def all_places_fit(place: str, chunks: list[Chunk]) -> bool:
    """Whether two-way prepositions govern the accusative where they should, else the dative."""
    for chunk in chunks:
        last = chunk is chunks[-1]
        accusative = (
            chunk.preposition == "über"
            or (place == "a" and last and not on_a_mount(chunk))
            or (place == "g" and last and chunk.preposition == "auf")
            or (place == "b" and last and chunk.preposition == "in")
        )
        if ("A" if accusative else "D") not in chunk.cases():
            return False
    return True


def on_a_mount(chunk: Chunk) -> bool:
    """Auf einem Pferd is how one rides, not where to."""
    return chunk.noun.startswith(("Pferd", "Fahrr"))


def check_subject(items: list[Chunk | str], number: set[str]) -> None:
    """A nominative that agrees with the verb; attributes may follow it, and a second one."""
    chunks = [item for item in items if isinstance(item, Chunk)]
    need(chunks and not chunks[0].preposition, "no subject")
    nominatives = [c for c in chunks if not c.preposition]
    need(all("N" in c.cases() for c in nominatives), "a subject that is not nominative")
    need(all(c.preposition in ("", "mit", "in", "von") for c in chunks), "odd attribute")
    for chunk in chunks:
        need(chunk.preposition != "in" or "D" in chunk.cases(), "clothes in the accusative")
    need(len(nominatives) == 1 + items.count("und"), "two subjects")
    plural = {gender == "p" for gender, case in nominatives[0].readings if case == "N"}
    if "und" in items:
        plural = {True}
    need({"p" if many else "s" for many in plural} & number, "verb and subject do not agree")


def check_main(tokens: list[str], after_clause: bool) -> None:
    """Verb second, prefix last, perhaps a second verb after "und"."""
    items = read_clause(tokens)
    verbs = [i for i, item in enumerate(items) if isinstance(item, str) and item in NUMBER]
    if not verbs:
        need(not after_clause, "a clause without a verb")
        check_subject([i for i in items if not is_place(i)], {"s", "p"})
        return
    for item in items:
        joined = isinstance(item, str) and item not in NUMBER and split_verb(item)
        need(not joined, f"{item!r} stands in a main clause in one word")
    first = verbs[0]
    opening = items[:first]
    if after_clause:
        need(not opening, "the verb comes first after a subordinate clause")
    number = NUMBER[str(items[first])]
    second = verbs[1] if len(verbs) > 1 else len(items) + 1
    need(len(verbs) <= 2, "three verbs")
    need(second > len(items) or items[second - 1] == "und", "two verbs in a clause")
    rest = items[first + 1 : second - 1 if len(verbs) > 1 else len(items)]
    fronted = bool(opening) and isinstance(opening[0], Chunk) and bool(opening[0].preposition)
    if fronted:
        genitive = isinstance(opening[-1], Chunk) and opening[-1].cases() >= {"G"}
        need(len(opening) == 1 or (len(opening) == 2 and genitive), "the verb is not second")
    before: list[Chunk | str] = opening if fronted else []
    if fronted or after_clause:
        rest_, sich = [i for i in rest if i != "sich"], [i for i in rest if i == "sich"]
        length = subject_length(rest_)
        check_subject(rest_[:length], number)
        rest = [*before, *sich, *rest_[length:]]
    else:
        check_subject(opening, number)
    parts = [(first, rest)]
    if len(verbs) > 1:
        need(NUMBER[str(items[second])] & number, "the two verbs do not agree")
        parts.append((second, items[second + 1 :]))
    for at, middle in parts:
        prefix = "-"
        if middle and middle[-1] in PREFIXES:
            prefix, middle = str(middle[-1]), middle[:-1]
        need(not set(map(str, middle)) & set(PREFIXES), "a prefix that is not at the end")
        check_predicate(str(items[at]), prefix, middle)


def is_place(item: Chunk | str) -> bool:
    if not isinstance(item, Chunk):
        return False
    return item.cases() == {"G"} or (
        item.preposition not in ("", "mit", "von")
        and item.cases() <= {"A", "D"}
        and "D" in item.cases()
    )


CLOTHES = listed("Hemd Jacke Pullover Mantel Lederjacke Schürze Kleid Rock Mäntel Röck")


def subject_length(items: list[Chunk | str]) -> int:
    """How many items after a verb belong to the subject: its attributes, and "und" another one."""
    length = 1
    while length < len(items):
        item = items[length]
        if item == "und":
            length += 2
            continue
        attribute = isinstance(item, Chunk) and (
            item.preposition == "von"
            or (item.preposition == "in" and item.noun.startswith(tuple(CLOTHES)))
            or (item.preposition == "mit" and worn(item))
        )
        if not attribute:
            break
        length += 1
    return length


def worn(chunk: Chunk) -> bool:
    return chunk.noun.startswith(
        tuple(listed("Hut Hüte Mütze Brille Sonnenbrille Schal Rucks Haar Bart Halsb"))
    )


def check_final(tokens: list[str], subject: set[Reading] | None, infinitive: bool = False) -> None:
    """A clause that ends in its verb: prefix and verb in one word, zu before an infinitive."""
    found = split_verb(tokens[-1])
    if infinitive:
        if tokens[-2:-1] == ["zu"]:
            need(found and found[0] == "-", "zu stands between prefix and verb")
            need(tokens[-1] in INFINITIVE.values(), "no infinitive after zu")
            body, prefix, verb = tokens[:-2], "-", tokens[-1]
        else:
            match = re.fullmatch(f"({'|'.join(PREFIXES)})zu(.*)", tokens[-1])
            need(match and match[2] in INFINITIVE.values(), "no infinitive with zu at the end")
            body, prefix, verb = tokens[:-1], match[1], match[2]  # type: ignore[index]
    else:
        need(found, f"the verb is not at the end: {tokens[-1]!r}")
        prefix, verb = found  # type: ignore[misc]
        body = tokens[:-1]
    items = read_clause(body)
    verbs = [item for item in items if isinstance(item, str) and split_verb(item)]
    need(not verbs, f"a verb that is not at the end: {verbs}")
    need(not set(map(str, items)) & set(PREFIXES), "a prefix apart from its verb")
    if subject is not None:
        number = {"p" if gender == "p" else "s" for gender, _ in subject}
        need(number & NUMBER[verb], "verb and relative pronoun do not agree")
    elif not infinitive:
        length = subject_length(items)
        check_subject(items[:length], NUMBER[verb])
        items = items[length:]
    check_predicate(verb, prefix, items)


def check_german(sentence: str) -> None:
    """Raise Wrong if the sentence breaks a rule of gender, case, ending, word order or comma."""
    need(sentence.endswith("."), "no full stop")
    need(sentence[0].isupper(), "no capital")
    tokens = sentence[:-1].replace(",", " ,").split()
    if tokens[0] not in NOUNS:
        tokens[0] = tokens[0].lower()
    segments = " ".join(tokens).split(" , ")
    main: list[str] = []
    after_clause = trying = after_relative = False
    antecedent: set[Reading] = set()
    for i, segment in enumerate(segments):
        words = segment.split()
        need(words, "two commas")
        opener = words[0]
        purpose = opener == "um" and "zu" in " ".join(words[-2:])
        if opener in ("während", "weil") or purpose:
            after_clause |= i == 0
            need(len(words) > 1, "an empty clause")
            if opener == "weil":
                need(" ".join(words[1:]) in WEATHER, "not a reason")
                antecedent = set()
                continue
            check_final(words[1:], None, infinitive=purpose)
            trying = words[-1] in ("versucht", "versuchen")
        elif i and trying:
            check_final(words, None, infinitive=True)
            trying = False
        elif i and opener in ("der", "die", "das") and not after_relative:
            singular = {r for r in antecedent if PRONOUNS.get((r[0], "N")) == opener}
            need(singular, f"{opener} does not agree with the noun before it")
            check_final(words[1:], singular)
            after_relative = True
            continue
        else:
            fits = not i or after_relative or words[0] in NUMBER
            need(fits, f"a comma before {opener!r}")
            main += words
            trying = words[-1] in ("versucht", "versuchen")
        need("während" not in words[1:] and "weil" not in words[1:], "no comma before a clause")
        antecedent, after_relative = last_noun(words), False
    need(not trying, "nothing is tried")
    check_main(main, after_clause)


def last_noun(words: list[str]) -> set[Reading]:
    """The readings of the last noun phrase."""
    end = max((i for i, word in enumerate(words) if word in NOUNS), default=-1)
    start = end
    while start > 0 and (ADJECTIVE.fullmatch(words[start - 1]) or words[start - 1] == "beiden"):
        start -= 1
    start -= start > 0 and words[start - 1] in DETERMINERS
    if start > 0 and words[start - 1] in CONTRACTED:
        start -= 1
        words = [*words[:start], CONTRACTED[words[start]][1], *words[start + 1 :]]
    return read_noun_phrase(words, start)[0].readings if end >= 0 else set()


# ---- the checker can say no ----------------------------------------------------------------

RIGHT = """
Ein kleiner Hund rennt durch den Park.
Ein Mann hebt den Ball auf.
Im Park spielt ein kleines Kind.
Eine Frau, die einen roten Hut trägt, sitzt auf einer Bank und liest ein Buch.
Ein Mann spricht mit zwei alten Polizisten.
Während ein Junge den Hund füttert, schläft eine Katze.
Ein Kind versucht, den Stein aufzuheben.
Die beiden Jungen hören einem Straßenmusiker zu, der Gitarre spielt.
"""
WRONG = {
    "gender of the article": "Eine kleiner Hund rennt durch den Park.",
    "gender of the noun": "Ein Mann wirft das Ball ins Wasser.",
    "ending, mixed": "Ein kleine Hund rennt durch den Park.",
    "ending, weak": "Der kleiner Hund rennt durch den Park.",
    "ending, strong plural": "Zwei kleinen Hunde rennen durch den Park.",
    "ending, strong singular": "Ein Mann trinkt heißer Kaffee.",
    "ending after die beiden": "Die beiden kleine Hunde schlafen.",
    "nominative for accusative": "Eine Frau trägt ein Hut.",
    "accusative for nominative": "Einen Hund bellt.",
    "accusative for dative object": "Ein Mann hilft eine Frau.",
    "case after durch": "Ein Hund rennt durch dem Park.",
    "case after mit": "Ein Junge spielt mit einen Ball.",
    "place in the accusative": "Eine Frau sitzt auf eine Bank.",
    "direction in the dative": "Ein Hund springt über einem Zaun.",
    "direction in the dative, sich": "Eine Frau setzt sich auf einer Bank.",
    "getting on in the dative": "Ein Mann steigt in einem Bus.",
    "governed accusative": "Ein Kind wartet auf dem Bus.",
    "dative plural without -n": "Ein Mann spricht mit zwei Kinder.",
    "dative plural without -n, place": "Ein Baby sitzt zwischen zwei Häuser.",
    "weak noun, accusative": "Ein Mann fotografiert den Affe.",
    "weak noun, dative": "Ein Mann spricht mit einem Polizist.",
    "weak noun, nominative": "Ein Jungen lacht.",
    "genitive without -s": "Eine Kuh steht am Rand eines Wald.",
    "possessive": "Eine Frau zieht ihren Jacke an.",
    "prefix not at the end": "Ein Mann hebt auf den Ball.",
    "prefix before a place": "Ein Mann zündet eine Kerze an im Wohnzimmer.",
    "prefix missing": "Ein Mann hebt den Ball.",
    "prefix joined in a main clause": "Ein Mann den Ball aufhebt.",
    "verb third": "Im Park ein Kind spielt.",
    "two constituents before the verb": "Am Abend im Park spielt ein Kind.",
    "verb not final, relative": "Eine Frau, die trägt einen Hut, lacht.",
    "verb not final, while": "Ein Mann liest, während eine Frau füttert einen Hund.",
    "prefix apart, while": "Ein Kind lacht, während ein Mann den Ball hebt auf.",
    "verb after a clause": "Während ein Kind spielt, ein Mann liest ein Buch.",
    "relative pronoun": "Ein Mädchen, die einen Hut trägt, lacht.",
    "relative pronoun, number": "Zwei Männer, der Hüte tragen, lachen.",
    "no comma before während": "Ein Mann lacht während eine Frau singt.",
    "no comma before a relative clause": "Ein Mann der einen Hut trägt lacht.",
    "no comma after versucht": "Ein Kind versucht den Ball zu fangen.",
    "zu before a prefix": "Ein Kind versucht, den Stein zu aufheben.",
    "number of the verb": "Zwei Hunde bellt.",
    "number after und": "Ein Mann und eine Frau tanzt.",
    "number, group": "Eine Gruppe von Kindern spielen.",
    "relative clause, number": "Zwei Frauen, die Hüte trägt, lachen.",
    "missing article": "Mann liest ein Buch.",
    "plural subject, singular noun": "Mehrere Hund bellen.",
    "no full stop": "Ein Hund bellt",
    "no capital": "ein Hund bellt.",
}


@pytest.mark.parametrize("sentence", RIGHT.strip().splitlines())
def test_checker_accepts_right_german(sentence: str) -> None:
    check_german(sentence)


@pytest.mark.parametrize("sentence", WRONG.values(), ids=WRONG.keys())
def test_checker_rejects_wrong_german(sentence: str) -> None:
    with pytest.raises(Wrong):
        check_german(sentence)


# ---- the corpus ----------------------------------------------------------------------------

EVERYTHING = [(split, caption) for split in SIZES for caption in load(split)]
DE_FUNCTION = set(
    listed(
        """, . der die das den dem des ein eine einen einem einer eines und in im an am ins zu zum
    zur auf mit von vor aus um über unter hinter neben zwischen durch sich während weil es ist"""
    )
)
EN_FUNCTION = set(
    listed(
        """, . a an the is are and in on at to of by for with who that while because it there from
    through across around over under into onto off up behind between against past next front"""
    )
)


def test_every_german_sentence_is_right() -> None:
    for split, caption in EVERYTHING:
        try:
            check_german(caption.de)
        except Wrong as wrong:
            pytest.fail(f"{split}: {caption.de}: {wrong}")


def test_english_articles_before_vowels() -> None:
    for _, caption in EVERYTHING:
        for article, word in zip(caption.en_tokens, caption.en_tokens[1:]):
            if article.lower() in ("a", "an"):
                assert (article.lower() == "an") == (word[0] in "aeiou"), caption.en


def test_english_verb_agrees() -> None:
    """The head of the subject is the last noun of its first noun phrase."""
    for _, caption in EVERYTHING:
        for subject, be in re.findall(
            r"\(S (?:\(PP .*? \(, ,\) )?\(NP ((?:\(\S+ \S+\) ?)+)\) "
            r"\(VP \(VB. (is|are)\)",
            caption.tree,
        ):
            if "(EX" not in subject:
                assert ("(NNS" in subject) == (be == "are"), caption.tree


def test_sizes_and_spread() -> None:
    assert {split: len(load(split)) for split in SIZES} == SIZES
    assert SIZES == {"train": 12_000, "val": 500, "test": 500}
    lengths = Counter(len(caption.de_tokens) for _, caption in EVERYTHING)
    assert min(lengths) == 4 and max(lengths) >= 25
    assert all(lengths[n] > 50 for n in range(5, 24))
    for side in ("de_tokens", "en_tokens"):
        forms = {token.lower() for _, caption in EVERYTHING for token in getattr(caption, side)}
        assert 300 < len(forms) < 560


def test_one_translation_and_disjoint_splits() -> None:
    assert len({caption.de for _, caption in EVERYTHING}) == len(EVERYTHING)
    assert len({caption.en for _, caption in EVERYTHING}) == len(EVERYTHING)


def test_held_out_words_occur_in_train() -> None:
    for side in ("de_tokens", "en_tokens"):
        seen = {token for caption in load("train") for token in getattr(caption, side)}
        for split in ("val", "test"):
            assert {t for caption in load(split) for t in getattr(caption, side)} <= seen


def test_same_everywhere() -> None:
    lines = "".join(f"{c.de}\t{c.en}\t{c.alignment}\t{c.tree}\n" for c in load("train"))
    assert hashlib.sha256(lines.encode()).hexdigest() == TRAIN_SHA256
    assert load("train") is load("train")


def test_no_noun_comes_twice() -> None:
    for _, caption in EVERYTHING:
        nouns = [token for token in caption.de_tokens[1:] if token in NOUNS]
        assert len(set(nouns)) == len(nouns), caption.de


def test_unknown_split_names_the_splits() -> None:
    with pytest.raises(ValueError, match="train, val, test"):
        load("dev")


def test_text_is_its_tokens() -> None:
    for _, caption in EVERYTHING:
        for text, tokens in (
            (caption.de, caption.de_tokens),
            (caption.en, caption.en_tokens),
        ):
            assert tuple(re.findall(r"[^\s,.]+|[,.]", text)) == tokens
            assert text == re.sub(r" ([,.])", r"\1", " ".join(tokens))
            assert text[0].isupper() and text.endswith(".") and tokens.count(".") == 1


def test_alignment_covers_every_content_word() -> None:
    for _, caption in EVERYTHING:
        assert list(caption.alignment) == sorted(set(caption.alignment))
        sources = {i for i, _ in caption.alignment}
        targets = {j for _, j in caption.alignment}
        assert sources <= set(range(len(caption.de_tokens)))
        assert targets <= set(range(len(caption.en_tokens)))
        for i, token in enumerate(caption.de_tokens):
            assert i in sources or token.lower() in DE_FUNCTION, (caption.de, token)
        for j, token in enumerate(caption.en_tokens):
            assert j in targets or token.lower() in EN_FUNCTION, (caption.en, token)
        unlinked = {t for j, t in enumerate(caption.en_tokens) if j not in targets}
        assert unlinked <= {",", "There"}, (caption.en, unlinked)
        assert {t for i, t in enumerate(caption.de_tokens) if i not in sources} <= {","}


# A dictionary for a part of the vocabulary: what must be linked to what.
DICTIONARY = [
    entry.replace("~", " ")
    for entry in listed(
        """Hund~dog Katze~cat Frau~woman Frauen~women Mann~man Kinder~children Kind~child
        Bushaltestelle~bus Bushaltestelle~stop Sonnenbrille~sunglasses Straßenmusiker~musician
        Straßenmusiker~musicians rote~red kleine~small kleine~little roten~red während~while
        zwei~two aufhebt~picking aufhebt~up anschaut~at weil~because Bauarbeiter~worker
        Bauarbeiter~workers Supermarkt~supermarket mehrere~several Gitarre~guitar"""
    )
]


def test_alignment_agrees_with_a_dictionary() -> None:
    for entry in DICTIONARY:
        source, target = entry.split()
        others = [e.split()[1] for e in DICTIONARY if e.split()[0] == source]
        linked = 0
        for _, caption in EVERYTHING:
            words = [(i, w) for i, w in enumerate(caption.de_tokens) if w == source]
            for i, _ in words:
                to = [caption.en_tokens[j].lower() for k, j in caption.alignment if k == i]
                linked += target in to
                assert set(to) & set(others), (caption.de, source, to)
        assert linked, entry


@pytest.mark.parametrize(
    ("german", "english", "links"),
    [
        ("hebt auf", "picking up", {("hebt", "picking"), ("hebt", "is"), ("auf", "up")}),
        ("schaut an", "looking at", {("schaut", "looking"), ("an", "at")}),
        ("macht auf", "opening", {("macht", "opening"), ("auf", "opening")}),
        ("winkt zu", "waving at", {("winkt", "waving"), ("zu", "at")}),
    ],
)
def test_alignment_of_separable_verbs(
    german: str, english: str, links: set[tuple[str, str]]
) -> None:
    verb, prefix = german.split()
    found = 0
    for _, caption in EVERYTHING:
        de, en = caption.de_tokens, caption.en_tokens
        simple = de[-2:] == (prefix, ".") and de.count(verb) == 1 and "und" not in de
        if simple and "," not in de and english.split()[0] in en:
            words = {(de[i], en[j]) for i, j in caption.alignment}
            assert links <= words, caption
            found += 1
    assert found


# what is to be in a caption, by what tells of it: said by readers whose German or English it is
ONE_WITH = r"\(NP \(NP \(DT [Tt]he\)( \(JJ \w+\))* \(NN \w+\)\)"
HABITS = {
    "one takes off one's own": ("en", r"tak\w+ off (?!(his|her|its|their) )", ""),
    "a verb, then how": ("en", r"(loudly|softly) \w+ing at", ""),
    "soup is hot when it is done": ("en", r"cook\w* hot", ""),
    "a book is put": ("en", r"\blaying|\blay ", ""),
    "no prefix after a clause": (
        "de", r", (auf|an|aus|ab|ein|vor|zu|vorbei)([.,]| und)", ""),
    "one looks at a picture with sich": ("de", r"^(?!.*sich).*\bschau\w+ .*Bild.* an\b", ""),
    "the one in the hat": (
        "tree", ONE_WITH + r" \(PP \(IN (in|with)\) \(NP (?!\(DT the\))", "tree)"),
}


@pytest.mark.parametrize("habit", HABITS)
def test_a_caption_is_as_people_say_it(habit: str) -> None:
    side, pattern, unless = HABITS[habit]
    texts = [getattr(caption, side) for _, caption in EVERYTHING]
    found = [t for t in texts if re.search(pattern, t) and not (unless and unless in t)]
    assert found == []


def test_what_the_auxiliary_does_not_say_is_not_linked_to_it() -> None:
    """Sich belongs to sitting, mit to juggling, auf to riding."""
    for _, caption in EVERYTHING:
        owners = {"sich": "", "mit": "juggling", "auf": "riding"}
        for i, j in caption.alignment:
            word, to = caption.de_tokens[i], caption.en_tokens[j]
            if word in owners and owners[word] in caption.en_tokens + ("",):
                assert to not in ("is", "are"), caption


def leaves(tree: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\(\S+ ([^\s()]+)\)", tree))


def test_trees_are_balanced_over_the_tokens() -> None:
    for _, caption in EVERYTHING:
        assert leaves(caption.tree) == caption.en_tokens
        depth = 0
        for i, character in enumerate(caption.tree):
            depth += (character == "(") - (character == ")")
            assert depth > 0 or i == len(caption.tree) - 1
        assert depth == 0
        spans = constituents(caption.tree)
        assert spans[0] in (("S", 0, len(leaves(caption.tree))), ("NP", 0, len(caption.en_tokens)))
        assert all(0 <= start < end <= len(caption.en_tokens) for _, start, end in spans)


def test_constituents() -> None:
    tree = "(S (NP (DT A) (NN dog)) (VP (VBZ is) (VP (VBG barking))) (. .))"
    assert constituents(tree) == [("S", 0, 5), ("NP", 0, 2), ("VP", 2, 4), ("VP", 3, 4)]
    for broken in ("(S (NN dog)", "(NN dog))"):
        with pytest.raises(ValueError, match="bracket"):
            constituents(broken)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_other_seeds(seed: int) -> None:
    some: list[Caption] = generate(10, seed)
    assert some == generate(10, seed)
    assert len({caption.de for caption in some}) == 10
    for caption in some:
        check_german(caption.de)
