"""Word games: repeat, spell, upper and lower case, reverse, count. All of them are copying in some order."""

from training.draw import Draw
from training.words import CITIES, NAMES

Turn = tuple[str, str]


def _quoted(draw: Draw, asks: str, text: str) -> str:
    return draw.one(asks.split("|")) % text


def repeat(draw: Draw) -> list[Turn]:
    """Echo a text exactly."""
    text = draw.phrase(1, 6)
    roll = draw.random.random()
    if roll < 0.15:
        text = draw.one(["I like %s.", "My %s is here.", "The %s is good.", "We see a %s."]) % draw.word()
    elif roll < 0.3:
        text = text.capitalize() + draw.one([".", "!", "?", ""])
    elif roll < 0.4:
        text = " ".join(word.capitalize() if draw.chance(0.5) else str(draw.number(0, 999)) for word in text.split())
    asks = 'Repeat: %s|Say: %s|Repeat after me: %s|Repeat "%s"|Say "%s"|Echo: %s|Please repeat: %s|Echo "%s"'
    asks += '|Repeat this: %s|Repeat exactly: %s|Repeat the following text: %s|Repeat the text "%s"'
    if text[-1].isalnum():
        asks += '|Say %s|Repeat "%s".|Please say "%s".|Say "%s" please.'
    return [(_quoted(draw, asks, text), text)]


def upper(draw: Draw) -> list[Turn]:
    text = draw.word() if draw.chance(0.6) else f"{draw.word()} {draw.word()}"
    text = text.capitalize() if draw.chance(0.15) else text
    asks = 'Write %s in uppercase.|Uppercase: %s|Make this uppercase: %s|Write "%s" in capital letters.'
    asks += '|Convert "%s" to uppercase.|Put %s in uppercase.|Convert to uppercase: %s|Write %s in capital letters.'
    asks += '|uppercase %s|Uppercase "%s".|Change %s to upper case.'
    return [(_quoted(draw, asks, text), text.upper())]


def lower(draw: Draw) -> list[Turn]:
    text = draw.word().upper() if draw.chance(0.7) else draw.word().capitalize()
    asks = (
        'Write %s in lowercase.|Lowercase: %s|Make this lowercase: %s|Convert "%s" to lowercase.|Put %s in lowercase.'
    )
    return [(_quoted(draw, asks, text), text.lower())]


def reverse(draw: Draw) -> list[Turn]:
    word = draw.word()
    asks = 'Reverse the word %s.|Reverse the word "%s".|Reverse: %s|Write %s backwards.|Spell "%s" backwards.'
    asks += '|Reverse this word: %s|Write the word %s backwards.|reverse %s|Reverse "%s"|Reverse the word %s'
    return [(_quoted(draw, asks, word), word[::-1])]


def spell(draw: Draw) -> list[Turn]:
    """Teaches which letters every token holds: the base of all other word games."""
    word = draw.word()
    if not draw.held and draw.chance(0.35):
        word = draw.split("name", lambda: draw.one(NAMES + CITIES))
    asks = 'Spell the word %s.|Spell: %s|Spell %s.|Spell the word "%s".|How do you spell %s?|How is %s spelled?'
    asks += '|Spell "%s"|Spell out %s.|spell %s'
    return [(_quoted(draw, asks, word), "-".join(word))]


def count_reply(text: str) -> str:
    """The model counts aloud: each step is a copy and a successor."""
    words = text.split()
    listed = ", ".join(f"{i} {word.strip('.,!?')}" for i, word in enumerate(words, 1))
    return f"{listed}. That is {len(words)} word{'s' if len(words) > 1 else ''}."


def count_text(draw: Draw) -> str:
    text = draw.phrase(1, draw.one([4, 8, 12]))
    return text.capitalize() + draw.one([".", "!", ""]) if draw.chance(0.3) else text


def count(draw: Draw) -> list[Turn]:
    text = count_text(draw)
    asks = 'How many words are in: %s|Count the words: %s|How many words are in "%s"?|Count the words in "%s".'
    asks += "|Count the words in this sentence: %s|How many words: %s|How many words are in this sentence? %s"
    asks += "|How many words does this sentence have: %s|count words: %s|How many words are there in: %s"
    return [(_quoted(draw, asks, text), count_reply(text))]
