"""The animation of README: a screening whose worker is killed, drawn from what its page said while it ran.

It is an SVG without a script, so that code hosts show it as an image. Each text that changes is a reel: a column of its
values behind a window of one row, which CSS moves in steps. Without animation it shows the end, which tells it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

SPEED = 2.0  # times the real one; the last line of the picture says so
REST_SECONDS = 6.0  # at the end, before it begins again
WIDTH, HEIGHT, MARGIN = 680, 288, 24
LEFT, RIGHT = 104, WIDTH - MARGIN  # of the lanes of the workers
ROW = 30
LABELS = {"running": "Running", "waiting": "Worker silent", "finished": "Finished"}
COVER = (
    '<g id="cover"><rect class="cover" width="600" height="100"/><path class="head-line" d="M.5 0V100"/></g>'
)
STYLE = """
:root{--card:#fff;--ink:#1c2733;--muted:#5b6875;--line:#d5dce3;--soft:#e8f0f6;--bar:#1f5f8b;--on-bar:#fff;
--warn:#7a5200;--warn-soft:#fdf1d8;--good:#1d6b3f;--good-soft:#e2f3e9;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--card:#1c242c;--ink:#e6ebf0;--muted:#9aa7b4;--line:#33404d;--soft:#22313d;
--bar:#6cb0df;--on-bar:#0d1a24;--warn:#f0c674;--warn-soft:#3a2d10;--good:#86d6a8;--good-soft:#173524;--bad:#f2948c}}
text{font:16px system-ui,sans-serif;fill:var(--ink)}
.head{font-size:19px;font-weight:700}.small{font-size:14px;fill:var(--muted)}.end{text-anchor:end}
.mid{text-anchor:middle}.strong{font-weight:700}.bad{fill:var(--bad);font-weight:700}.on{fill:var(--on-bar)}
.card{fill:var(--card);stroke:var(--line)}.cover{fill:var(--card)}.track{fill:var(--soft)}.bar{fill:var(--bar)}
.line{stroke:var(--line)}.wait{fill:none;stroke:var(--muted);stroke-dasharray:3 5}.head-line{stroke:var(--ink)}
.running{fill:var(--bar)}.waiting{fill:var(--warn-soft)}.finished{fill:var(--good-soft)}
text.running{fill:var(--on-bar)}text.waiting{fill:var(--warn)}text.finished{fill:var(--good)}
#done{transform-box:fill-box;transform-origin:left}
@media (prefers-reduced-motion:reduce){*{animation:none!important}}
"""


@dataclass(frozen=True)
class Moment:
    """What the page of the project said, `at` seconds after its first worker began."""

    at: float
    state: str
    done: int
    total: int
    calls: int

    @property
    def look(self) -> str:
        """A key of LABELS."""
        return {"running": "running", "succeeded": "finished"}.get(self.state, "waiting")


@dataclass(frozen=True)
class Recording:
    moments: Sequence[Moment]
    killed_at: float
    lease_seconds: int

    @property
    def seconds(self) -> float:
        return self.moments[-1].at

    @property
    def killed(self) -> Moment:
        """The last moment of the first worker."""
        return [each for each in self.moments if each.at <= self.killed_at][-1]

    @property
    def resumed(self) -> Moment:
        waiting = [n for n, each in enumerate(self.moments) if each.look == "waiting"]
        return self.moments[waiting[-1] + 1]


def drawing(recording: Recording) -> str:
    """The text of the SVG file."""
    pill, pill_steps = _reel("pill", recording, lambda each: (each.look,), _pill)
    count, count_steps = _reel("count", recording, lambda each: (each.done, each.total, each.calls), _count)
    style = STYLE + pill_steps + count_steps + _bar_steps(recording) + _cover_steps(recording)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    lines = [
        f'{head} role="img" aria-labelledby="title story">',
        '<title id="title">A worker is killed, and another one resumes the screening</title>',
        f'<desc id="story">{_story(recording)}</desc>',
        f"<style>{style}</style>",
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>',
        f'<text class="head" x="{MARGIN}" y="42">One job: two models screen {recording.killed.total} papers</text>',
        _window(pill, y=20, x=WIDTH // 2),
        _progress(recording),
        _window(count, y=86),
        *_lanes(recording),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _story(recording: Recording) -> str:
    killed, resumed, end = recording.killed, recording.resumed, recording.moments[-1]
    return (
        f"After {recording.killed_at:.0f} seconds kill -9 ends the worker at paper {killed.done} of {killed.total}. "
        f"After {resumed.at:.0f} seconds another worker resumes the job at paper {resumed.done + 1}. "
        f"After {recording.seconds:.0f} seconds all {end.done} are done, with {end.calls} model calls."
    )


def _reel(
    name: str, recording: Recording, value: Callable[[Moment], tuple[Any, ...]], row: Callable[..., str]
) -> tuple[str, str]:
    """The column of the values that follow each other, and the steps that show each at its time."""
    turns = [(key, next(each)) for key, each in groupby(recording.moments, value)]
    column = "".join(row(number * ROW, *key) for number, (key, _) in enumerate(turns))
    moves = [(first.at, f"translateY({-number * ROW}px)") for number, (_, first) in enumerate(turns)]
    return f'<g id="{name}">{column}</g>', _steps(name, recording, moves)


def _steps(
    name: str, recording: Recording, moves: Iterable[tuple[float, str]], timing: str = "step-end"
) -> str:
    """Keyframes that stay at the last move, which is also the picture without them."""
    moves = list(moves)
    length = recording.seconds / SPEED + REST_SECONDS
    frames = "".join(f"{100 * at / SPEED / length:.2f}%{{transform:{move}}}" for at, move in moves)
    last = moves[-1][1]
    animation = f"#{name}{{transform:{last};animation:{name} {length:.2f}s {timing} infinite}}\n"
    return f"@keyframes {name}{{{frames}100%{{transform:{last}}}}}\n{animation}"


def _bar_steps(recording: Recording) -> str:
    turns = [(key, next(each)) for key, each in groupby(recording.moments, lambda each: each.done)]
    return _steps("done", recording, [(each.at, f"scaleX({done / each.total:.4f})") for done, each in turns])


def _cover_steps(recording: Recording) -> str:
    moves = [(0, "translateX(0px)"), (recording.seconds, f"translateX({RIGHT - LEFT}px)")]
    return _steps("cover", recording, moves, "linear")


def _window(content: str, y: int, x: int = 0) -> str:
    return f'<svg x="{x}" y="{y}" width="{WIDTH - x}" height="{ROW}">{content}</svg>'


def _pill(y: int, look: str) -> str:
    label = LABELS[look]
    right, wide = WIDTH // 2 - MARGIN, 9 * len(label) + 28
    box = f'<rect class="{look}" x="{right - wide}" y="{y + 2}" width="{wide}" height="26" rx="13"/>'
    return f'{box}<text class="{look} mid strong" x="{right - wide // 2}" y="{y + 21}">{label}</text>'


def _count(y: int, done: int, total: int, calls: int) -> str:
    papers = f'<text x="{MARGIN}" y="{y + 20}" class="strong">{done} of {total} papers</text>'
    return f'{papers}<text class="end" x="{WIDTH - MARGIN}" y="{y + 20}">{calls} model calls</text>'


def _progress(recording: Recording) -> str:
    """The bar, with a mark where the kill hit it."""
    box = f'x="{MARGIN}" y="66" width="{WIDTH - 2 * MARGIN}" height="14" rx="3"'
    return f'<rect class="track" {box}/><rect id="done" class="bar" {box}/>'


def _lanes(recording: Recording) -> list[str]:
    """A lane for each worker over the seconds. The cover hides what is still to come."""
    killed, resumed, end = (
        _x(recording, at) for at in (recording.killed_at, recording.resumed.at, recording.seconds)
    )
    ticks = range(0, int(recording.seconds) + 1, 5)
    return [
        f'<text class="small" x="{MARGIN}" y="161">worker 1</text>',
        f'<text class="small" x="{MARGIN}" y="205">worker 2</text>',
        f'<rect class="bar" x="{LEFT}" y="142" width="{killed - LEFT}" height="30" rx="3"/>',
        f'<text class="bad" x="{killed + 8}" y="162">✕ kill -9</text>',
        f'<path class="wait" d="M{killed} 172V201H{resumed - 4}"/>',
        f'<text class="small mid" x="{(killed + resumed) / 2}" y="194">its lease runs out</text>',
        f'<rect class="bar" x="{resumed}" y="186" width="{end - resumed}" height="30" rx="3"/>',
        f'<text class="on" x="{resumed + 10}" y="206">from paper {recording.resumed.done + 1}</text>',
        f'<svg x="{LEFT}" y="130" width="{RIGHT - LEFT}" height="100">{COVER}</svg>',
        f'<path class="line" d="M{LEFT} 230.5H{RIGHT}"/>',
        *(f'<text class="small mid" x="{_x(recording, at)}" y="248">{at} s</text>' for at in ticks),
        f'<text class="small" x="{MARGIN}" y="272">{_source(recording)}</text>',
    ]


def _source(recording: Recording) -> str:
    lease = f"The lease of its jobs is {recording.lease_seconds} s, by default 60 s."
    return f"Recorded from the demo, at twice its speed. {lease}"


def _x(recording: Recording, at: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * at / recording.seconds, 1)
