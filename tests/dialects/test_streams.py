"""Is every whole stream known to be whole, and every cut one to be cut, however it arrives?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admission.outcome import Said
from tests.dialects.corpus import STREAMS, Event, Stream
from tests.dialects.observing import Observed, cut_at, heard, judge_of, observed, spellings

every_stream = pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())


def whole(stream: Stream) -> Observed:
    """What is true of a whole stream."""
    return Observed(Said.FINISHED, stream.data_events, stream.usage, stream.model, True, "")


@every_stream
def test_a_whole_stream_raises_no_false_alarm(stream: Stream) -> None:
    """It is finished, and its events, tokens and model are known, without any clean end."""
    judge = judge_of(stream)
    judge.feed(stream.raw)
    assert observed(judge) == whole(stream)


@every_stream
def test_how_the_lines_are_written_does_not_matter(stream: Stream) -> None:
    """CRLF, comments, no space, several data lines, a byte order mark: it is the same stream."""
    for name, raw in spellings(stream).items():
        assert heard(stream, [raw]) == whole(stream), name


@given(data=st.data())
def test_how_it_is_cut_into_pieces_does_not_matter(data: st.DataObject) -> None:
    """TCP, TLS and proxies cut streams anywhere; what is known in the end stays the same."""
    stream = STREAMS[data.draw(st.sampled_from(sorted(STREAMS)))]
    ways = spellings(stream)
    raw = ways[data.draw(st.sampled_from(sorted(ways)))]
    places = data.draw(st.lists(st.integers(0, len(raw)), max_size=30))
    assert heard(stream, cut_at(raw, places)) == whole(stream)


@every_stream
def test_byte_by_byte_is_the_same(stream: Stream) -> None:
    """The finest cut of all, in every spelling."""
    for name, raw in spellings(stream).items():
        pieces = [raw[at : at + 1] for at in range(len(raw))]
        assert heard(stream, pieces) == whole(stream), name


@every_stream
def test_a_stream_cut_anywhere_is_known_to_be_cut(stream: Stream) -> None:
    """At every byte: before the terminal marker is whole it is unfinished, from then on finished.

    As a clean end, which is how a dying server or a proxy between often hides a cut.
    """
    raw, marks = stream.raw, _marks(stream)
    ends_at = min(at for at, event in marks if event.ends)
    for cut in range(len(raw) + 1):
        found = heard(stream, [raw[:cut]])
        assert found.said is (Said.FINISHED if cut >= ends_at else Said.UNFINISHED), raw[:cut]
        assert found.events == sum(event.data for at, event in marks if at <= cut), raw[:cut]


@every_stream
def test_what_is_known_while_it_streams(stream: Stream) -> None:
    """After each event, and not before: its data, the end, and that something may be inserted."""
    judge = judge_of(stream)
    assert (judge.said, judge.at_boundary) == (Said.UNFINISHED, True)
    events, ended = 0, False
    for event in stream.events:
        is_comment = event.raw.startswith(b":")
        for at in range(len(event.raw) - 1):
            judge.feed(event.raw[at : at + 1])
            assert judge.events == events
            assert not judge.at_boundary or is_comment
        judge.feed(event.raw[-1:])
        events += event.data
        ended = ended or event.ends
        assert judge.at_boundary
        assert (judge.events, judge.got_event) == (events, events > 0)
        assert judge.said is (Said.FINISHED if ended else Said.UNFINISHED)


@every_stream
def test_without_a_path_it_is_known_by_its_events(stream: Stream) -> None:
    """A gateway may serve any dialect under any path: the first event that tells is believed."""
    for path in (b"", b"/some/where", b"/v1/messages", b"/v1/responses", b"/v1/chat/completions"):
        moved = Stream(path, stream.events, None, "", stream.media_type)
        assert heard(moved, [stream.raw]) == whole(stream)
        assert heard(moved, [event.raw for event in stream.events]) == whole(stream)


@every_stream
def test_a_heartbeat_between_events_changes_nothing(stream: Stream) -> None:
    """What we insert ourselves is no event and ends none."""
    heartbeat = judge_of(stream).heartbeat()
    if stream.media_type != b"text/event-stream":
        assert heartbeat is None
        return
    assert heartbeat is not None
    pieces = [piece for event in stream.events for piece in (heartbeat, event.raw)]
    assert heard(stream, [*pieces, heartbeat]) == whole(stream)


def _marks(stream: Stream) -> list[tuple[int, Event]]:
    """Up to where each event has told all, its terminator left out."""
    at, marks = 0, []
    for event in stream.events:
        marks.append((at + len(event.raw.rstrip(b"\n")), event))
        at += len(event.raw)
    return marks
