import pytest

from agfsync.measures import JudgedImage
from agfsync.measures.hpsv2 import measure_hpsv2


def test_a_style_has_the_mean_and_the_population_deviation_of_ten_parts() -> None:
    # Two images a part: its mean is 2 n + 0.5, and their population variance is 4 (10^2 - 1) / 12 = 33.
    images = [JudgedImage("anime", float(value)) for value in range(20)]
    few = [JudgedImage("photo", 50.0), JudgedImage("photo", 60.0)]
    assert measure_hpsv2([*images, *few]) == {
        "anime": 9.5,
        "anime, standard deviation": pytest.approx(33**0.5),
        "photo": 55,
        "average": pytest.approx(300 / 22),
    }
    assert measure_hpsv2([]) == {}
