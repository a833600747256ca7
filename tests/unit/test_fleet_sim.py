# SPDX-License-Identifier: Apache-2.0
"""What must hold of the model of a fleet, whatever its figures are."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fleet_sim import assumptions, capacity
from bench.fleet_sim.__main__ import main
from bench.fleet_sim.assumptions import AssumptionError, Assumptions
from bench.fleet_sim.calls import Calls
from bench.fleet_sim.fleets import FLEETS, REGIONS, ROUTABLE, SMALL, Fleet
from bench.fleet_sim.region import Region, quantile
from bench.fleet_sim.report import measured, predicted, report
from bench.fleet_sim.scenarios import play, quiet
from bench.fleet_sim.takeover import deaths

ROOT = Path(__file__).parents[2]
GIVEN, SOURCES = assumptions.load()
# Busier than the small one, so that every step has calls that begin and end.
BUSY = replace(SMALL, calls=30_000)


class TestAssumptions:
    def test_documents_that_figures_are_from_are_there(self) -> None:
        named = {
            path
            for source in SOURCES.values()
            for path in re.findall(r"\b(?:docs|bpf)/[\w./-]+\w", source.source)
        }
        assert named
        assert not [path for path in sorted(named) if not (ROOT / path).exists()]

    def test_the_model_uses_every_figure(self) -> None:
        text = "".join(path.read_text() for path in (ROOT / "bench/fleet_sim").glob("*.py"))
        assert not [name for name in assumptions.NAMES if f"a.{name}" not in text]

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            (("kind = ", "of = "), "does not say"),
            (('kind = "assumed"', 'kind = "guessed"'), "does not say"),
            (("[call_seconds]", "[call_minutes]"), "no such figure: call_minutes"),
            (("value = 300\n", 'value = "long"\n'), "call_seconds is no number"),
            (("value = 300\n", "value = -1\n"), "call_seconds is no number"),
            (("value = 300\n", "value = \n"), "Invalid value"),
        ],
    )
    def test_a_file_that_leaves_something_open_is_refused(
        self, tmp_path: Path, change: tuple[str, str], fault: str
    ) -> None:
        path = tmp_path / "assumptions.toml"
        path.write_text(assumptions.DEFAULT.read_text().replace(*change, 1))
        with pytest.raises(AssumptionError, match=fault):
            assumptions.load(path)


class TestCalls:
    @given(
        seed=st.integers(0, 1000),
        calls=st.integers(0, 5000),
        faults=st.lists(
            st.tuples(st.sampled_from(["step", "lose", "rehome"]), st.integers(0, 4)), max_size=12
        ),
    )
    @settings(max_examples=100, deadline=None)
    def test_none_comes_from_nowhere_or_goes_nowhere(
        self, seed: int, calls: int, faults: list[tuple[str, int]]
    ) -> None:
        model = Calls(5, calls, start_rate=500, mean_seconds=10, seed=seed)
        for what, relay in faults:
            before = model.live, model.lost
            if what == "step":
                moment = model.step(0.5)
                assert moment.started.sum() == moment.bound.sum()
                assert moment.ended.sum() == moment.unbound.sum()
                assert model.live == before[0] + moment.started.sum() - moment.ended.sum()
            elif what == "lose" and model.alive.sum() > 1:
                had = int(model.ingress[relay])
                model.alive[relay] = False
                fates = model.reroute(relay, model.alive.nonzero()[0], had // 3, 0.5)
                assert sum(fates) == had
                assert model.ingress[relay] == 0
                assert model.live == before[0] - (model.lost - before[1])
            elif what == "rehome" and not model.alive[relay]:
                model.rehome(relay)
                assert model.home[relay] == 0
            model.check()


def _region(fleet: Fleet = BUSY, a: Assumptions = GIVEN, seconds: float = 2) -> Region:
    region = Region(fleet, a, seed=3)
    region.run(seconds)
    return region


def _stop(region: Region, seconds: float = 5) -> None:
    """Calls and transceivers come and go no more, and what is under way arrives."""
    region.calls.step = lambda _: Calls(len(region.relays), 0, 0, 1, 0).step(1)  # type: ignore[method-assign]
    region.rates = replace(region.rates, starts=0.0)
    region.fleet = replace(region.fleet, transceivers=0)
    region.env.run(until=region.env.now + seconds)


def _all_is_known(region: Region) -> bool:
    alive = [relay for relay in region.relays if relay.alive]
    return all(
        relay.epoch == region.directory.epoch
        and relay.cursor == len(region.directory.messages)
        and not relay.pending
        and not relay.sending
        for relay in alive
    )


class TestConvergence:
    def test_every_change_reaches_every_relay_once(self) -> None:
        region = _region()
        _stop(region)
        assert _all_is_known(region)
        assert len(region.directory.messages) > 100
        others = sum(one.entries * (len(region.relays) - 1) for one in region.directory.messages)
        assert sum(region.take_lags().values()) == others

    def test_every_flow_is_known_to_its_group(self) -> None:
        region = _region()
        _stop(region)
        assert [relay.unknown for relay in region.relays] == [0, 0, 0]

    @pytest.mark.parametrize("empty", [False, True])
    def test_after_redis_was_away(self, empty: bool) -> None:
        region = _region()
        before = region.directory.appended
        region.lose_redis(3, empty)
        region.run(2.9)
        assert region.directory.appended == before
        assert region.stale_until(2) is None
        region.run(5)
        assert region.stale_until(2) is not None
        kept = sum(relay.sessions for relay in region.relays)
        there = sum(one.entries for one in region.directory.messages)
        assert (there >= 0.9 * kept) == empty
        _stop(region)
        assert _all_is_known(region)

    def test_after_a_relay_has_died(self) -> None:
        region = _region(a=replace(GIVEN, moved_changes=1.0))
        home = int(region.calls.home[2])
        before = region.directory.appended
        region.lose_relay(2)
        region.run(5)
        assert region.calls.home[2] == 0
        assert region.directory.appended - before >= home  # each is said again
        _stop(region)
        assert _all_is_known(region)
        assert region.relays[0].group == [region.relays[1]]

    @pytest.mark.parametrize("group", [1, 3])
    def test_at_whatever_moment_it_dies(self, group: int) -> None:
        for milliseconds in range(12):
            region = Region(replace(BUSY, group=group), GIVEN, seed=4)
            region.env.run(until=0.2 + milliseconds / 1000)
            region.lose_relay(1)
            region.run(1.5)
            assert region.calls.home[1] == 0

    def test_a_group_of_one_loses_who_sends_no_checks(self) -> None:
        region = _region(replace(BUSY, group=1))
        carried, again, lost = region.lose_relay(0)
        assert carried == 0
        assert lost > 0.05 * again > 0
        region.calls.check()


class TestLatency:
    def test_nothing_gets_quicker_by_a_slower_network(self) -> None:
        outcomes = []
        for latency in (0.0, 0.01, 0.05):
            a = replace(GIVEN, latency_seconds=latency)
            region = _region(replace(BUSY, calls=6000), a)
            lags = region.take_lags()
            region.lose_redis(1, empty=True)
            region.run(3)
            late = region.stale_until(0)
            assert late is not None
            gap = sum(fate.gap for fate in deaths(a, 200, peers=2, seed=5))
            outcomes.append((quantile(lags, 0.5), quantile(lags, 0.99), gap, late))
        for figures in zip(*outcomes, strict=True):
            assert list(figures) == sorted(figures)
            assert figures[0] < figures[-1]

    def test_a_change_goes_to_redis_and_from_there_on(self) -> None:
        region = _region(a=replace(GIVEN, latency_seconds=0.05))
        assert min(region.take_lags()) >= 100  # ms


class TestAgainstArithmetic:
    def test_what_is_simulated_uses_what_was_added_up(self) -> None:
        fleet, found = BUSY, quiet(_region())
        rates = capacity.rates(fleet, GIVEN)
        assert found.changes_per_second == pytest.approx(rates.changes, rel=0.1)
        assert found.redis_cpu == pytest.approx(capacity.redis_cpu(fleet, GIVEN), rel=0.15)
        assert found.daemon_cpu == pytest.approx(capacity.daemon_cpu(fleet, GIVEN), rel=0.1)
        assert found.replication_bytes_per_second == pytest.approx(rates.relay_replication_bytes, rel=0.1)

    @pytest.mark.parametrize(("times", "behind"), [(0.7, False), (1.5, True)])
    @pytest.mark.parametrize("figure", ["read_us", "register_us"])
    def test_it_falls_behind_where_there_is_too_little(self, figure: str, times: float, behind: bool) -> None:
        def share(a: Assumptions) -> float:
            return capacity.redis_cpu(BUSY, a) if figure == "read_us" else capacity.daemon_cpu(BUSY, a)

        nothing, one = share(replace(GIVEN, **{figure: 0.0})), share(replace(GIVEN, **{figure: 1.0}))
        a = replace(GIVEN, **{figure: (times - nothing) / (one - nothing)})
        assert share(a) == pytest.approx(times)
        assert quiet(_region(a=a)).falls_behind == behind

    @pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)
    def test_more_calls_need_no_less(self, fleet: Fleet) -> None:
        larger = [replace(fleet, calls=fleet.calls * times) for times in (1, 2, 4, 8)]
        for few, many in itertools.pairwise(list(capacity.uses(one, GIVEN)) for one in larger):
            assert all(less.used <= more.used for less, more in zip(few, many, strict=True))

    def test_what_is_spent_is_spent_there_and_not_before(self) -> None:
        for what, calls in capacity.spent_at(REGIONS, GIVEN).items():
            if what == capacity.TRANSCEIVERS:  # calls have no part in it
                assert calls == capacity.MOST_CALLS
                continue
            just, over = (replace(REGIONS, calls=round(calls * times)) for times in (0.99, 1.01))
            shares = [
                next(u for u in capacity.uses(one, GIVEN) if u.what == what).share for one in (just, over)
            ]
            assert shares[0] <= 1 < shares[1]

    @pytest.mark.parametrize("group", [1, 3])
    @pytest.mark.parametrize("routable", [True, False])
    def test_new_calls_need_redis_where_another_relay_has_to_tell_of_them(
        self, group: int, routable: bool
    ) -> None:
        region = _region(replace(BUSY, routable=routable, group=group))
        started = region.calls.started
        region.lose_redis(3, empty=False)
        region.run(3)
        share = 0 if routable else 1 - 1 / len(region.relays)
        begun = region.calls.started - started
        assert region.waiting == pytest.approx(share * begun, rel=0.1)

    def test_transceivers_change_less_than_sessions(self) -> None:
        assert capacity.rates(ROUTABLE, GIVEN).changes < capacity.rates(REGIONS, GIVEN).changes / 100


def test_the_small_fleet_is_what_namespaces_showed() -> None:
    """Within a quarter: the machine on which it was measured had other work."""
    found = report(SMALL, GIVEN, play(SMALL, GIVEN))
    figures = measured()
    assert figures
    for name, figure in figures.items():
        assert 0.75 * figure.low < predicted(found, name) < 1.25 * figure.high, name


class TestTakeover:
    def test_a_gap_is_within_what_lease_and_watch_allow(self) -> None:
        gaps = [fate.gap for fate in deaths(GIVEN, 200, peers=3, seed=5)]
        a = GIVEN
        move = a.move_seconds + 2 * a.latency_seconds
        assert min(gaps) >= a.lease_seconds - a.renew_seconds
        assert max(gaps) <= a.lease_seconds + a.watch_seconds + move + 4 * a.latency_seconds

    def test_routes_may_take_longest(self) -> None:
        a = replace(GIVEN, route_seconds=3.0)
        assert {round(fate.gap, 6) for fate in deaths(a, 20, peers=3, seed=5)} == {3.0}

    @pytest.mark.parametrize("sleeps", [0.05, 0.3, 0.45, 0.5, 0.55, 0.6, 0.7, 5.0])
    def test_never_two_serve_one_address(self, sleeps: float) -> None:
        fates = deaths(GIVEN, 200, peers=3, seed=7, sleeps=sleeps)
        taken = [fate for fate in fates if fate.taken < float("inf")]
        assert all(fate.gave_up < fate.taken for fate in taken)
        if sleeps < GIVEN.lease_seconds - GIVEN.renew_seconds - GIVEN.margin_seconds - 0.01:
            assert not taken
        if sleeps > GIVEN.lease_seconds:
            assert len(taken) == len(fates)

    def test_two_would_if_a_member_took_its_lease_for_longer_than_it_is(self) -> None:
        fates = deaths(replace(GIVEN, margin_seconds=-0.1), 40, peers=3, seed=7, sleeps=5.0)
        assert any(fate.gave_up > fate.taken for fate in fates)


def test_quantiles() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({9: 1, 0: 99}, 0.5) == pytest.approx(0.001)
    assert quantile({9: 1, 0: 99}, 0.995) == pytest.approx(0.010)


class TestCommand:
    def test_a_fleet_as_json_and_for_people(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "sim.json"
        main(["--fleet", "small", "--set", "lease_seconds=2", "--json", str(path)])
        found = json.loads(path.read_text())
        assert found["assumptions"]["lease_seconds"]["value"] == 2
        assert found["assumptions"]["lease_seconds"]["kind"] == "changed"
        (small,) = found["fleets"]
        assert small["simulated"]["relay_lost"]["gap_p99"] > 1.5
        order = [row["what"] for row in small["resources"]]
        assert small["breaks_first"]["what"] == next(
            what for what in order if what.startswith(("relay", "Redis"))
        )
        assert "3 relays in 1 region" in capsys.readouterr().out

    @pytest.mark.parametrize("change", ["lease_seconds", "lease_seconds=x", "nothing=1", "lease_seconds=-1"])
    def test_what_cannot_be_used_is_refused(self, change: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["--fleet", "small", "--set", change])
        assert change.partition("=")[0] in capsys.readouterr().err
