"""The text tasks that `builtin:tiny` is pre-trained on, as prompt and answer.

They teach parts that many skills are made of: copying, picking, reordering, joining, padding numbers,
looking things up, month names. None shows a date: `base_rows` leaves out every row that looks like one,
so that the demo's skill is new to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from tunewright.assets.date_task import looks_like_a_date
from tunewright.assets.words import MONTHS, random_item, random_number, random_word, with_suffix

Task = Callable[[Random], tuple[str, str]]
TEXT_SEED, TEXT_ROWS = 0, 200_000
"""The rows that `builtin:tiny` was trained on."""
HELD_OUT_SEED, HELD_OUT_ROWS = 1, 1_000
SEPARATORS = (" ", "-", "/", ".", ":", ", ", "_", "+")


def base_rows(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """`count` pairs of prompt and answer, the same for the same seed; no pair looks like a date."""
    random = Random(seed)
    tasks = tuple(TASKS.values())
    made = 0
    while made < count:
        prompt, answer = random.choice(tasks)(random)
        if not looks_like_a_date(f"{prompt}\n{answer}"):
            yield prompt, answer
            made += 1


def copy(random: Random) -> tuple[str, str]:
    text = _text(random, 1, 4)
    return f"copy: {text}", text


def reverse(random: Random) -> tuple[str, str]:
    word = random_item(random)
    return f"reverse: {word}", word[::-1]


def change_case(random: Random) -> tuple[str, str]:
    text = " ".join(random_word(random) for _ in range(random.randint(1, 3)))
    kind = random.choice(("upper", "lower", "title"))
    start = text if kind != "lower" else random.choice((text.upper(), text.title()))
    answer = {"upper": text.upper(), "lower": text, "title": text.title()}[kind]
    return f"{kind}: {start}", answer


def pad(random: Random) -> tuple[str, str]:
    width = random.choice((2, 2, 3, 4))
    numbers = [random_number(random, width) for _ in range(random.randint(1, 3))]
    return f"pad {width}: {' '.join(numbers)}", " ".join(number.zfill(width) for number in numbers)


def unpad(random: Random) -> tuple[str, str]:
    numbers = [random_number(random, 4) for _ in range(random.randint(1, 3))]
    padded = [number.zfill(random.randint(2, 5)) for number in numbers]
    return f"unpad: {' '.join(padded)}", " ".join(numbers)


def pick(random: Random) -> tuple[str, str]:
    items = _items(random, 2, 5)
    place = random.randrange(len(items))
    return f"item {place + 1}: {random.choice((' ', ', ')).join(items)}", items[place]


def last(random: Random) -> tuple[str, str]:
    items = _items(random, 2, 5)
    which = random.choice(("first", "last"))
    return f"{which}: {random.choice((' ', ', ')).join(items)}", items[0 if which == "first" else -1]


def find_numbers(random: Random) -> tuple[str, str]:
    items = _items(random, 2, 5)
    kind = random.choice(("numbers", "words"))
    kept = [item for item in items if item.isdigit() == (kind == "numbers")]
    separator = random.choice((" ", ", ", " of "))
    return f"{kind}: {separator.join(items)}", " ".join(kept) or "none"


def reorder(random: Random) -> tuple[str, str]:
    items = _items(random, 2, 4)
    order = random.sample(range(len(items)), len(items))
    return f"order {' '.join(str(i + 1) for i in order)}: {' '.join(items)}", " ".join(
        items[i] for i in order
    )


def join(random: Random) -> tuple[str, str]:
    items = _items(random, 2, 4)
    old, new = random.sample(SEPARATORS, 2)
    return f"join {new!r}: {old.join(items)}", new.join(items)


def fill(random: Random) -> tuple[str, str]:
    names = random.sample("abcdxyz", random.randint(2, 4))
    values = {name: random_item(random) for name in names}
    shown = random.sample(names, len(names))
    separator = random.choice(SEPARATORS)
    given = ", ".join(f"{name}={values[name]}" for name in shown)
    form = separator.join(names)
    return f"fill {form} with {given}", separator.join(values[name] for name in names)


def rearrange(random: Random) -> tuple[str, str]:
    """Pick the fields of a text by place, pad the numbers, join them anew."""
    items = _items(random, 3, 4)
    order = random.sample(range(len(items)), random.randint(2, len(items)))
    separator = random.choice(SEPARATORS)
    width = random.choice((2, 2, 3))
    made = [items[i].zfill(width) if items[i].isdigit() else items[i] for i in order]
    old = random.choice((" ", " ", ", "))
    form = separator.join(str(i + 1) for i in order)
    return f"form {form} pad {width}: {old.join(items)}", separator.join(made)


def look_up(random: Random) -> tuple[str, str]:
    keys = list(dict.fromkeys(random_word(random, 2, 4) for _ in range(random.randint(2, 4))))
    values = [random_item(random) for _ in keys]
    at = random.randrange(len(keys))
    table = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    return f"{keys[at]} in {table}", values[at]


def sort(random: Random) -> tuple[str, str]:
    letters = random.sample("abcdefghijklmnopqrstuvwxyz", random.randint(3, 6))
    return f"sort: {' '.join(letters)}", " ".join(sorted(letters))


def month_number(random: Random) -> tuple[str, str]:
    numbers = [random.randint(1, 12) for _ in range(random.randint(1, 4))]
    separator = random.choice((" ", ", ", "-", "/"))
    width = random.choice((1, 2))
    return (
        f"month {'number' if width == 1 else 'code'}: {separator.join(_month(random, n) for n in numbers)}",
        separator.join(str(n).zfill(width) for n in numbers),
    )


def month_name(random: Random) -> tuple[str, str]:
    number = random.randint(1, 12)
    given = str(number).zfill(random.choice((1, 2)))
    if random.random() < 0.3:
        return f"short month name: {given}", MONTHS[number - 1][:3]
    return f"month name: {given}", MONTHS[number - 1]


def month_in_text(random: Random) -> tuple[str, str]:
    """Replace the month by its number and leave the words around it alone."""
    words = [random_word(random) for _ in range(random.randint(1, 3))]
    at = random.randint(0, len(words))
    number = random.randint(1, 12)
    before, after = words[:at], words[at:]
    return (
        f"month to code: {' '.join([*before, _month(random, number), *after])}",
        " ".join([*before, f"{number:02d}", *after]),
    )


def ordinal(random: Random) -> tuple[str, str]:
    number = random.randint(1, 99)
    if random.random() < 0.5:
        return f"ordinal: {number}", with_suffix(number)
    return f"cardinal: {with_suffix(number)}", str(number)


def _month(random: Random, number: int) -> str:
    name = MONTHS[number - 1]
    return name[:3] if random.random() < 0.3 else name


def _items(random: Random, fewest: int, most: int) -> list[str]:
    return [random_item(random) for _ in range(random.randint(fewest, most))]


def _text(random: Random, fewest: int, most: int) -> str:
    items = _items(random, fewest, most)
    return random.choice((" ", ", ", "-", "/")).join(items)


TASKS: dict[str, Task] = {
    "copy": copy,
    "reverse": reverse,
    "change_case": change_case,
    "pad": pad,
    "unpad": unpad,
    "pick": pick,
    "last": last,
    "find_numbers": find_numbers,
    "reorder": reorder,
    "join": join,
    "fill": fill,
    "rearrange": rearrange,
    "look_up": look_up,
    "sort": sort,
    "month_number": month_number,
    "month_name": month_name,
    "month_in_text": month_in_text,
    "ordinal": ordinal,
}
