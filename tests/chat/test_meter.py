import threading
import time

import pytest

from agfsync.chat.meter import Meter, Spending, TokenCount
from agfsync.errors import BudgetError

WORST = TokenCount(1_000_000, 100_000)


def test_what_replies_take_is_counted_on_top_of_earlier_runs() -> None:
    meter = Meter((1.0, 10.0), spent=Spending(2, 10, 20, 3.0))
    with meter.request(WORST) as count:
        count(TokenCount(500_000, 50_000))
    assert meter.spent == Spending(3, 500_010, 50_020, 4.0)


def test_a_request_that_got_no_reply_takes_nothing_and_its_room_is_free_again() -> None:
    meter = Meter((1.0, 10.0), max_cost=2.0)
    for _ in range(3):
        with pytest.raises(OSError), meter.request(WORST):
            raise OSError
    assert meter.spent == Spending()


def test_no_request_is_made_that_might_pass_the_cap() -> None:
    meter = Meter((1.0, 10.0), max_cost=2.5, section="captions.writer")
    with meter.request(WORST) as count:
        count(TokenCount(600_000, 0))
    with pytest.raises(BudgetError, match=r"has cost 0\.6 of captions\.writer\.max_cost = 2\.5"), meter.request(WORST):
        pass


def test_a_request_waits_for_those_under_way_before_the_cap_counts_as_reached() -> None:
    meter, begun, may_end, order = Meter((0.1, 0.0), max_cost=0.15), threading.Event(), threading.Event(), []

    def first() -> None:
        with meter.request(WORST) as count:
            begun.set()
            may_end.wait(5)
            order.append("first")
            count(TokenCount(1000, 0))

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(5)
    threading.Timer(0.05, may_end.set).start()
    with meter.request(WORST):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_near_the_cap_requests_are_let_through_in_the_order_in_which_they_came() -> None:
    meter, order = Meter(max_tokens=1000), list[int]()

    def ask(number: int) -> None:
        with meter.request(TokenCount(600, 0)) as count:
            order.append(number)
            count(TokenCount(1, 0))

    with meter.request(TokenCount(600, 0)):
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
        for number, thread in enumerate(threads):
            thread.start()
            while len(meter._queue) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert order == list(range(20))


def test_from_many_threads_every_token_is_counted_and_the_cap_holds() -> None:
    meter, refused = Meter((1.0, 1.0), max_cost=0.01), []

    def ask() -> None:
        try:
            with meter.request(TokenCount(300, 33)) as count:
                count(TokenCount(200, 33))
        except BudgetError:
            refused.append(1)

    threads = [threading.Thread(target=ask) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert meter.spent.requests + len(refused) == 60 and refused
    assert meter.spent.cost == pytest.approx(meter.spent.requests * 233e-6) and meter.spent.cost <= 0.01


def test_the_cap_on_tokens_counts_both_ways_and_holds_as_the_one_on_cost_does() -> None:
    meter = Meter(max_tokens=1000, spent=Spending(1, 200, 100, 0.0), section="questions.writer")
    with meter.request(TokenCount(300, 300)) as count:
        count(TokenCount(250, 50))
    cap = r"questions\.writer\.max_tokens_total"
    says = rf"taken 600 tokens of {cap} = 1000, .*--set {cap} to"
    with pytest.raises(BudgetError, match=says), meter.request(TokenCount(300, 101)):
        pass
    with meter.request(TokenCount(300, 100)) as count:
        count(TokenCount(300, 100))
    assert meter.spent.tokens == 1000


def test_from_many_threads_no_request_passes_the_cap_on_tokens() -> None:
    meter, refused = Meter(max_tokens=5000), []

    def ask() -> None:
        try:
            with meter.request(TokenCount(300, 33)) as count:
                count(TokenCount(200, 33))
        except BudgetError:
            refused.append(1)

    threads = [threading.Thread(target=ask) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert meter.spent.requests + len(refused) == 60 and refused
    # Stopped no sooner than where the next one might have passed it.
    assert 5000 - 333 < meter.spent.tokens <= 5000


def test_what_was_spent_is_read_as_it_was_written() -> None:
    spent = Spending(2, 30, 4, 0.5)
    assert Spending.from_dict(spent.to_dict()) == spent and Spending.from_dict({}) == Spending()
