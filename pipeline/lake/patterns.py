"""The path patterns of a job's input: which files are of which period, and which periods have files.

A pattern is a glob with placeholders: `{ds}` is the stored text of the period; `{year}`, `{month}`, `{day}`, `{hour}`
and, with the directives of strftime in `DIRECTIVES`, `{ds:%Y%m%d}` are of its start in the job's time zone.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache, cached_property, lru_cache
from itertools import islice, takewhile
from pathlib import PurePosixPath
from zoneinfo import ZoneInfo

from pipeline.errors import InputError
from pipeline.periods import Grain, Period

PLACEHOLDER = re.compile(r"\{(?P<name>ds|year|month|day|hour)(?::(?P<format>[^{}]+))?\}")
NAMED = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H"}
STORED = {Grain.hour: "%Y-%m-%dT%HZ"}
"""Format of `{ds}`, by grain; of the others, `%Y-%m-%d`."""
DIRECTIVE = re.compile(r"%(-?[A-Za-z%])")
DIRECTIVES = {
    **dict.fromkeys(("Y", "G"), r"[0-9]{4}"),
    **dict.fromkeys(("y", "m", "d", "H", "I", "V", "U", "W"), r"[0-9]{2}"),
    **dict.fromkeys(("-m", "-d", "-H"), r"[0-9]{1,2}"),
    "j": r"[0-9]{3}",
    "u": r"[1-7]",
    "w": r"[0-6]",
    "z": r"[+-][0-9]{4}",
    "%": "%",
    **dict.fromkeys(("a", "A", "b", "B", "p"), r"[^\W\d_]+"),
}
"""What each directive of strftime looks like in a path."""
COMPARED = {Grain.hour: 24 * 367, Grain.day: 800, Grain.week: 120, Grain.month: 26}
"""Number of successive periods whose paths are compared to see whether a pattern tells them apart."""


@dataclass(frozen=True)
class Pattern:
    text: str
    grain: Grain = Grain.day
    zone: str = "UTC"

    @property
    def dated(self) -> bool:
        """Whether the pattern has any placeholder; if not, every period reads the same files."""
        return PLACEHOLDER.search(self.text) is not None

    @property
    def same_paths(self) -> tuple[Period, Period] | None:
        """Two periods that have the same paths, if there are any; None if each has paths of its own."""
        return _same_paths(self)

    @property
    def unreadable(self) -> Period | None:
        """A period that cannot be told from its own path, or None: two placeholders may say parts of one date."""
        first = Period.of_date(self.grain, date(2027, 12, 20))
        return next((each for each in first.through(first + 40) if _parsed(self, self.rendered(each)) != each), None)

    @property
    def problem(self) -> str | None:
        """Why this is no pattern, or None."""
        left = PLACEHOLDER.sub("", self.text)
        if "{" in left or "}" in left:
            return "the placeholders are {ds}, {year}, {month}, {day}, {hour} and such as {ds:%Y%m%d}"
        for match in PLACEHOLDER.finditer(self.text):
            if match["format"] and match["name"] != "ds":
                return f"only {{ds}} takes a format, not {{{match['name']}}}"
            directives = DIRECTIVE.findall(match["format"] or "%Y")
            if unknown := [each for each in directives if each not in DIRECTIVES]:
                return f"%{unknown[0]} is not supported; supported are %{', %'.join(DIRECTIVES)}"
            if not directives:
                return f"{match.group()} has no directive such as %Y"
        return None

    def files_of(self, period: Period) -> str:
        """Returns the glob of the files of a period."""
        return PLACEHOLDER.sub(lambda match: glob.escape(self._render(match, period)), self.text)

    def files(self) -> str:
        """Returns a glob that includes the files of all periods, and perhaps others."""

        def any_of(match: re.Match[str]) -> str:
            return re.sub(r"\*+", "*", DIRECTIVE.sub(_any, glob.escape(self.format_of(match))))

        return PLACEHOLDER.sub(any_of, self.text)

    def periods_of(self, path: str) -> Iterator[Period]:
        """Yields the periods that a file may be of: one, none, or several successive ones if they share files."""
        for first in self._read(path):
            alike = (
                self.rendered(each) == self.rendered(first) for each in first.through(first + COMPARED[self.grain])
            )
            yield from (first + number for number, _ in enumerate(takewhile(bool, alike)))

    def check(self, path: str) -> None:
        """Raises InputError if a wildcard could stand for a date, so that the file may be of this or that period."""
        if len(found := sorted(self._read(path))) > 1:
            raise InputError(
                "a file may be of two periods",
                where=path,
                expected="a pattern in which no wildcard can stand for a date",
                got=f"{found[0].ds} or {found[1].ds} by {self.text}",
                next_step="make `path` or `sources` in job.toml more precise",
            )

    def ds_of(self, path: str) -> str | None:
        """Returns the one period that a file is of, or None if it is of none, or of several."""
        found = list(islice(self.periods_of(path), 2))
        return found[0].ds if len(found) == 1 else None

    @property
    def constant(self) -> str | None:
        """A placeholder that has the same text for all periods, such as `{hour}` for days; None if there is none."""
        first = Period.of_date(self.grain, date(2026, 1, 1))
        others = (first + 1, first + 13, Period.of_date(self.grain, date(2028, 12, 31)))
        seen = zip(*(self.rendered(period) for period in (first, *others)), strict=True)
        same = (match.group() for match, texts in zip(self.matches, seen, strict=True) if len(set(texts)) == 1)
        return next(same, None)

    @property
    def is_loose(self) -> bool:
        """Whether a wildcard stands beside a placeholder, so that it could stand for a date itself."""
        return any(
            PLACEHOLDER.search(part) and glob.has_magic(PLACEHOLDER.sub("", part)) for part in self.text.split("/")
        )

    def format_of(self, match: re.Match[str]) -> str:
        name = match["name"]
        return match["format"] or NAMED.get(name) or STORED.get(self.grain, "%Y-%m-%d")

    def _render(self, match: re.Match[str], period: Period) -> str:
        if match["name"] == "ds" and not match["format"]:
            return period.ds
        return period.start(self.zone).strftime(self.format_of(match))

    def rendered(self, period: Period) -> tuple[str, ...]:
        return tuple(self._render(match, period) for match in self.matches)

    @cached_property
    def matches(self) -> tuple[re.Match[str], ...]:
        return tuple(PLACEHOLDER.finditer(self.text))

    @cached_property
    def joined(self) -> tuple[str, tuple[int, ...]]:
        """One format of strptime for the placeholders with these numbers, joined by spaces: each directive once."""
        used: set[str] = set()
        chosen = {}
        every = sorted(enumerate(map(self.format_of, self.matches)), key=lambda pair: -len(pair[1]))
        for number, form in every:
            named = {each.lstrip("-") for each in DIRECTIVE.findall(form)}
            if not named & used:
                chosen[number] = form.replace("%-", "%")
                used |= named
        return " ".join(chosen.values()), tuple(chosen)

    @property
    def completions(self) -> list[tuple[str, str]]:
        """What to add to the joined format and its text, one after the other, so that a week has a day."""
        used = set(DIRECTIVE.findall(self.joined[0]))
        weekless = used & {"G", "V", "W", "U"} and not used & {"u", "w", "a", "A"}
        return [(" %u", " 1"), (" %w", " 0")] if weekless else [("", "")]

    @property
    def regex(self) -> str:
        """A regular expression of paths that RE2 reads, too, with the groups `p0`, `p1`, ... of the placeholders."""
        return self._regexes[0].pattern.replace(r"\Z", r"\z")

    @cached_property
    def _regexes(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """Match paths, with wildcards that take as much, and as little, as they can."""
        text = self.text if "://" in self.text else str(PurePosixPath(self.text))
        found = []
        for lazy in ("", "?"):
            parts, at = [], 0
            for number, match in enumerate(PLACEHOLDER.finditer(text)):
                shape = DIRECTIVE.sub(lambda one: "\0" + one[1] + "\0", self.format_of(match))
                pieces = re.split("\0(.*?)\0", shape)
                inner = "".join(DIRECTIVES[piece] if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces))
                parts += [_wild(text[at : match.start()], lazy), f"(?P<p{number}>{inner})"]
                at = match.end()
            parts.append(_wild(text[at:], lazy))
            found.append(re.compile(rf"(?:\A|/){''.join(parts).removeprefix('/')}(?:/.*)?\Z", re.DOTALL | re.ASCII))
        return found[0], found[1]

    def _read(self, path: str) -> set[Period]:
        """Returns the period of a path by both expressions; the first one of those that share the path."""
        matches = (regex.search(path) for regex in self._regexes)
        found = (_parsed(self, match.groups()) for match in matches if match is not None)
        return {period for period in found if period is not None}


@cache
def pattern(text: str, grain: Grain, zone: str) -> Pattern:
    """Returns the pattern; one object for equal arguments, since what it derives from its text is kept in it."""
    return Pattern(text, grain, zone)


@lru_cache(maxsize=4096)
def _parsed(of: Pattern, texts: tuple[str, ...]) -> Period | None:
    """Returns the first period whose placeholders have these texts, or None."""
    form, numbers = of.joined
    values = " ".join(texts[number] for number in numbers)
    for more, value in of.completions:
        try:
            moment = datetime.strptime(values + value, form + more)  # noqa: DTZ007
        except (ValueError, re.error):
            continue
        in_utc = any(match.group() == "{ds}" for match in of.matches) and of.grain is Grain.hour
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC if in_utc else ZoneInfo(of.zone))
        first = Period.at(of.grain, moment, of.zone)
        for period in (first, first + 1):
            if of.rendered(period) == texts:
                return period
    return None


@cache
def _same_paths(of: Pattern) -> tuple[Period, Period] | None:
    """Returns two periods with the same paths, among successive ones and those of later years, or None."""
    if any(match.group() == "{ds}" for match in of.matches):
        return None
    first = Period.of_date(of.grain, date(2026, 1, 1))
    later = [Period.of_date(of.grain, date(2026 + year, 1, 1)) for year in range(4, 30)]
    seen: dict[str, Period] = {}
    for period in (*first.through(first + COMPARED[of.grain]), *later):
        if (other := seen.setdefault(of.files_of(period), period)) != period:
            return other, period
    return None


def _any(match: re.Match[str]) -> str:
    shape = DIRECTIVES[match[1]]
    digits = re.fullmatch(r"\[0-9\]\{(\d)\}", shape)
    return "[0-9]" * int(digits[1]) if digits else "%" if match[1] == "%" else "*"


def _wild(text: str, lazy: str) -> str:
    """Returns the regular expression of a glob."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", text)
    wild = {"**/": f"(?:.*{lazy}/)?{lazy}", "**": f".*{lazy}", "*": f"[^/]*{lazy}", "?": "[^/]"}
    return "".join(
        re.escape(part) if not odd % 2 else wild.get(part) or re.sub(r"^\[!", "[^", part)
        for odd, part in enumerate(parts)
    )
