"""The paper's twelve categories of captions, each with what it is about and five exemplars of very different length."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Category:
    """What captions of a category are about, and how they may sound."""

    about: str
    exemplars: tuple[str, str, str, str, str]


CATEGORIES: Mapping[str, Category] = {
    "Natural Landscapes": Category(
        "land, water and sky as weather, season and light shape them, with few traces of people",
        (
            "A frozen waterfall glowing pale blue at noon.",
            "Lavender rows run down to a lone cypress under a bank of violet storm clouds.",
            "Low tide on a black sand beach: mirrors of wet sand hold the orange sky, and three sea stacks stand in"
            " the mist behind a line of white foam.",
            "Autumn birches around a still mountain lake.",
            "High above a canyon of red and cream rock layers, a thin green river winds past two sandbars while the"
            " morning sun lights only the western rim and leaves the rest in cool blue shade.",
        ),
    ),
    "Cities and Architecture": Category(
        "streets, squares, bridges and buildings of any age and style, outside and inside",
        (
            "A spiral staircase of white marble seen from above.",
            "Rain on a narrow alley in Lisbon, with laundry between the yellow balconies.",
            "Two glass towers joined by a bridge of steel reflect a pink sunset over the harbour.",
            "A small wooden temple with a curved roof stands at the end of a gravel path, stone lanterns on both sides"
            " and one red maple leaning over the gate.",
            "Rooftops at dusk.",
        ),
    ),
    "People": Category(
        "people of every age and origin, alone or together, with their faces, clothes, gestures and surroundings",
        (
            "An old fisherman mending a green net on the quay.",
            "Two girls in yellow raincoats jump over a puddle.",
            "A woman with silver braids laughs as she pours mint tea from a brass pot held high above a tiny glass.",
            "Portrait of a young man with freckles and round glasses, lit by the blue screen of a phone in an otherwise"
            " dark train carriage.",
            "A watchmaker at work.",
        ),
    ),
    "Animals": Category(
        "wild and tame animals on land, in water and in the air, what they look like and what they are doing",
        (
            "A hedgehog under a mushroom.",
            "Five flamingos asleep on one leg in a shallow salt lake.",
            "A tabby cat on a windowsill watches a blackbird through glass covered in raindrops.",
            "In the beam of a diver's torch an octopus turns from sandy brown to brick red as it squeezes between two"
            " corals, one arm still curled around an empty shell.",
            "A grey horse gallops along a snowy fence, its breath a white cloud.",
        ),
    ),
    "Plants": Category(
        "flowers, trees, mosses, fungi and crops, near and far, wild and grown",
        (
            "A single dandelion clock against a dark green hedge.",
            "Moss and tiny ferns on a fallen log.",
            "A row of terracotta pots with basil, thyme and purple sage on a whitewashed wall.",
            "The crooked trunk of an ancient olive tree, hollow in the middle, throws a lacework of shadow on the dry"
            " red soil around its roots.",
            "Pink water lilies open between round leaves, each leaf holding a few silver drops of the morning's rain"
            " and one of them a small green frog.",
        ),
    ),
    "Food and Beverages": Category(
        "dishes, ingredients and drinks, raw or ready, and how they are served",
        (
            "Steaming dumplings in a bamboo basket.",
            "A glass of iced hibiscus tea with a slice of lime.",
            "Half a loaf of rye bread, a wedge of blue cheese and three figs on a slate board.",
            "A cook's hand scatters chopped coriander over a bowl of orange lentil soup, beside it a stack of flatbread"
            " wrapped in a checked cloth.",
            "Six macarons in the colours of the rainbow, standing on edge like books between two small white cups of"
            " espresso on a marble counter.",
        ),
    ),
    "Sports and Fitness": Category(
        "athletes, players and hobbyists in motion or at rest, with their gear and their grounds",
        (
            "A climber hangs by one hand from an overhanging rock.",
            "Rowers at dawn.",
            "A goalkeeper in a purple jersey dives to the left, fingertips brushing the ball.",
            "Seen from the bottom of the pool, a swimmer in a striped suit glides past the black lane line with a trail"
            " of bubbles behind her feet.",
            "Four elderly friends practise tai chi on a wet lawn, their white sleeves lifted together, while a dog"
            " waits by a bench piled with coats.",
        ),
    ),
    "Art and Culture": Category(
        "artworks, crafts, music, dance, theatre, festivals and customs from all over the world",
        (
            "A violin and a single red rose on sheet music.",
            "Dancers with tall feather headdresses whirl around a bonfire.",
            "A potter's wet hands raise the wall of a grey clay bowl on a spinning wheel.",
            "Hundreds of paper lanterns float down the river at night, each with a brushed character on its side, past"
            " families kneeling on the wooden landing.",
            "Embroidered masks on a market stall.",
        ),
    ),
    "Technology and Industry": Category(
        "machines, tools, laboratories, factories and energy, from workbench to space",
        (
            "A robot arm welding a car door in a rain of sparks.",
            "Rows of servers with blinking green lights.",
            "Three wind turbines rise out of morning fog above a field of yellow rapeseed.",
            "On a cluttered workbench a soldering iron smokes over a circuit board, and a magnifying lamp lights the"
            " coloured wires and the tweezers beside it.",
            "A satellite unfolds its blue solar panels over the night side of the Earth, where the lights of the cities"
            " trace a coastline.",
        ),
    ),
    "Everyday Objects": Category(
        "things from home, office and pocket, their materials, wear and arrangement",
        (
            "A chipped blue mug full of pencils.",
            "Keys on a hook.",
            "An old brass alarm clock lies on its side on a knitted blanket.",
            "Seven umbrellas of different colours dry open on the tiled floor of a hallway, a puddle under each.",
            "On a wooden desk by the window lie folded reading glasses, a leather notebook with a frayed ribbon, and a"
            " half-eaten apple that has begun to brown.",
        ),
    ),
    "Transportation": Category(
        "vehicles and those who travel by them, on roads, rails, water and in the air",
        (
            "A red tram climbs a steep street.",
            "Two hot-air balloons above a snowy valley.",
            "A rusty bicycle with a basket of sunflowers leans against a turquoise door.",
            "A steam train crosses a stone viaduct of nine arches, its white plume drifting over the pines below.",
            "Inside a seaplane's cockpit: the pilot's gloved hand rests on the throttle, and beyond the round dials and"
            " the wet windscreen a green island grows larger.",
        ),
    ),
    "Abstract and Conceptual Art": Category(
        "forms, colours and impossible scenes that show an idea or a mood rather than a place",
        (
            "Overlapping circles of gold and navy on rough paper.",
            "A staircase made of piano keys winds up into a cloud.",
            "Silence, as a single white thread across a black field.",
            "A city grows out of an open book, its towers folded from printed pages, and ink runs between them like a"
            " river at night.",
            "Shards of a broken mirror hang in the air in the outline of a bird, and every shard reflects another"
            " season: snow, blossom, ripe wheat, falling leaves.",
        ),
    ),
}
