"""The paper's twelve categories of captions, each with what it is about and five exemplars.

The exemplars are as long as those that the authors used: 22 to 34 words, 26 on average, so that what is written after
them is as rich in elements as the paper's captions.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Category:
    """The subject of a category's captions, and examples of their style."""

    about: str
    exemplars: tuple[str, str, str, str, str]


CAPTION_CATEGORIES: Mapping[str, Category] = {
    "Natural Landscapes": Category(
        "land, water and sky as weather, season and light shape them, with few traces of people",
        (
            "A frozen waterfall glows pale blue at noon between two walls of dark basalt, icicles"
            " hanging over a round pool dusted with snow.",
            "Lavender rows run down a gentle slope to a lone cypress, while a bank of violet storm clouds gathers"
            " over the hills behind it.",
            "Low tide on a black sand beach: mirrors of wet sand hold the orange sky, and three sea stacks stand in"
            " the mist behind a line of white foam.",
            "Yellow birches and a few red rowans surround a still mountain lake, their reflections broken only by a"
            " fallen trunk on which two grey herons stand.",
            "High above a canyon of red and cream rock layers, a thin green river winds past two sandbars while the"
            " morning sun lights only the western rim and leaves the rest in shade.",
        ),
    ),
    "Cities and Architecture": Category(
        "streets, squares, bridges and buildings of any age and style, outside and inside",
        (
            "Seen from above, a spiral staircase of white marble with a thin brass handrail turns down five floors"
            " to a chequered hall.",
            "Rain falls on a narrow alley in Lisbon, where laundry drips between yellow balconies and an orange cat"
            " shelters under a blue café table by the steps.",
            "Two glass towers joined by a bridge of steel reflect a pink sunset over the harbour and"
            " its row of striped cranes.",
            "A small wooden temple with a curved roof stands at the end of a gravel path, stone lanterns on both sides"
            " and one red maple leaning over the gate.",
            "Over the tiled rooftops of an old town at dusk rise a green church dome, four smoking chimneys and a"
            " flock of swifts, with the first windows lit below.",
        ),
    ),
    "People": Category(
        "people of every age and origin, alone or together, with their faces, clothes, gestures and surroundings",
        (
            "An old fisherman with a white beard and a knitted blue cap sits on an upturned crate at the quay,"
            " mending a green net with a wooden needle.",
            "Two girls in yellow raincoats and red boots jump hand in hand over a puddle that mirrors the sky,"
            " their school bags flying.",
            "A woman with silver braids laughs as she pours mint tea from a brass pot held high above a tiny glass"
            " on a low table.",
            "Portrait of a young man with freckles and round glasses, lit by the blue screen of a phone in an otherwise"
            " dark train carriage, raindrops on the window beside him.",
            "At a workbench under a green lamp, a watchmaker in a leather apron holds a tiny gear in steel tweezers,"
            " a magnifier clipped to his thick black spectacles.",
        ),
    ),
    "Animals": Category(
        "wild and tame animals on land, in water and in the air, what they look like and what they are doing",
        (
            "A small hedgehog with wet spines sniffs at a red mushroom with white dots, brown oak leaves stuck to its"
            " back and a snail creeping past its nose.",
            "Five flamingos sleep on one leg each in a shallow salt lake, heads tucked under pink wings, while a"
            " sixth one drinks.",
            "A tabby cat on a windowsill watches a blackbird through glass covered in raindrops, one paw lifted,"
            " between a pot of basil and a folded newspaper.",
            "In the beam of a diver's torch an octopus turns from sandy brown to brick red as it squeezes between two"
            " corals, one arm still curled around an empty shell.",
            "A dappled grey horse gallops along a snowy wooden fence at sunrise, its breath a white cloud, its mane"
            " full of frost.",
        ),
    ),
    "Plants": Category(
        "flowers, trees, mosses, fungi and crops, near and far, wild and grown",
        (
            "A single dandelion clock stands before a dark green hedge, half of its seeds"
            " drifting left through a slanting beam of sunlight.",
            "Velvety moss, tiny ferns and a row of orange bracket fungi cover a fallen log that bridges a clear"
            " stream, with drops hanging from every green tip.",
            "A row of five terracotta pots with basil, thyme and purple sage stands on a whitewashed wall, a tin"
            " watering can and a sleeping lizard at its end.",
            "The crooked trunk of an ancient olive tree, hollow in the middle, throws a lacework of shadow on the dry"
            " red soil around its roots and a low stone wall.",
            "Pink water lilies open between round leaves, each leaf holding a few silver drops of the morning's rain"
            " and one of them a small green frog.",
        ),
    ),
    "Food and Beverages": Category(
        "dishes, ingredients and drinks, raw or ready, and how they are served",
        (
            "Eight pleated dumplings steam in a bamboo basket lined with cabbage leaves, next to a black dish of soy"
            " sauce and two red chopsticks.",
            "A tall glass of ruby hibiscus tea with ice cubes, a slice of lime and a sprig of mint stands on a"
            " turquoise tile table beside a sugar bowl.",
            "Half a loaf of rye bread, a wedge of blue cheese and three ripe figs lie on a slate board, crumbs around"
            " a knife with a horn handle.",
            "A cook's hand scatters chopped coriander over a bowl of orange lentil soup, beside it a stack of flatbread"
            " wrapped in a checked cloth and half a lemon.",
            "Six macarons in the colours of the rainbow stand on edge like books between two small white cups of"
            " espresso on a marble counter.",
        ),
    ),
    "Sports and Fitness": Category(
        "athletes, players and hobbyists in motion or at rest, with their gear and their grounds",
        (
            "A climber in a red helmet hangs by one chalky hand from an overhanging limestone rock, a coil of blue"
            " rope at her belt.",
            "Four rowers in white shirts pull their narrow wooden boat across a misty lake at dawn, the oars leaving"
            " two neat rows of rings on the water.",
            "A goalkeeper in a purple jersey dives to the left, fingertips brushing the ball, mud flying from her boots"
            " onto the white goal line.",
            "Seen from the bottom of the pool, a swimmer in a striped suit glides past the black lane line with a trail"
            " of bubbles behind her feet.",
            "Four elderly friends practise tai chi on a wet lawn, their white sleeves lifted together, while a dog"
            " waits by a bench piled with coats.",
        ),
    ),
    "Art and Culture": Category(
        "artworks, crafts, music, dance, theatre, festivals and customs from all over the world",
        (
            "An old violin with a worn amber varnish rests on handwritten sheet music, a single red rose across its"
            " strings and a burnt-down candle in a pewter holder behind.",
            "Dancers with tall feather headdresses and ankle bells whirl around a bonfire at night, sparks rising"
            " past three drummers who kneel in the sand with painted faces.",
            "A potter's wet hands raise the wall of a grey clay bowl on a spinning wheel, a sponge and a wire cutter"
            " nearby.",
            "Hundreds of paper lanterns float down the river at night, each with a brushed character on its side, past"
            " families kneeling on the wooden landing.",
            "Embroidered masks with gold beaks and long ribbons hang in four rows on a market stall, and a boy in a"
            " green cap tries on the smallest one.",
        ),
    ),
    "Technology and Industry": Category(
        "machines, tools, laboratories, factories and energy, from workbench to space",
        (
            "An orange robot arm welds a silver car door in a rain of sparks, while an engineer behind dark glass"
            " checks a tablet.",
            "Between two rows of black servers with blinking green lights, a technician in socks carries a laptop, her"
            " shadow long on the perforated white floor tiles.",
            "Three white wind turbines rise out of morning fog above a field of yellow rapeseed, a red tractor"
            " crawling along the furrow that leads to the nearest tower.",
            "On a cluttered workbench a soldering iron smokes over a circuit board, and a magnifying lamp lights the"
            " coloured wires, a coil of tin and the tweezers beside it.",
            "A satellite unfolds its blue solar panels over the night side of the Earth, where the lights of the cities"
            " trace a coastline.",
        ),
    ),
    "Everyday Objects": Category(
        "things from home, office and pocket, their materials, wear and arrangement",
        (
            "A chipped blue mug full of pencils stands on a windowsill beside a roll of brown tape, a pair of scissors"
            " with red handles and a small cactus.",
            "Three iron keys and a bottle opener hang on a brass hook by a green door, under them a wicker basket"
            " with gloves and one striped scarf.",
            "An old brass alarm clock with two bells lies on its side on a knitted blanket, its"
            " hands at ten past four.",
            "Seven umbrellas of different colours dry open on the tiled floor of a hallway, a puddle under each, next"
            " to a row of muddy rubber boots.",
            "On a wooden desk by the window lie folded reading glasses, a leather notebook with a frayed ribbon, and a"
            " half-eaten apple that has begun to brown.",
        ),
    ),
    "Transportation": Category(
        "vehicles and those who travel by them, on roads, rails, water and in the air",
        (
            "A red tram with a lit number on its roof climbs a steep cobbled street between pastel houses, two boys"
            " running along and waving at the driver.",
            "Two hot-air balloons, one checked in green and white, one plain yellow, drift above a snowy valley with a"
            " frozen river and a tiny wooden church.",
            "A rusty bicycle with a basket of sunflowers leans against a turquoise door, a"
            " black cat asleep on the worn stone step.",
            "A steam train with six maroon carriages crosses a stone viaduct of nine arches, its white plume drifting"
            " over the pines and the shallow stream below.",
            "Inside a seaplane's cockpit: the pilot's gloved hand rests on the throttle, and beyond the round dials and"
            " the wet windscreen a green island grows larger.",
        ),
    ),
    "Abstract and Conceptual Art": Category(
        "forms, colours and impossible scenes that show an idea or a mood rather than a place",
        (
            "Overlapping circles of gold and navy on rough handmade paper, the smallest torn in half, with one thin"
            " vermilion line running through all of them to the lower edge.",
            "A staircase made of piano keys winds up into a single pink cloud, circled by paper birds folded from sheet"
            " music in a slate sky.",
            "Silence, as a single white thread stretched across a black field, with a tiny brass bell hanging from its"
            " middle and the faint ring of a ripple below.",
            "A city grows out of an open book, its towers folded from printed pages, and ink runs between them like a"
            " river at night under a paper moon.",
            "Shards of a broken mirror hang in the air in the outline of a bird, and every shard reflects another"
            " season: snow, blossom, ripe wheat, falling leaves.",
        ),
    ),
}
