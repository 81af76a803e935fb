"""Owns the adapter's parsers under arbitrary bytes: muxer frames, gossip RPCs, negotiation."""

from __future__ import annotations

import struct

import trio
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from p2p.errors import MalformedError, SessionLostError
from p2p.libp2p_adapter.gossip_guard import Bucket, PeerGuard, SeenMessages
from p2p.libp2p_adapter.gossip_wire import complete_size, is_signed, prefixed_rpc
from p2p.libp2p_adapter.limits import (
    BACK_OFF_S_MAX,
    RPC_CONTROLS_MAX,
    RPC_MESSAGE_IDS_MAX,
    RPC_MESSAGES_MAX,
    RPC_SUBSCRIPTIONS_MAX,
    SEEN_MESSAGES_MAX,
    SEEN_S,
    STREAM_WINDOW_BYTES,
    STREAMS_ACCEPTED_MAX,
)
from p2p.libp2p_adapter.muxer import Muxer, MuxerProtocolError
from p2p.libp2p_adapter.streams import _delimited, _parse_delimited, read_request

HEADER = struct.Struct(">BBHII")
frames = st.builds(
    lambda kind, flags, stream, length, body: HEADER.pack(0, kind, flags, stream, length) + body,
    st.integers(0, 4),
    st.integers(0, 15),
    st.integers(0, 9),
    st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1)),
    st.binary(max_size=40),
)
OURS = {"ours"}


class Session:
    """A secured connection that gives some chunks and then ends."""

    is_initiator = True

    def __init__(self, chunks):
        self.chunks = list(chunks)
        self.written = bytearray()

    async def read(self, n=None):
        await trio.lowlevel.checkpoint()
        return self.chunks.pop(0) if self.chunks else b""

    async def write(self, data):
        await trio.lowlevel.checkpoint()
        self.written += data

    async def close(self):
        await trio.lowlevel.checkpoint()


def run_muxer(chunks):
    async def main():
        muxer = Muxer(Session(chunks), ID(b"peer"), is_initiator=True)
        with trio.fail_after(20):
            await muxer.start()
        return muxer

    return trio.run(main)


@settings(max_examples=1000)
@given(st.lists(st.one_of(frames, st.binary(max_size=60)), max_size=12))
def test_any_bytes_end_a_connection_at_worst(chunks):
    muxer = run_muxer(chunks)
    assert muxer.is_closed
    assert not muxer.streams


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=2000), st.lists(st.integers(1, 50), max_size=100))
def test_a_stream_s_bytes_arrive_however_they_are_cut(payload, cuts):
    whole = HEADER.pack(0, 1, 1, 2, 0)
    for start in range(0, len(payload), 100):
        part = payload[start : start + 100]
        whole += HEADER.pack(0, 0, 0, 2, len(part)) + part
    whole += HEADER.pack(0, 1, 4, 2, 0)
    chunks, position = [], 0
    for cut in cuts:
        chunks.append(whole[position : position + cut])
        position += cut
    chunks.append(whole[position:])
    received = []

    async def main():
        muxer = Muxer(Session([chunk for chunk in chunks if chunk]), ID(b"peer"), True)

        async def accept():
            stream = await muxer.accept_stream()
            while data := await stream.receive_some():
                received.append(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxer.start)
            with trio.fail_after(20):
                await accept()

    trio.run(main)
    assert b"".join(received) == payload


def test_a_frame_beyond_the_window_is_a_protocol_error():
    muxer = run_muxer([])
    muxer.event_shutting_down = trio.Event()
    muxer.new_stream_send_channel, _receive = trio.open_memory_channel(5)
    muxer._take(bytearray(HEADER.pack(0, 1, 1, 2, 0)))
    try:
        muxer._take(bytearray(HEADER.pack(0, 0, 0, 2, STREAM_WINDOW_BYTES + 1)))
    except MuxerProtocolError:
        return
    raise AssertionError("the window was not enforced")


def test_streams_beyond_the_limit_are_reset():
    opening = b"".join(
        HEADER.pack(0, 1, 1, 2 * number, 0) for number in range(1, STREAMS_ACCEPTED_MAX + 11)
    )

    async def main():
        session = Session([opening])
        muxer = Muxer(session, ID(b"peer"), True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxer._write_loop)
            muxer._take(bytearray(opening))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(muxer.streams) == STREAMS_ACCEPTED_MAX
        flags = [
            HEADER.unpack_from(session.written, start)[2]
            for start in range(0, len(session.written), 12)
        ]
        assert flags.count(8) == 10

    trio.run(main)


@settings(max_examples=1000)
@given(st.binary(max_size=400))
def test_any_bytes_as_an_rpc(data):
    rpc = rpc_pb2.RPC()
    try:
        rpc.ParseFromString(data)
    except DecodeError:
        return
    verdict = PeerGuard(0.0).judge(rpc, OURS, 0.0)
    assert len(verdict.messages) <= RPC_MESSAGES_MAX
    for message in verdict.messages:
        assert not is_signed(message)


@given(
    st.lists(st.sampled_from(["ours", "invented"]), max_size=100),
    st.integers(0, 2**64 - 1),
    st.integers(0, 1000),
)
def test_control_messages_are_cut_down(topics, backoff, ids):
    rpc = rpc_pb2.RPC()
    for topic in topics:
        rpc.control.graft.add(topicID=topic)
        rpc.control.prune.add(topicID=topic, backoff=backoff)
        rpc.control.ihave.add(topicID=topic)
    rpc.control.ihave.add(topicID="ours").messageIDs.extend([b"i" * 46] * ids)
    rpc.control.iwant.add().messageIDs.extend([b"i" * 46] * ids)
    verdict = PeerGuard(0.0).judge(rpc, OURS, 0.0)
    control = rpc.control
    assert verdict.has_control
    too_many = len(topics) + 1 > RPC_CONTROLS_MAX  # the last IHAVE counts too
    assert verdict.strike is (too_many or (ids > RPC_MESSAGE_IDS_MAX))
    for entries in (control.graft, control.prune, control.ihave):
        assert len(entries) <= RPC_CONTROLS_MAX
        assert all(entry.topicID == "ours" for entry in entries)
    assert all(prune.backoff <= BACK_OFF_S_MAX for prune in control.prune)
    for kind in (control.ihave, control.iwant):
        assert sum(len(entry.messageIDs) for entry in kind) <= RPC_MESSAGE_IDS_MAX


def test_subscriptions_are_cut_down_and_strikes_run_out():
    rpc = rpc_pb2.RPC()
    for index in range(RPC_SUBSCRIPTIONS_MAX + 1):
        rpc.subscriptions.add(subscribe=True, topicid=f"{index}")
    guard = PeerGuard(0.0)
    verdicts = [guard.judge(rpc, OURS, 0.0) for _ in range(100)]
    assert len(verdicts[0].subscriptions) == RPC_SUBSCRIPTIONS_MAX
    assert not verdicts[0].disconnect
    assert verdicts[-1].disconnect
    assert not verdicts[-1].subscriptions


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 20)), max_size=50))
def test_a_bucket_never_gives_more_than_rate_and_burst(takes):
    bucket, now_s, given_out = Bucket(5.0, 20.0, 0.0), 0.0, 0
    for wait_s, count in takes:
        now_s += wait_s
        if bucket.take(count, now_s):
            given_out += count
    assert given_out <= 20 + 5 * now_s + 1e-6


def test_seen_messages_are_bounded_by_number_and_time():
    seen = SeenMessages()
    assert seen.add(b"a", 0.0)
    assert not seen.add(b"a", 1.0)
    assert seen.has(b"a")
    assert seen.add(b"b", SEEN_S + 1)
    assert not seen.has(b"a")
    for number in range(SEEN_MESSAGES_MAX + 10):
        seen.add(b"%d" % number, SEEN_S + 1)
    assert len(seen) <= SEEN_MESSAGES_MAX


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_rpcs_are_found_in_a_buffer(data, more):
    whole = prefixed_rpc(data)
    for size in range(len(whole)):
        assert complete_size(bytearray(whole[:size])) is None
    start, end = complete_size(bytearray(whole + more))
    assert (whole + more)[start:end] == data


@given(st.binary(max_size=300))
def test_any_bytes_as_a_negotiation(data):
    async def main():
        muxer = Muxer(Session([]), ID(b"peer"), True)
        muxer._take(bytearray(HEADER.pack(0, 1, 1, 2, 0)))
        muxer._take(bytearray(HEADER.pack(0, 0, 4, 2, len(data)) + data))
        stream = muxer.streams[2]
        try:
            await read_request(stream)
        except (MalformedError, SessionLostError):
            pass

    trio.run(main)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_protocol_names_survive(name):
    whole = bytearray(_delimited(name))
    assert _parse_delimited(whole + b"rest") == (name, len(whole))
