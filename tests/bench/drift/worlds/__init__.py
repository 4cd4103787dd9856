'''The bench of triage: generated worlds, a pipe that may break at four places, and cases whose truth is known.

`headrace bench triage` makes each world ready (`ground`), plays each case (`judge`), asks the watch step by step, and counts (`score`).
There are two suites: the rules may be fitted on the one (`fitted`), and the other (`independent`) is by an author who does not know them.

A world is one module of either package, with one class and one function. It needs no registration. A whole one:

    class Rides(World):
        """Knobs: `far` (log scale of the way), `hard` (the same inputs, more cancellations)."""

        name, sort = "rides", "few keys"
        first = date(2024, 1, 1)                                       # a Monday; 14 weeks of training, then 6 live ones
        sources = (Source("trips", ("town",), fields(way="Float64", late="Int64")),)
        views = (Windowed("by_town", "trips", "town", {"mean_way": "6h 24h", "mean_late": "24h", "count_way": "6h"}),)
        request = fields(way="Float64")                                # beside keys and `asked_at`

        def draw(self, day: Day) -> Drawn:
            at = day.moments("trips", 1200, [1] * 24)                  # int64 microseconds; weights of the local hours
            town = day.random("towns").choice(self.names("t", 9), len(at))
            slow = self.latent("traffic", at) + self.trait("slow", town)
            way = np.exp(1 + 0.5 * day.random("way").normal(size=len(at)) + day.knobs("far", at, town))
            late = yes(day.random("late"), slow - 1).astype(np.int64)
            trips = {"event_us": at, "known_us": at + 2_000_000, "town": town, "way": way, "late": late}
            some = np.sort(day.random("asked").choice(len(at), 240, replace=False))
            odds = slow[some] + np.log(way[some]) - 1 + 2 * day.knobs("hard", at[some], town[some])
            asked = {"at_us": at[some], "town": town[some], "way": way[some], "label": yes(day.random("label"), odds)}
            return Drawn({"trips": trips}, asked | {"known_us": at[some] + 4 * HOUR_US})

    def suite(world: World) -> list[Case]:
        s = Suite(world)
        s.source("unit change", "trips", lambda at: changed("way", lambda x: x * 1.6, at))      # fault of `trips`
        s.stream("events lost", "trips", lambda at: lost(0.4, at))                              # training/serving skew
        s.store("wrong key", "by_town", lambda at: wrong_key(at))                               # training/serving skew
        s.request("clock of the request", "asked_at", lambda at: shifted("asked_at", 3, at))    # fault of the request
        s.process("gradual, inputs", POPULATION, ("far", 0.6), ramp_days=7)
        s.process("sudden, concept", CONCEPT, ("hard", 1.0))
        s.nothing("nothing", 99)
        return s.cases

What to mind. All chance comes from `day.random(part)`, and what lasts from `self.trait` and `self.latent`: then a change that begins on some
day leaves the days before it alone. Inputs, sources and truths should hang together by the latent quantities; a change should matter (to the
eye, in a plot of a week before and a week after), or nobody can be asked to find it. A window of the watch is 1,500 predictions: with about
240 requests a day it holds six days. `at_days` of `process` places a holiday; cases begin on days 105 to 108 otherwise. A fault is any
function of rows (`faults` has the usual ones); of the model's inputs, `asked` makes `hour`, `weekday` and `sent_<field>` of the request.
'''
