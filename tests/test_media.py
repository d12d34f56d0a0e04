import dataclasses
import gc
import re
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from peekaboo import media

SHARED = Path(__file__).parents[2] / "shared"
WIDTH, HEIGHT, BITS = 128, 96, 8
NTSC = Fraction(1, 24000)
# Irregular, as a phone writes it in the dark.
VFR = [0, 1001, 1800, 3003, 3500, 5005, 8008, 8009, 9009, 12012, 12500, 13013]


def drawn(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame that shows its number in binary, as black and white bars."""
    bars = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8) * 255
    columns = np.repeat(bars, -(-width // BITS))[:width]
    return np.broadcast_to(columns[None, :, None], (height, width, 3)).copy()


def shown(frame: np.ndarray) -> int:
    """The number that `drawn` put into a frame."""
    width = frame.shape[1]
    centres = (np.arange(BITS) * -(-width // BITS) + width / BITS / 2).astype(int)
    return sum(int(frame[frame.shape[0] // 2, x].mean() > 127) << bit for bit, x in enumerate(centres))


def make(
    path: Path,
    stamps: Sequence[int],
    time_base: Fraction = NTSC,
    codec: str = "libx264",
    last: int = 1001,
    b_frames: int = 2,
    **options: str,
) -> Path:
    """Write a clip whose frame k shows k at stamps[k]; the last one lasts `last` ticks."""
    names = ("video_track_timescale", "movie_timescale") if path.suffix in (".mp4", ".mov") else ()
    scale = dict.fromkeys(names, str(time_base.denominator))
    durations = {k: d for k, d in zip(stamps, [*np.diff(stamps).tolist(), last], strict=True)}
    with av.open(str(path), "w", options=scale | options) as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = time_base
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.gop_size = 6
        frames = [av.VideoFrame.from_ndarray(drawn(k)) for k in range(len(stamps))]
        for frame, pts in zip(frames, stamps, strict=True):
            frame.pts, frame.time_base = pts, time_base
        for packet in [p for frame in [*frames, None] for p in stream.encode(frame)]:
            if packet.pts in durations:
                packet.duration = durations[packet.pts]
            container.mux(packet)
    return path


def patched(path: Path, box: bytes, offset: int, content: bytes) -> Path:
    """Overwrite bytes of the first mp4 box of a type, counted from the end of its type field."""
    data = bytearray(path.read_bytes())
    start = data.index(box) + 4 + offset
    data[start : start + len(content)] = content
    path.write_bytes(data)
    return path


def numbers(path: Path) -> list[int]:
    return [shown(frame) for frame in media.frames(path)]


def copy(source: Path, output: Path, **options) -> media.ClipInfo:
    """Write the frames of a clip again; the result's info."""
    info = media.probe(source)
    with media.writer(output, info, **options) as write:
        for frame in media.frames(source):
            write(frame)
    return media.probe(output)


def same_times(a: media.ClipInfo, b: media.ClipInfo) -> bool:
    lasts = (int(info.durations[-1]) * info.time_base for info in (a, b))
    return a.times == b.times and a.duration == b.duration and len(set(lasts)) == 1


@pytest.mark.parametrize("stamps", [VFR, [k * 1001 for k in range(12)], [777 + k for k in VFR]])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_time_stamps_of_mp4_survive_exactly(tmp_path, stamps, b_frames):
    # With B frames the last one shown is not the last one stored, and mp4 stores no length for it.
    last = 1001 if b_frames else 1234
    source = make(tmp_path / "in.mp4", stamps, last=last, b_frames=b_frames)
    info = media.probe(source)
    assert info.time_base == NTSC
    assert info.pts.tolist() == stamps
    assert info.durations.tolist() == [*np.diff(stamps), last]
    assert (info.width, info.height, info.has_audio) == (WIDTH, HEIGHT, False)
    assert numbers(source) == list(range(12))
    result = copy(source, tmp_path / "out.mp4")
    assert result.time_base == NTSC
    assert result.pts.tolist() == stamps
    assert result.durations.tolist() == info.durations.tolist()
    assert numbers(tmp_path / "out.mp4") == list(range(12))


def test_average_rate_is_an_exact_fraction(tmp_path):
    assert media.probe(make(tmp_path / "in.mp4", [k * 1001 for k in range(24)])).rate == Fraction(24000, 1001)


def test_matroska_milliseconds_survive(tmp_path):
    stamps = [0, 33, 67, 100, 133, 250, 267, 300]
    for name, codec in (("in.mkv", "libx264"), ("in.webm", "libvpx"), ("in9.webm", "libvpx-vp9")):
        source = make(tmp_path / name, stamps, Fraction(1, 1000), codec, last=33)
        info = media.probe(source)
        assert info.pts.tolist() == stamps
        result = copy(source, tmp_path / "out.mp4")
        assert result.pts.tolist() == stamps and same_times(info, result)
        assert numbers(tmp_path / "out.mp4") == list(range(8))


@pytest.mark.parametrize(("codec", "b_frames"), [("libx264", 2), ("libx264", 0), ("mpeg4", 0)])
@pytest.mark.parametrize("stamps", [range(12), [0, 1, 2, 5, 6, 7, 8, 11]])
def test_avi_frames_get_the_times_of_their_index(tmp_path, codec, b_frames, stamps):
    source = make(tmp_path / "in.avi", stamps, Fraction(1001, 24000), codec, 1, b_frames)
    info = media.probe(source)
    if not b_frames:
        assert info.times == [k * Fraction(1001, 24000) for k in stamps]
    assert len(info.times) == len(stamps) and info.times[0] == 0
    assert numbers(source) == list(range(len(stamps)))
    assert same_times(info, copy(source, tmp_path / "out.mp4"))


def test_an_edit_list_cuts_frames_at_both_ends(tmp_path):
    stamps = [k * 1000 for k in range(12)]
    source = make(tmp_path / "in.mp4", stamps, last=1000)
    data = source.read_bytes()
    media_time = struct.unpack(">i", data[data.index(b"elst") + 16 :][:4])[0]
    # Shown: from frame 4 on, 5.5 frames long.
    patched(source, b"elst", 8, struct.pack(">Ii", 5500, media_time + 4000))
    info = media.probe(source)
    assert info.pts.tolist() == [0, 1000, 2000, 3000, 4000, 5000]
    assert info.durations.tolist() == [1000] * 5 + [500]
    assert numbers(source) == [4, 5, 6, 7, 8, 9]
    assert same_times(info, copy(source, tmp_path / "out.mp4"))


def test_an_edit_list_delays_the_first_frame(tmp_path):
    source = make(tmp_path / "in.mp4", [24000 + k for k in VFR])
    assert b"elst" in source.read_bytes()
    info = media.probe(source)
    assert info.times[0] == 1
    result = copy(source, tmp_path / "out.mp4")
    assert result.times[0] == 1 and same_times(info, result)


# Display matrices (a, b, c, d): where x and y go; the angle is clockwise as a phone is to be turned.
@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), lambda f: f),
        ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
        ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
        ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
        ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    ],
)
def test_display_rotation_is_applied(tmp_path, matrix, expected):
    source = make(tmp_path / "in.mp4", [k * 1001 for k in range(5)])
    upright = [expected(frame) for frame in media.frames(source)]
    a, b, c, d = (value << 16 for value in matrix)
    patched(source, b"tkhd", 40, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    info = media.probe(source)
    assert (info.height, info.width) == upright[0].shape[:2]
    for frame, truth in zip(media.frames(source), upright, strict=True):
        np.testing.assert_array_equal(frame, truth)
    result = copy(source, tmp_path / "out.mp4")
    assert (result.height, result.width) == upright[0].shape[:2]


def test_rotation_agrees_with_ffmpeg(tmp_path):
    """FFmpeg's own player side, which turns by the same tag."""
    import subprocess

    import imageio_ffmpeg

    source = make(tmp_path / "in.mp4", [0, 1001])
    patched(source, b"tkhd", 40, struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", source, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    theirs = np.frombuffer(raw, np.uint8).reshape(-1, WIDTH, HEIGHT, 3)
    for ours, reference in zip(media.frames(source), theirs, strict=True):
        assert np.abs(ours.astype(int) - reference).mean() < 3


def test_odd_angles_are_refused(tmp_path):
    source = make(tmp_path / "in.mp4", [0, 1001])
    turned = [round(v * 65536) for v in (0.7071, 0.7071, 0, -0.7071, 0.7071, 0, 0, 0)]
    patched(source, b"tkhd", 40, struct.pack(">9i", *turned, 1 << 30))
    with pytest.raises(media.ClipError, match="90 degrees"):
        media.probe(source)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("in.mp4", "libx264", {}),
        ("in.mp4", "libx264", {"movflags": "+faststart"}),
        ("in.mp4", "libx264", {"movflags": "+frag_keyframe+empty_moov"}),
        ("in.mkv", "libx264", {}),
        ("in.webm", "libvpx-vp9", {}),
        ("in.avi", "mpeg4", {}),
        ("in.avi", "libx264", {}),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, name, codec, options, share):
    time_base, step = (Fraction(1, 24), 1) if name == "in.avi" else (NTSC, 1001)
    source = make(tmp_path / name, [k * step for k in range(60)], time_base, codec, step, **options)
    assert media.probe(source).n_frames == 60
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(media.ClipError, match="truncated"):
        media.probe(source)
    with pytest.raises(media.ClipError, match="truncated"):
        list(media.frames(source))


def test_what_is_no_video_is_refused_without_its_path(tmp_path):
    text = tmp_path / "child_anna.mp4"
    text.write_text("Not a video at all. " * 100)
    playlist = tmp_path / "anna_list.mp4"
    playlist.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    empty = tmp_path / "anna_empty.mp4"
    empty.write_bytes(b"")
    sound = tmp_path / "anna_sound.mp4"
    with av.open(str(sound), "w") as container:
        add_tone(container, "aac", 8000)
    for path in (text, playlist, empty, sound, tmp_path / "anna_missing.mp4"):
        with pytest.raises(media.ClipError) as caught:
            media.probe(path)
        assert "anna" not in str(caught.value)
        if path == sound:
            assert str(caught.value) == "no video stream"


def test_zero_frames_are_refused(tmp_path):
    source = make(tmp_path / "in.mp4", [k * 1000 for k in range(6)], b_frames=0)
    # The edit list shows what comes after the last frame.
    if b"elst" not in source.read_bytes():
        source = make(tmp_path / "in.mp4", [k * 1000 for k in range(6)])
    patched(source, b"elst", 8, struct.pack(">Ii", 1000, 90_000_000))
    with pytest.raises(media.ClipError, match=r"zero frames|truncated"):
        media.probe(source)


def test_changing_frame_size_is_refused(tmp_path):
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        other = av.CodecContext.create("mpeg4", "w")
        other.width, other.height, other.pix_fmt, other.time_base = 96, 64, "yuv420p", Fraction(1, 24)
        for k, encoder, size in ((0, stream.codec_context, (48, 64)), (1, other, (64, 96))):
            frame = av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8))
            frame.pts, frame.time_base = k, Fraction(1, 24)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, k, k, Fraction(1, 24)
                container.mux(packet)
    with pytest.raises(media.ClipError, match="frame size changes"):
        media.probe(path)


def gradient(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth colourful frame, which chroma subsampling keeps."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float64)
    x, y = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
    top, bottom = (row[0] * (1 - x) + row[1] * x for row in corners)
    return np.rint(top * (1 - y) + bottom * y).astype(np.uint8)


def still_info(width: int, height: int, n: int = 3) -> media.ClipInfo:
    return media.ClipInfo(
        width, height, Fraction(1, 25), np.arange(n), np.ones(n, np.int64), Fraction(25), has_audio=False
    )


@pytest.mark.parametrize(("width", "height"), [(320, 240), (1280, 720)])
def test_colours_survive_and_are_tagged(tmp_path, width, height):
    path, frame = tmp_path / "out.mp4", gradient(width, height)
    with media.writer(path, still_info(width, height)) as write:
        for _ in range(3):
            write(frame)
    for result in media.frames(path):
        difference = np.abs(result.astype(int) - frame)
        assert difference.mean() < 1.5 and difference.max() < 12
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = next(container.decode(stream))
        assert stream.pix_fmt == "yuv420p" and stream.codec_context.name == "h264"
        assert decoded.colorspace == (1 if height == 720 else 6) and decoded.color_range == 1


@pytest.mark.parametrize("matrix", [1, 6])
@pytest.mark.parametrize("full", [False, True])
def test_matrix_and_range_of_the_source_are_used(tmp_path, matrix, full):
    """A flat colour in YUV against the equations of BT.601 and BT.709."""
    path, y, cb, cr = tmp_path / "in.mp4", 120, 90, 170
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        planes = np.concatenate([np.full((64, 64), y), np.full((16, 64), cb), np.full((16, 64), cr)]).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    kr, kb = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    luma, chroma = (y / 255, 255) if full else ((y - 16) / 219, 224)
    red, blue = luma + 2 * (1 - kr) * (cr - 128) / chroma, luma + 2 * (1 - kb) * (cb - 128) / chroma
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    truth = np.array([red, green, blue]) * 255
    np.testing.assert_allclose(next(media.frames(path))[32, 32], truth, atol=1.5)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (65, 47)])
def test_lossless_gives_back_the_very_arrays(tmp_path, width, height):
    rng = np.random.default_rng(0)
    written = rng.integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    with media.writer(tmp_path / "out.mp4", still_info(width, height, 4), lossless=True) as write:
        for frame in written:
            write(frame)
    np.testing.assert_array_equal(list(media.frames(tmp_path / "out.mp4")), written)


def test_odd_sides_are_padded_by_repetition(tmp_path):
    info, frame = still_info(65, 47), gradient(65, 47)
    assert info.padded and not still_info(64, 48).padded
    with media.writer(tmp_path / "out.mp4", info) as write:
        for _ in range(3):
            write(frame)
    result = next(media.frames(tmp_path / "out.mp4")).astype(int)
    assert result.shape == (48, 66, 3)
    assert np.abs(result[:47, :65] - frame).mean() < 2
    assert np.abs(result[47, :65] - frame[46]).mean() < 4 and np.abs(result[:47, 65] - frame[:, 64]).mean() < 4


def test_pixel_aspect_survives(tmp_path):
    info = dataclasses.replace(still_info(64, 48), pixel_aspect=Fraction(16, 11))
    with media.writer(tmp_path / "out.mp4", info) as write:
        for _ in range(3):
            write(gradient(64, 48))
    assert media.probe(tmp_path / "out.mp4").pixel_aspect == Fraction(16, 11)


def test_writer_refuses_other_frames(tmp_path):
    info, frame = still_info(64, 48), gradient(64, 48)
    with (
        pytest.raises(ValueError, match="2 frames written, expected the 3"),
        media.writer(tmp_path / "a.mp4", info) as w,
    ):
        w(frame), w(frame)
    with pytest.raises(ValueError, match="more frames"), media.writer(tmp_path / "b.mp4", info) as w:
        w(frame), w(frame), w(frame), w(frame)
    with pytest.raises(ValueError, match="frame 0 is"), media.writer(tmp_path / "c.mp4", info) as w:
        w(gradient(48, 64))


def add_tone(container: av.container.OutputContainer, codec: str, rate: int, seconds: int = 2) -> None:
    stream = container.add_stream(codec, rate=rate, layout="mono", options={"flags": "+bitexact"})
    wave = np.sin(2 * np.pi * 440 * np.arange(rate * seconds) / rate).astype(np.float32) * 0.5
    frame = av.AudioFrame.from_ndarray(wave[None], format="flt", layout="mono")
    frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    for packet in [*stream.encode(frame), *stream.encode(None)]:
        container.mux(packet)


def sound(path: Path) -> tuple[str, np.ndarray, int]:
    """Codec, samples and rate of the audio of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        wave = np.concatenate([frame.to_ndarray().astype(np.float64)[0] for frame in container.decode(stream)])
        return stream.codec_context.codec.canonical_name, wave, stream.rate


@pytest.mark.parametrize(("codec", "name"), [("aac", "in.m4a"), ("libmp3lame", "in.mp3"), ("pcm_s16le", "in.wav")])
def test_audio_is_kept_on_request_and_dropped_otherwise(tmp_path, codec, name):
    source, audio = make(tmp_path / "in.mp4", [k * 1001 for k in range(48)]), tmp_path / name
    with av.open(str(audio), "w") as container:
        add_tone(container, codec, 32000)
    assert not copy(source, tmp_path / "silent.mp4").has_audio
    info = copy(source, tmp_path / "out.mp4", audio=audio)
    assert info.has_audio and same_times(info, media.probe(source))
    kept, wave, rate = sound(tmp_path / "out.mp4")
    assert kept == {"aac": "aac", "libmp3lame": "mp3", "pcm_s16le": "aac"}[codec] and rate == 32000
    assert abs(len(wave) / rate - 2) < 0.1
    # The tone, at its place: 440 Hz.
    middle = wave[len(wave) // 4 : len(wave) * 3 // 4]
    peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * rate / len(middle)
    assert abs(peak - 440) < 3


def test_missing_audio_is_an_error(tmp_path):
    source = make(tmp_path / "in.mp4", [0, 1001])
    with pytest.raises(media.ClipError, match="no audio stream"):
        copy(source, tmp_path / "out.mp4", audio=source)


def test_no_metadata_is_written_and_bytes_repeat(tmp_path):
    source = tmp_path / "in.mp4"
    make(source, [k * 1001 for k in range(12)])
    # The same clip, as a phone would tag it.
    tagged = tmp_path / "tagged.mp4"
    tags = {"title": "Anna", "creation_time": "2024-05-06T07:08:09Z", "location": "+48.2+016.3/", "comment": "Anna"}
    with av.open(str(source)) as old, av.open(str(tagged), "w", options={"movflags": "use_metadata_tags"}) as new:
        new.metadata.update(tags)
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.metadata["handler_name"] = "Anna's phone"
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    assert b"Anna" in tagged.read_bytes()
    with av.open(str(tmp_path / "in.m4a"), "w") as container:
        container.metadata["title"] = "Anna"
        add_tone(container, "aac", 32000)
    copy(tagged, tmp_path / "a.mp4", audio=tmp_path / "in.m4a")
    copy(tagged, tmp_path / "b.mp4", audio=tmp_path / "in.m4a")
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    assert not re.search(rb"Anna|Lav[cf]|x264|Handler", data)
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        for found in re.finditer(box, data):
            assert struct.unpack(">II", data[found.end() + 4 :][:8]) == (0, 0)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert set(container.metadata) <= {"major_brand", "minor_version", "compatible_brands"}
        assert all(set(stream.metadata) <= {"language"} for stream in container.streams)


@pytest.mark.skipif(not (SHARED / "clips").is_dir(), reason="needs the shared clips")
@pytest.mark.parametrize(
    ("name", "n", "seconds"),
    [
        ("adult_hand_occlusion.mp4", 472, Fraction(472 * 1001, 24000)),
        ("adult_smile.mp4", 72, Fraction(72, 30)),
        ("adult_yaw.mp4", 354, Fraction(354, 30)),
        ("two_faces.mp4", 105, Fraction(5228, 600)),
        ("face_then_none.mov", 169, Fraction(98335, 15360)),
        # 98 frames are stored, of which the edit list shows 95.
        ("no_face.mp4", 95, Fraction(48476, 12288)),
    ],
)
def test_real_clips_have_their_frames(name, n, seconds):
    info = media.probe(SHARED / "clips" / name)
    assert info.n_frames == n and info.duration == seconds and info.has_audio


@pytest.mark.skipif(not (SHARED / "clips").is_dir(), reason="needs the shared clips")
@pytest.mark.parametrize("name", ["adult_smile.mp4", "two_faces.mp4"])
def test_real_clips_keep_times_and_sound(tmp_path, name):
    source, output = SHARED / "clips" / name, tmp_path / "out.mp4"
    info = copy(source, output, audio=source)
    assert same_times(info, media.probe(source))
    with av.open(str(source)) as a, av.open(str(output)) as b:
        assert abs(a.duration - b.duration) < 1000
    (codec, wave, rate), (kept, result, _) = sound(source), sound(output)
    # Less than a packet may be trimmed at either end.
    assert codec == kept and abs(len(wave) - len(result)) < 2 * 1152 and rate


def test_frames_go_as_they_come(tmp_path):
    path = make(tmp_path / "clip.mp4", range(0, 1001 * 30, 1001))
    gc.collect()
    gc.disable()
    try:
        assert sum(1 for _ in media.frames(path)) == 30
        # Those that only the garbage collector finds would pile up until it comes.
        assert not any(type(left) is av.VideoFrame for left in gc.get_objects())
    finally:
        gc.enable()
