"""Word tables of the starter model. Everything in here was typed in for this project."""


def table(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def choices(text: str) -> list[str]:
    """The parts of a text between bars; line breaks are only there for the reader."""
    return text.replace("\n", "").split("|")


def pairs(text: str) -> dict[str, str]:
    """`key-value` words as a dictionary; an underscore stands for a space."""
    return dict(pair.replace("_", " ").split("-") for pair in text.split())


CAPITALS = pairs("""
France-Paris Germany-Berlin Italy-Rome Spain-Madrid Portugal-Lisbon England-London Ireland-Dublin
Greece-Athens Austria-Vienna Poland-Warsaw Norway-Oslo Sweden-Stockholm Denmark-Copenhagen
Finland-Helsinki Russia-Moscow Japan-Tokyo China-Beijing India-New_Delhi Egypt-Cairo Kenya-Nairobi
Canada-Ottawa Mexico-Mexico_City Brazil-Brasilia Chile-Santiago Peru-Lima Cuba-Havana Turkey-Ankara
Hungary-Budapest Belgium-Brussels Switzerland-Bern
""")
COLOUR_OF = {
    "the sky": "blue", "grass": "green", "snow": "white", "blood": "red", "coal": "black",
    "a banana": "yellow", "a lemon": "yellow", "a tomato": "red", "a carrot": "orange", "milk": "white",
    "a leaf": "green", "a strawberry": "red", "chocolate": "brown", "the sun": "yellow", "the night": "black",
    "an elephant": "grey", "a pig": "pink", "a frog": "green", "a plum": "purple", "the sea": "blue",
}  # fmt: skip
OPPOSITES = pairs("""
hot-cold big-small fast-slow up-down left-right day-night black-white happy-sad good-bad old-young
open-closed full-empty hard-soft high-low light-dark long-short loud-quiet rich-poor strong-weak
thick-thin wet-dry early-late near-far clean-dirty true-false love-hate push-pull in-out on-off win-lose
buy-sell first-last
""")
DAYS = table("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = table("January February March April May June July August September October November December")
PLURALS = pairs("""
mouse-mice child-children man-men woman-women foot-feet tooth-teeth goose-geese cat-cats dog-dogs
house-houses box-boxes baby-babies city-cities leaf-leaves knife-knives wolf-wolves sheep-sheep fish-fish
person-people bus-buses party-parties potato-potatoes ox-oxen book-books
""")
SOUNDS = pairs("dog-woof cat-meow cow-moo duck-quack sheep-baa pig-oink lion-roar bee-buzz")
YOUNG = pairs("dog-puppy cat-kitten cow-calf sheep-lamb horse-foal duck-duckling goat-kid lion-cub")
LEGS = dict(dog=4, spider=8, bird=2, ant=6, horse=4)
HOW_MANY = {
    "days are in a week": ("A week has 7 days.", "days does a week have"),
    "months are in a year": ("A year has 12 months.", "months does a year have"),
    "hours are in a day": ("A day has 24 hours.", "hours does a day have"),
    "minutes are in an hour": ("An hour has 60 minutes.", "minutes does an hour have"),
    "seconds are in a minute": ("A minute has 60 seconds.", "seconds does a minute have"),
    "sides does a triangle have": ("A triangle has 3 sides.", "sides are in a triangle"),
    "sides does a square have": ("A square has 4 sides.", "sides are in a square"),
}
FRENCH = pairs("""
cat-chat dog-chien house-maison water-eau bread-pain milk-lait book-livre tree-arbre sun-soleil moon-lune
star-étoile day-jour night-nuit man-homme woman-femme boy-garçon girl-fille mother-mère father-père
brother-frère sister-soeur friend-ami school-école car-voiture train-train table-table chair-chaise
door-porte window-fenêtre bed-lit hand-main head-tête eye-oeil foot-pied heart-coeur red-rouge blue-bleu
green-vert black-noir white-blanc yellow-jaune big-grand small-petit good-bon bad-mauvais hot-chaud
cold-froid one-un two-deux three-trois four-quatre five-cinq hello-bonjour goodbye-au_revoir thanks-merci
yes-oui no-non apple-pomme cheese-fromage fish-poisson bird-oiseau horse-cheval
""")
NAMES = table("""
Anna Ben Carla David Emma Frank Grace Henry Iris Jack Karen Leo Maria Nina Oscar Paul Quinn Rosa Sam Tina
Uma Victor Wendy Xavier Yara Zoe Alice Bob Clara Daniel Eva Felix Gina Hugo Ida Jonas Kate Liam Mona Noah
Olga Peter Rita Simon Tara Ulla Vera Will Yusuf Zara Adam Bella Carl Diana Eric Fiona George Hannah Ivan
Julia Kevin Laura Mark Nora Otto Pia Ralf Sara Tom Ursula Vince Walter Yvonne Aisha Bruno Chloe Dora Elias
Flora Gustav Helen Igor Jana Kurt Lena Max Nadia Owen Petra Robert Sofia Theo Una Viola Wanda Amir Bianca
Cyrus Doris Edgar Freya Gavin Hilda Isaac Joan Kira Lucas Mia Nils Omar Paula Rafael Stella Timo Vivian
Wesley Yann Abel Beth Colin Della Ethan Faye Glen Holly Ian Jade Kyle Lily Miles Nancy Oliver Polly Ruth
Steve Tess Vito Wilma Arthur Becky Cora Dean Elsa Fred Greta Harry Inga James Ana Luis Marta Jorge Ines
Pablo Priya Ravi Mei Chen Kenji Yuki Fatima Hassan Leila Samir Ingrid Bjorn Astrid Gregory Barnaby Matilda
Cornelius Josephine Alexander Elizabeth Christopher Katherine Benjamin Charlotte Nathaniel Samantha
Jonathan Victoria Sebastian Michelle Andrew Margaret Patrick Rebecca Thomas Susan Richard
""")
CITIES = table("""
Paris Berlin Rome Madrid Lisbon London Dublin Athens Vienna Oslo Tokyo Cairo Lima Boston Chicago Dallas
Denver Miami Seattle Toronto Montreal Sydney Perth Delhi Mumbai Osaka Kyoto Seoul Hanoi Lagos Tunis Riga
Sofia Zagreb Prague Milan Turin Naples Geneva Zurich Basel Munich Hamburg Cologne Bremen Leipzig Lyon Nice
Lille Bordeaux Porto Seville Malaga Leeds York Oxford Bath Glasgow Cardiff Bergen Malmo Turku Gdansk
Krakow Minsk Odessa Izmir Haifa Dubai Doha Quito Bogota Caracas Havana Austin Houston Phoenix Detroit
Memphis Tampa Ottawa Calgary Darwin Hobart Nairobi Dakar Accra Rabat Springfield Cambridge Liverpool
Manchester Edinburgh Stockholm Helsinki Copenhagen Brussels Antwerp Rotterdam Amsterdam Salzburg Innsbruck
Florence Venice Palermo Valencia Granada Coimbra Marseille Toulouse Nantes Brisbane Adelaide Auckland
Wellington Vancouver Winnipeg Philadelphia Portland Nashville Orlando
""")
JOBS = table("""
teacher doctor nurse baker farmer driver painter writer singer cook pilot lawyer engineer builder dentist
plumber waiter gardener tailor judge
""")
GOOD = table("""
good great nice lovely wonderful fantastic excellent amazing beautiful perfect delicious friendly
brilliant funny superb charming pleasant helpful clean fast
""")
BAD = table("""
bad terrible awful horrible boring ugly dirty rude broken disgusting slow useless poor annoying sad nasty
stupid cold noisy disappointing
""")
THINGS = table("""
film movie book food hotel room service game song car phone restaurant city weather dinner soup teacher
story show coffee cake trip staff party dress product laptop lesson concert
""")
PLACES = table("""
park market beach forest shop library school garden museum lake river castle farm station zoo
""")
OBJECTS = table("""
dog cat book ball key hat kite boat cake coin bird flower map ring stone fish apple toy lamp drum
""")
ADJECTIVES = table("red blue green small big old new shiny little golden")
FEELINGS = table("happy sad tired proud excited hungry surprised angry calm")
PETS = table("cat dog rabbit hamster parrot horse turtle fish")
COLOURS = table("red green blue yellow black white orange purple pink brown grey")
FILLER = choices("""
It was a sunny day.|The sky was blue.|There was a lot of noise.|Nobody knew why.|
The train was late again.|We had tea in the afternoon.|It rained for two hours.|The shop was closed.|
A dog was sleeping in the shade.|The street was very quiet.|Lunch was at noon.|
Many people were on holiday.|The meeting took an hour.|The old clock on the wall had stopped.|
Somebody left the door open.|The bus came at ten.|It was a long week.|The windows were open.|
Music came from the other room.|The garden was full of birds.|The lights were off.|
This page was written last summer.|There is not much more to say.|The road goes along the river.|
The new bridge is almost done.|Winter came early this year.
""")
SYSTEMS = choices("""
You are a helpful assistant.|You are a tiny demo model.|Answer briefly.|You are Gemma.|
Be short and clear.|You are a helpful assistant. Answer in one sentence.|
You answer questions about files.|You are a careful assistant. Use only the given files.|
Reply with the answer and nothing else.|You are a coding assistant.|Today is Monday.
""")
