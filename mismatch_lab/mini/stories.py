"""Story templates of the generated word problems.

A story is a function `(rng, level) -> Draft`. The level (1, 2 or 3) is the number of arithmetic
steps and bounds the size of the numbers. To add a story, write the function and list it in
`STORIES`; the checkpoint must then be retrained.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jack",
    "Kim", "Leo", "Maria", "Noah", "Olga", "Peter", "Rosa", "Sam", "Tina", "Victor",
)  # fmt: skip
THINGS = (
    "apples", "books", "cards", "coins", "cookies", "eggs", "flowers", "marbles", "pencils",
    "shells", "stamps", "stickers",
)  # fmt: skip
# Largest term of a sum, by level, and largest factor of a product.
TERM_MAX = {1: 20, 2: 30, 3: 50}
FACTOR_MAX = 9
# How a step may begin. The choice is free, so a trained model is unsure there, as a real one is:
# a model sure of every token would hide small differences between two engines.
OPENERS = ("", "so ", "now ", "then ", "next, ", "thus ")


@dataclass(frozen=True)
class Draft:
    """Question, worked steps (one sentence each) and answer of one problem."""

    question: str
    steps: tuple[str, ...]
    answer: int


Story = Callable[[Random, int], Draft]


def _term(rng: Random, level: int) -> int:
    return rng.randint(2, TERM_MAX[level])


def _step(rng: Random, leads: tuple[str, ...], rest: str) -> str:
    """One sentence of a solution: an opener, one of the leads, and the equation."""
    sentence = f"{rng.choice(OPENERS)}{rng.choice(leads)} {rest}"
    return sentence[0].upper() + sentence[1:]


def _factor(rng: Random) -> int:
    return rng.randint(2, FACTOR_MAX)


def collection(rng: Random, level: int) -> Draft:
    """A count that grows or shrinks `level` times."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    count = _term(rng, level)
    question = [f"{name} has {count} {things}."]
    steps = []
    for _ in range(level):
        change = _term(rng, level)
        if change < count and rng.random() < 0.5:
            event = rng.choice(("gives {} of them to a friend", "loses {} of them", "sells {}"))
            new, sign = count - change, "-"
        else:
            event = rng.choice(("buys {} more", "finds {} more", "gets {} from a friend"))
            new, sign = count + change, "+"
        question.append(f"{rng.choice((name, 'Then ' + name))} {event.format(change)}.")
        leads = (f"{name} has", "that makes", "it is", "there are")
        steps.append(_step(rng, leads, f"{count} {sign} {change} = {new} {things}."))
        count = new
    question.append(f"How many {things} does {name} have now?")
    return Draft(" ".join(question), tuple(steps), count)


def boxes(rng: Random, level: int) -> Draft:
    """Equal groups, then some more, then some taken away."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    holder = rng.choice(("boxes", "bags", "baskets"))
    groups, each = _factor(rng), _factor(rng)
    total = groups * each
    question = [f"{name} fills {groups} {holder} with {each} {things} each."]
    leads: tuple[str, ...] = ("there are", "they hold", f"the {holder} hold")
    steps = [_step(rng, leads, f"{groups} * {each} = {total} {things}.")]
    if level >= 2:
        loose = _term(rng, level)
        question.append(f"There are {loose} more {things} on the table.")
        leads = ("with the others it is", "with those on the table it is", "that makes")
        steps.append(_step(rng, leads, f"{total} + {loose} = {total + loose} {things}."))
        total += loose
    if level >= 3:
        gone = rng.randint(2, min(total - 1, TERM_MAX[level]))
        question.append(f"{name} gives away {gone} {things}.")
        leads = ("that leaves", "there remain")
        steps.append(_step(rng, leads, f"{total} - {gone} = {total - gone} {things}."))
        total -= gone
    question.append(f"How many {things} {'are left' if level >= 3 else 'are there in all'}?")
    return Draft(" ".join(question), tuple(steps), total)


def shop(rng: Random, level: int) -> Draft:
    """Price times count, then a second purchase, then the change."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    price, count = _factor(rng), _factor(rng)
    cost = price * count
    question = [f"{name} buys {count} {things} for ${price} each"]
    leads: tuple[str, ...] = (f"the {things} cost", f"{name} pays", "they cost")
    steps = [_step(rng, leads, f"{count} * {price} = {cost} dollars.")]
    if level >= 2:
        extra = _term(rng, level)
        question.append(f" and a {rng.choice(('hat', 'toy', 'bag'))} for ${extra}")
        leads = ("together that is", "all of it costs", f"{name} pays")
        steps.append(_step(rng, leads, f"{cost} + {extra} = {cost + extra} dollars."))
        cost += extra
    if level < 3:
        question.append(f". How many dollars does {name} {rng.choice(('pay', 'spend'))}?")
        return Draft("".join(question), tuple(steps), cost)
    purse = cost + _term(rng, level)
    question.append(f". {name} had ${purse}. How many dollars are left?")
    leads = ("there remain", "that leaves", f"{name} has")
    steps.append(_step(rng, leads, f"{purse} - {cost} = {purse - cost} dollars."))
    return Draft("".join(question), tuple(steps), purse - cost)


def compare(rng: Random, level: int) -> Draft:
    """A second person has more or a multiple; then both together; then a third person."""
    first, second, third = rng.sample(NAMES, 3)
    things = rng.choice(THINGS)
    if rng.random() < 0.5:
        own, factor = _term(rng, 1), rng.randint(2, 4)
        other = own * factor
        relation = f"{factor} times as many {things} as {first}"
        equation = f"{own} * {factor} = {other}"
    else:
        own, more = _term(rng, level), _term(rng, level)
        other = own + more
        relation = f"{more} more {things} than {first}"
        equation = f"{own} + {more} = {other}"
    steps = [_step(rng, (f"{second} has", f"for {second} it is"), f"{equation} {things}.")]
    question = f"{first} has {own} {things}. {second} has {relation}."
    if level == 1:
        question += f" How many {things} does {second} have?"
        return Draft(question, tuple(steps), other)
    both = own + other
    leads: tuple[str, ...] = ("together they have", f"{first} and {second} have", "that makes")
    steps.append(_step(rng, leads, f"{own} + {other} = {both} {things}."))
    if level == 2:
        question += f" How many {things} do they have together?"
        return Draft(question, tuple(steps), both)
    extra = _term(rng, level)
    question += f" {third} has {extra} {things}. How many {things} do all three have together?"
    leads = (f"with {third} it is", "all three have")
    steps.append(_step(rng, leads, f"{both} + {extra} = {both + extra} {things}."))
    return Draft(question, tuple(steps), both + extra)


def share(rng: Random, level: int) -> Draft:
    """Equal shares of a number that divides; more to share; some of a share is eaten."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    friends, each = _factor(rng), _factor(rng)
    total = friends * each
    question: list[str] = []
    steps: list[str] = []
    if level >= 2:
        found = rng.randint(1, total - 1)
        question.append(f"{name} has {total - found} {things} and gets {found} more.")
        leads: tuple[str, ...] = (f"{name} has", "that makes", "there are")
        steps.append(_step(rng, leads, f"{total - found} + {found} = {total} {things}."))
    else:
        question.append(f"{name} has {total} {things}.")
    question.append(f"{friends} friends share all of them equally.")
    leads = ("each friend gets", "everyone gets", "a share is")
    steps.append(_step(rng, leads, f"{total} / {friends} = {each} {things}."))
    if level >= 3:
        own = _term(rng, level)
        friend = rng.choice(NAMES)
        question.append(f"One of them is {friend}, who already had {own} {things}.")
        question.append(f"How many {things} does {friend} have now?")
        leads = (f"{friend} has", "that makes")
        steps.append(_step(rng, leads, f"{each} + {own} = {each + own} {things}."))
        return Draft(" ".join(question), tuple(steps), each + own)
    question.append(f"How many {things} does each friend get?")
    return Draft(" ".join(question), tuple(steps), each)


def reading(rng: Random, level: int) -> Draft:
    """A daily rate, then a day with more, then what is left to do."""
    name = rng.choice(NAMES)
    verb, unit = rng.choice((("reads", "pages"), ("walks", "miles"), ("solves", "puzzles")))
    days, rate = _factor(rng), _factor(rng)
    done = days * rate
    question = [f"{name} {verb} {rate} {unit} a day for {days} days."]
    leads: tuple[str, ...] = (f"in {days} days {name} {verb}", f"{name} {verb}", "that is")
    steps = [_step(rng, leads, f"{days} * {rate} = {done} {unit}.")]
    if level >= 2:
        extra = _term(rng, level)
        question.append(f"On {rng.choice(('Saturday', 'Sunday'))} {name} {verb} {extra} {unit}.")
        leads = ("that is", "in total it is", "that makes")
        steps.append(_step(rng, leads, f"{done} + {extra} = {done + extra} {unit}."))
        done += extra
    if level < 3:
        question.append(f"How many {unit} is that in total?")
        return Draft(" ".join(question), tuple(steps), done)
    goal = done + _term(rng, level)
    question.append(f"The goal is {goal} {unit}. How many {unit} are left?")
    leads = ("that leaves", "there remain")
    steps.append(_step(rng, leads, f"{goal} - {done} = {goal - done} {unit}."))
    return Draft(" ".join(question), tuple(steps), goal - done)


STORIES: dict[str, Story] = {
    "collection": collection,
    "boxes": boxes,
    "shop": shop,
    "compare": compare,
    "share": share,
    "reading": reading,
}
