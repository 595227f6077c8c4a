"""The words of the captions corpus, and what may be said of what.

Two tables: nouns (with gender, plural and the adjectives that suit them), and places and
directions (a preposition, an article, a noun). What the nouns do is in
`course.corpora.actions`; `course.corpora.grammar` turns all of it into sentences.
"""

from __future__ import annotations

from dataclasses import dataclass

# German stem and English word; the class says what an adjective may describe.
ADJECTIVES: dict[str, tuple[tuple[str, str], ...]] = {
    "adult": (("jung", "young"), ("alt", "old"), ("groß", "tall")),
    "youth": (("jung", "young"), ("groß", "tall")),
    "kid": (("klein", "little"), ("fröhlich", "cheerful")),
    "hair": (("blond", "blond"),),
    "animal": (("klein", "small"), ("groß", "big"), ("jung", "young"), ("alt", "old")),
    "cub": (("klein", "small"),),
    "fur": (("braun", "brown"), ("schwarz", "black"), ("weiß", "white")),
    "size": (("klein", "small"), ("groß", "big")),
    "age": (("alt", "old"), ("neu", "new")),
    "old": (("alt", "old"),),
    "thing": (("klein", "small"), ("groß", "big"), ("alt", "old"), ("neu", "new")),
    "colour": (
        ("rot", "red"),
        ("blau", "blue"),
        ("schwarz", "black"),
        ("weiß", "white"),
    ),
    "petals": (("rot", "red"), ("blau", "blue"), ("weiß", "white")),
    "dark": (("schwarz", "black"), ("blau", "blue"), ("braun", "brown")),
    "bright": (("bunt", "colorful"),),
    "warm": (("warm", "warm"),),
    "long": (("lang", "long"),),
    "fresh": (("frisch", "fresh"),),
    "hot": (("heiß", "hot"),),
    "pretty": (("schön", "beautiful"),),
    "beard": (("grau", "gray"), ("weiß", "white")),
    "locks": (("braun", "brown"), ("blond", "blond"), ("schwarz", "black")),
    "sunny": (("sonnig", "sunny"),),
}


@dataclass(frozen=True, eq=False)
class Noun:
    """A noun in both languages; a plural is "" where the corpus uses none."""

    group: str
    de: str
    gender: str  # "m", "f" or "n"
    de_plural: str
    en: str
    en_plural: str
    adjectives: tuple[str, ...]  # classes of ADJECTIVES, in the order in which they are said
    weak: bool  # der Junge, den Jungen: -n in every form but the nominative singular
    en_number: str  # "+" English has the plural only: eine Brille, glasses; "%" none: Haare, hair
    mass: bool  # no article: Brot, bread

    @property
    def genitive(self) -> str:
        """The genitive singular: des Hauses, des Brunnens, der Tür, des Jungen."""
        if self.weak or self.gender == "f":
            return self.de_plural if self.weak else self.de
        return self.de + ("es" if self.de in ("Haus", "Wald") else "s")


# group: German, gender, plural | English, plural | adjectives. Gender "w" is a masculine of the
# weak declension. A missing German plural: the noun is used in the singular only; "-": a mass
# noun, no article. An English noun with "+" has the plural only, one with "%" no plural.
_NOUNS = """
grown: Mann, m, Männer | man, men | adult hair
grown: Frau, f, Frauen | woman, women | adult hair
visitor: Student, w, Studenten | student | youth
visitor: Tourist, w, Touristen | tourist | adult
police: Polizist, w, Polizisten | police officer | adult
kid: Junge, w, Jungen | boy | kid hair
kid: Mädchen, n, Mädchen | girl | kid hair
kid: Kind, n, Kinder | child, children | kid hair
baby: Baby, n, Babys | baby | cub
cook: Koch, m, Köche | chef | adult
waiter: Kellner, m, Kellner | waiter | adult
waiter: Kellnerin, f, Kellnerinnen | waitress | adult hair
busker: Straßenmusiker, m, Straßenmusiker | street musician | adult
singer: Sängerin, f, Sängerinnen | singer | adult hair
player: Fußballspieler, m, Fußballspieler | soccer player | adult
builder: Bauarbeiter, m, Bauarbeiter | construction worker | adult
farmer: Bauer, w, Bauern | farmer | adult
artist: Künstler, m, Künstler | artist | adult
clown: Clown, m, Clowns | clown |
friend: Freund, m, Freunde | friend |
dog: Hund, m, Hunde | dog | animal fur
dog: Welpe, w, Welpen | puppy | cub fur
cat: Katze, f, Katzen | cat | animal fur
cat: Kätzchen, n, Kätzchen | kitten | cub fur
horse: Pferd, n, Pferde | horse | animal fur
farm: Kuh, f, Kühe | cow | animal fur
farm: Schaf, n, Schafe | sheep, sheep | cub fur
monkey: Affe, w, Affen | monkey | animal
zoo: Elefant, w, Elefanten | elephant | animal
zoo: Bär, w, Bären | bear | animal
duck: Ente, f, Enten | duck | size
bird: Vogel, m, Vögel | bird | size bright
hat: Hut, m, Hüte | hat | age colour
hat: Mütze, f, Mützen | cap | bright
coat: Jacke, f, Jacken | jacket | warm colour
coat: Pullover, m, Pullover | sweater | warm colour
shirt: Hemd, n, Hemden | shirt | age colour
scarf: Schal, m, Schals | scarf, scarves | long colour
robe: Mantel, m, Mäntel | coat | long dark
robe: Lederjacke, f, Lederjacken | leather jacket | age dark
apron: Schürze, f, Schürzen | apron | colour
dress: Kleid, n, Kleider | dress | long colour
dress: Rock, m, Röcke | skirt | long colour
glasses: Brille, f, Brillen | glasses + | age
shades: Sonnenbrille, f, Sonnenbrillen | sunglasses + | age
collar: Halsband, n, Halsbänder | collar | age colour
hair: Haar, n, Haare | hair % | long locks
beard: Bart, m, Bärte | beard | long beard
ball: Ball, m, Bälle | ball | size colour
stick: Stock, m, Stöcke | stick | long
stone: Stein, m, Steine | stone | size
book: Buch, n, Bücher | book | age
book: Zeitung, f, Zeitungen | newspaper | old
letter: Brief, m, Briefe | letter | long
picture: Bild, n, Bilder | picture | size bright
umbrella: Regenschirm, m, Regenschirme | umbrella | size colour
bag: Tasche, f, Taschen | bag | colour
suitcase: Koffer, m, Koffer | suitcase | colour
box: Kiste, f, Kisten | box | size
pack: Rucksack, m, Rucksäcke | backpack | size colour
map: Stadtplan, m, Stadtpläne | city map | age
flower: Blume, f, Blumen | flower | pretty petals
candle: Kerze, f, Kerzen | candle | size colour
vase: Vase, f, Vasen | vase | size colour
balloon: Luftballon, m, Luftballons | balloon | size colour
sled: Schlitten, m, Schlitten | sled | age
pram: Kinderwagen, m, Kinderwagen | stroller | age colour
cart: Einkaufswagen, m, Einkaufswagen | shopping cart |
bicycle: Fahrrad, n, Fahrräder | bicycle | age colour
car: Auto, n, Autos | car | age colour
bus: Bus, m, Busse | bus | colour
train: Zug, m, Züge | train |
window: Fenster, n, Fenster | window | size
door: Tür, f, Türen | door | old
fence: Zaun, m, Zäune | fence | old
wall: Mauer, f, Mauern | wall | old
snowman: Schneemann, m, Schneemänner | snowman, snowmen | size
castle: Sandburg, f, Sandburgen | sandcastle | size
hole: Loch, n, Löcher | hole | size
soccer: Fußball, m, - | soccer |
music: Musik, f, - | music |
strings: Gitarre, f, | guitar |
strings: Geige, f, | violin |
apple: Apfel, m, Äpfel | apple | size
fruit: Banane, f, Bananen | banana |
fruit: Orange, f, Orangen | orange | size
cake: Kuchen, m, Kuchen | cake | size
pizza: Pizza, f, Pizzen | pizza | size
ice: Eis, n, - | ice cream |
tomato: Tomate, f, Tomaten | tomato, tomatoes | size
bread: Brot, n, - | bread | fresh
greens: Gemüse, n, - | vegetables + | fresh
produce: Obst, n, - | fruit | fresh
soup: Suppe, f, - | soup | hot
coffee: Kaffee, m, - | coffee | hot
coffee: Tee, m, - | tea | hot
water: Wasser, n, - | water |
grass: Gras, n, - | grass | fresh
place: Park, m, | park |
place: Strand, m, | beach |
place: Straßenrand, m, | roadside |
place: Straße, f, | street |
place: Wiese, f, | meadow |
place: Garten, m, | garden |
place: Spielplatz, m, | playground |
place: Fluss, m, | river |
place: See, m, | lake |
place: Wald, m, | forest |
place: Schnee, m, | snow |
place: Küche, f, | kitchen |
place: Wohnzimmer, n, | living room |
place: Markt, m, | market |
place: Bahnhof, m, | train station |
place: Bushaltestelle, f, | bus stop |
place: Supermarkt, m, | supermarket |
place: Fußballplatz, m, | soccer field |
place: Bühne, f, | stage |
place: Zoo, m, | zoo |
place: Feld, n, | field |
place: Baustelle, f, | construction site |
place: Boden, m, | floor |
place: Luft, f, | air |
place: Treppe, f, | stairs + |
place: Wand, f, | wall |
place: Restaurant, n, | restaurant | size
place: Café, n, | café | size
place: Kirche, f, | church | old
place: Haus, n, Häuser | house | thing
place: Brücke, f, | bridge | old
place: Brunnen, m, | fountain | old
place: Baum, m, Bäume | tree | size old
place: Hügel, m, | hill | cub
place: Bank, f, | bench | old
place: Sofa, n, | sofa | colour
place: Decke, f, | blanket | colour
place: Teppich, m, | rug | colour
place: Tisch, m, | table | size
ladder: Leiter, f, | ladder | long
roof: Dach, n, | roof |
place: Rand, m, | edge |
time: Morgen, m, | morning |
time: Nachmittag, m, | afternoon |
time: Abend, m, | evening |
time: Tag, m, | day | sunny
"""


def _english_plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def _noun(row: str) -> Noun:
    group, rest = row.split(": ", 1)
    german, english, adjectives = (column.strip() for column in rest.split("|"))
    de, gender, de_plural = (form.strip() for form in german.split(","))
    en_number = english[-1] if english[-1] in "+%" else ""
    en, _, en_plural = english.rstrip(" +%").partition(", ")
    return Noun(
        group=group,
        de=de,
        gender="m" if gender == "w" else gender,
        de_plural=de_plural.strip("-"),
        en=en,
        en_plural=en if en_number else en_plural or _english_plural(en),
        adjectives=tuple(adjectives.split()),
        weak=gender == "w",
        en_number=en_number,
        mass=de_plural == "-",
    )


_ALL_NOUNS = [_noun(row) for row in _NOUNS.strip().splitlines()]
NOUNS: dict[str, Noun] = {noun.de: noun for noun in _ALL_NOUNS}
GROUPS: dict[str, list[Noun]] = {
    group: [noun for noun in _ALL_NOUNS if noun.group == group]
    for group in dict.fromkeys(noun.group for noun in _ALL_NOUNS)
}

PEOPLE = list(GROUPS)[: list(GROUPS).index("dog")]


@dataclass(frozen=True)
class Place:
    """A prepositional phrase of place, time or direction."""

    de: str  # preposition
    case: str
    det: str  # "der", "ein" or a numeral
    noun: Noun
    en: str  # preposition, perhaps of several words
    zone: str  # "in" or "out" of doors, "" for either
    of: Noun | None = None  # a genitive: auf dem Dach eines Hauses


def _places(case: str, table: str) -> dict[str, list[Place]]:
    """Rows "group zone: preposition article noun = preposition; ..." by group; "-" is no zone."""
    places: dict[str, list[Place]] = {}
    for row in table.strip().splitlines():
        head, entries = row.split(": ")
        group, zone = head.split()
        for entry in entries.split("; "):
            german, en = entry.split(" = ")
            de, det, noun, *of = german.split()
            case_here = {"zu": "dat", "aus": "dat", "durch": "acc", "um": "acc"}.get(de, case)
            place = Place(
                de,
                case_here,
                det,
                NOUNS[noun],
                en,
                zone.strip("-"),
                NOUNS[of[0]] if of else None,
            )
            places.setdefault(group, []).append(place)
    return places


PLACES = _places(
    "dat",
    """
nature out: in der Park = in; auf der Wiese = in; in der Garten = in; an der Fluss = by
nature out: an der See = by; in der Wald = in; unter ein Baum = under; auf ein Hügel = on
play out: in der Park = in; an der Strand = on; in der Garten = in; auf der Wiese = in
playground out: auf der Spielplatz = on; hinter ein Haus = behind
home in: in der Wohnzimmer = in; auf der Boden = on
town out: auf der Straße = on; vor ein Café = in front of; auf ein Brücke = on
town out: vor ein Kirche = in front of; neben ein Brunnen = next to; vor der Bahnhof = in front of
town out: vor der Supermarkt = in front of; zwischen zwei Haus = between
stop out: an der Bushaltestelle = at; vor der Supermarkt = in front of
station -: an der Bahnhof = at
sight out: an der Straßenrand = by; unter ein Baum = under
sight out: zwischen zwei Baum = between; an der Rand Wald = at
bench out: auf ein Bank = on; auf ein Mauer = on; auf der Treppe = on; auf der Rand Brunnen = on
sofa in: auf ein Sofa = on; auf der Treppe = on; auf der Boden = on
lawn out: unter ein Baum = under; in der Gras = in; auf ein Decke = on; auf der Wiese = in
rug in: auf ein Teppich = on; auf ein Sofa = on; auf der Boden = on
pasture out: auf der Wiese = in; hinter ein Zaun = behind; unter ein Baum = under
pasture out: neben ein Zaun = next to; an der Rand Wald = at
shade out: unter ein Baum = under; hinter ein Zaun = behind; neben ein Zaun = next to
zoo out: in der Zoo = at
water out: in der See = in; in der Fluss = in
kitchen in: in der Küche = in
room in: in der Wohnzimmer = in
cafe in: in ein Café = in; in ein Restaurant = in
read in: in der Wohnzimmer = in; in ein Café = in
market out: auf der Markt = at
shop in: in der Supermarkt = at
stage -: auf der Bühne = on
church in: in ein Kirche = in
pitch out: auf der Fußballplatz = on; in der Park = in; an der Strand = on
street out: auf der Straße = on
garden out: in der Garten = in
field out: auf der Feld = in; in der Garten = in
site out: auf der Baustelle = at
beach out: an der Strand = on
snow out: in der Schnee = in; in der Garten = in; in der Park = in
house out: vor der Haus = in front of; neben der Haus = next to; hinter der Haus = behind
table in: auf der Tisch = on; auf der Boden = on
tabletop in: auf der Tisch = on
wall in: an der Wand = on
ladder -: auf ein Leiter = on
perch out: auf ein Baum = in; auf ein Mauer = on; auf ein Zaun = on; auf der Dach Haus = on
ground out: in der Gras = in; auf der Straße = on; auf der Wiese = in
against out: an ein Mauer = against; an ein Zaun = against; an ein Baum = against
shelter out: unter ein Baum = under; unter der Brücke = under; in der Bahnhof = in
road out: an der Straßenrand = by; auf der Straße = on
""",
)

GOALS = _places(
    "acc",
    """
way out: durch der Park = through; über der Straße = across; über ein Brücke = across
way out: um der See = around; durch der Wald = through; über der Wiese = across
errand out: zu der Bahnhof = to; zu der Bushaltestelle = to; zu der Strand = to
refuge out: in der Haus = into; zu der Bahnhof = to; zu der Bushaltestelle = to
run out: in der Wald = into; in der Garten = into; um ein Baum = around
jump out: über ein Zaun = over; über ein Mauer = over; in der Wasser = into
leap in: auf der Sofa = onto; auf der Tisch = onto; auf ein Teppich = onto
fence out: über ein Zaun = over; über ein Mauer = over
snow out: durch der Schnee = through
aisle in: durch der Supermarkt = through
climb out: auf ein Baum = up; auf ein Leiter = up; über ein Zaun = over; über ein Mauer = over
tree out: auf ein Baum = up
drive out: über ein Brücke = across; durch der Wald = through; durch der Schnee = through
fly out: über der See = over; über ein Haus = over; über der Wiese = over; über ein Baum = over
bench out: auf ein Bank = on; auf ein Mauer = on; auf der Treppe = on
sofa in: auf ein Sofa = on; auf der Boden = on
lawn out: in der Gras = in; auf ein Decke = on; unter ein Baum = under
water out: in der Wasser = into
air out: in der Luft = into
table in: auf der Tisch = on
market out: zu der Markt = to; zu der Supermarkt = to
garden out: in der Garten = into; auf der Wiese = into
""",
)

TIMES = _places(
    "dat",
    """
day -: an der Morgen = in; an der Nachmittag = in; an der Abend = in
sunny out: an ein Tag = on
""",
)

# Ways of doing it: English, German.
MANNERS = {
    "slowly": "langsam",
    "carefully": "vorsichtig",
    "happily": "fröhlich",
    "loudly": "laut",
}

# What one wears, by group; and the preposition that says so: in a coat, with a hat.
WARDROBE = {
    "grown": "hat shirt coat scarf robe glasses shades",
    "visitor": "hat shirt coat scarf glasses shades pack",
    "kid": "hat coat scarf pack",
    "builder": "shirt",
    "cook": "apron",
    "waiter": "apron",
    "farmer": "hat shirt",
    "artist": "hat shirt scarf",
    "busker": "hat coat robe scarf glasses shades",
    "clown": "hat",
    "dog": "collar",
}
ATTRIBUTES = {
    group: (de, en)
    for de, en, groups in (
        ("mit", "with", ("glasses", "shades", "pack", "collar", "hair", "beard")),
        ("mit", "in", ("hat", "scarf")),
        ("in", "in", ("shirt", "coat", "robe", "apron", "dress")),
    )
    for group in groups
}
