import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agfsync.shapes.grammar import (
    SHAPES_CATEGORIES,
    describe_scene,
    garble_spec,
    invent_spec,
    list_foils,
    list_questions,
    parse_caption,
    write_caption,
)
from agfsync.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    LOCATIONS,
    MATERIALS,
    MAX_THINGS,
    RELATIONS,
    SHAPES,
    SIZES,
    CrowdedError,
    Group,
    Scene,
    Spec,
    compose_scene,
)


def maybe(choices: tuple[str, ...]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(choices)


GROUPS = st.builds(
    Group,
    st.sampled_from(SHAPES),
    maybe(COLORS),
    maybe(SIZES),
    maybe(MATERIALS),
    st.integers(1, MAX_THINGS),
    maybe(LOCATIONS),
)
SPECS = st.lists(GROUPS, min_size=1, max_size=4).flatmap(
    lambda groups: st.builds(
        Spec, st.just(tuple(groups)), maybe(RELATIONS) if len(groups) > 1 else st.none(), maybe(BACKGROUNDS)
    )
)


@settings(deadline=None, derandomize=True)
@given(spec=SPECS, seed=st.integers(0, 999))
def test_whatever_a_caption_says_is_read_from_it(spec: Spec, seed: int) -> None:
    assert parse_caption(write_caption(spec, random.Random(seed))) == spec


def test_captions_of_every_category_are_read_and_worded_variously(category: str, rng: random.Random) -> None:
    captions = set()
    for _ in range(200):
        spec = invent_spec(category, rng)
        caption = write_caption(spec, rng)
        assert parse_caption(caption) == spec, caption
        captions.add(caption)
    assert len(captions) > 150
    assert len({len(caption.split()) for caption in captions}) > 5


def test_other_wordings_are_read() -> None:
    assert parse_caption("Two big red stars, over one plain circle.") == Spec(
        (Group("star", "red", "large", count=2), Group("circle", material="solid")), "above"
    )
    assert parse_caption("an elephant on a pink background") == Spec(())


def test_a_category_keeps_what_its_name_promises(rng: random.Random) -> None:
    invented = {category: [invent_spec(category, rng) for _ in range(60)] for category in SHAPES_CATEGORIES}
    assert all(len(spec.groups) == 1 for spec in invented["Single Objects"])
    assert all(len(spec.groups) == 2 for spec in invented["Attribute Binding"])
    assert all(spec.groups[0].count > 1 for spec in invented["Counting"])
    assert all(spec.relation for spec in invented["Spatial Relations"])
    assert all(group.location for spec in invented["Locations"] for group in spec.groups)
    assert all(len(spec.groups) == 3 for spec in invented["Complex Scenes"])


def test_questions_cover_all_that_a_caption_says() -> None:
    spec = Spec(
        (Group("star", "red", "small", "striped", 2), Group("heart", "blue", location="centre")), "left", "grey"
    )
    assert [query.to_text() for query in list_questions(spec)] == [
        "Is there a star?",
        "Is the star red?",
        "Is the red object a star?",
        "Is the red star small?",
        "Is the red star striped?",
        "Are there exactly two red stars?",
        "Is there a heart?",
        "Is the heart blue?",
        "Is the blue object a heart?",
        "Is the blue heart in the centre?",
        "Is the red star to the left of the blue heart?",
        "Is the background grey?",
    ]


def test_what_is_said_of_a_scene_is_true_of_it(
    scenes: Callable[[int], Iterator[Scene]],
    captioned: Callable[[int], Iterator[tuple[Spec, Scene]]],
    rng: random.Random,
) -> None:
    said = Counter[str]()
    for scene in [*scenes(150), *(scene for _, scene in captioned(50))]:
        asked = list_questions(describe_scene(scene, rng))
        assert all(query.answer(scene) for query in asked), scene
        said.update(query.element_type for query in asked)
    assert set(said) == {
        *("object", "color", "shape", "attribute", "material", "counting", "location", "spatial", "other")
    }


def test_a_description_counts_every_thing_once(scenes: Callable[[int], Iterator[Scene]], rng: random.Random) -> None:
    for scene in scenes(80):
        groups = describe_scene(scene, rng).groups
        listed = Counter((g.shape, g.color, g.size, g.material) for g in groups for _ in range(g.count))
        assert listed == Counter((t.shape, t.color, t.size, t.material) for t in scene.things)


def attributes(spec: Spec) -> list[str | None]:
    """All that `garble` swaps at its full rate, shapes left out."""
    of_groups = [value for g in spec.groups for value in (g.color, g.size, g.material, g.location)]
    return [*of_groups, spec.relation, spec.background]


@pytest.mark.parametrize(("rate", "drop"), [(0.3, 0.05), (0.1, 0.0), (0.0, 0.2)])
def test_garbling_swaps_and_drops_at_the_rates_it_is_given(rate: float, drop: float, rng: random.Random) -> None:
    swapped, dropped, shapes, counts = [], [], [], []
    for _ in range(400):
        for spec in (invent_spec(category, rng) for category in SHAPES_CATEGORIES):
            garbled = garble_spec(spec, rate, rng, drop)
            both = [(a, b) for a, b in zip(attributes(spec), attributes(garbled), strict=True) if a is not None]
            swapped += [b not in (a, None) for a, b in both]
            dropped += [b is None for _, b in both]
            groups = list(zip(spec.groups, garbled.groups, strict=True))
            shapes += [a.shape != b.shape for a, b in groups]
            counts += [a.count != b.count for a, b in groups]
    share = [sum(changes) / len(changes) for changes in (swapped, dropped, shapes, counts)]
    assert share == pytest.approx([rate, drop, rate, rate / 2], abs=0.02)


def test_garbling_adds_nothing(rng: random.Random) -> None:
    for _ in range(50):
        garbled = garble_spec(Spec((Group("star"),)), 0.9, rng)
        assert set(attributes(garbled)) == {None}
        assert garbled.groups[0].shape in SHAPES
    spec = invent_spec("Complex Scenes", rng)
    assert garble_spec(spec, 0.0, rng) == spec


@settings(deadline=None, derandomize=True)
@given(spec=SPECS, seed=st.integers(0, 999))
def test_a_foil_is_false_wherever_the_caption_holds(spec: Spec, seed: int) -> None:
    rng = random.Random(seed)
    try:
        scene = compose_scene(spec, rng)
    except CrowdedError:
        return
    for stated, foil in list_foils(spec, rng):
        assert stated in list_questions(spec)
        assert stated.answer(scene) and not foil.answer(scene), (spec, foil)


def test_foils_are_near_misses(rng: random.Random) -> None:
    spec = parse_caption("two small striped red stars in the top left corner with a blue heart on a grey background")
    denied = {stated.element_type: foil for stated, foil in list_foils(spec, rng) if stated.kind.shape != "heart"}
    assert set(denied) == {"color", "shape", "attribute", "material", "counting", "location", "other"}
    assert denied["counting"].count in (1, 3) and denied["attribute"].kind.size == "large"
    assert denied["location"].location in ("top right", "bottom left", "centre")
    assert denied["color"].kind.color != "red" and denied["other"].background != "grey"
    ((stated, foil),) = [
        p for p in list_foils(parse_caption("a red star left of a blue heart"), rng) if p[0].element_type == "spatial"
    ]
    assert (stated.relation, foil.relation) == ("left", "right")


def test_what_another_group_may_make_true_is_no_foil(rng: random.Random) -> None:
    spec = Spec((Group("star", "red", "small"), Group("star", None, "large")), "left")
    kinds = {foil.element_type for _, foil in list_foils(spec, rng)}
    assert not kinds & {"attribute", "counting", "spatial", "color"}
