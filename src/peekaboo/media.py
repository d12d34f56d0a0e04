"""Video in and out, exact to the frame: what a player shows, when it shows it, and a clip with the same time stamps."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation

# Demuxers by their FFmpeg names. Play lists, image sequences and the like could open other files and are not read.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm"
SOUND_FORMATS = f"{FORMATS},wav,mp3,flac,ogg,aac"
# Outermost elements of mp4 and AVI files.
BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"sidx", b"mfra", b"RIFF"}
MP4_AUDIO = {"aac", "mp3", "ac3", "eac3", "alac", "opus"}
AAC_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
# Frames that may fail to decode before a clip counts as damaged: pictures before the first key frame are never shown.
MISSING_FRAMES, MISSING_SHARE = 2, 0.02
EDIT_ROUNDING = Fraction(2, 1000)
# AVColorSpace (ITU-T H.273 matrix coefficients) to the matrices of swscale; 0 is RGB, which needs none.
MATRICES = {
    0: Colorspace.DEFAULT,
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
BT709, BT601 = 1, 6
SCALING = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)


class ClipError(Exception):
    """A clip that can't be used. The text is the reason; it names what was found and expected, never a path."""


@dataclass(frozen=True, eq=False)
class ClipInfo:
    """Size and time stamps of a clip as a player shows it.

    Width and height are in display orientation; `pts` and `durations` (int64 [N]) are in `time_base` seconds, a frame
    is shown until the next one and the last for its own duration; `rate` is the average in frames per second;
    `pixel_aspect` is the width of a pixel over its height.
    """

    width: int
    height: int
    time_base: Fraction
    pts: np.ndarray
    durations: np.ndarray
    rate: Fraction
    has_audio: bool
    pixel_aspect: Fraction = Fraction(1)

    @property
    def n_frames(self) -> int:
        """Number of frames N."""
        return len(self.pts)

    @property
    def times(self) -> list[Fraction]:
        """Time stamp of every frame in seconds."""
        return [int(p) * self.time_base for p in self.pts]

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame's appearance to the last one's end."""
        return int(self.pts[-1] + self.durations[-1] - self.pts[0]) * self.time_base

    @property
    def padded(self) -> bool:
        """Whether yuv420p output is one pixel wider or higher than the clip, because a side is odd."""
        return bool(self.width % 2 or self.height % 2)


def probe(path: str | Path) -> ClipInfo:
    """Decode a whole clip and give the exact time stamps of every frame that a player shows.

    Edit lists are honoured: frames that they cut are absent, offsets are in the time stamps. AVI stores no
    presentation times: there the k-th shown frame gets the k-th of the file's frame times. Raises ClipError with the
    reason for a file that is no mp4, mov, avi, mkv or webm video, is truncated or damaged, has no frame, changes its
    frame size, or whose time stamps are missing or don't rise.
    """
    with _opened(path) as (container, stream):
        has_audio = bool(container.streams.audio)
        avi = container.format.name == "avi"
        stored: list[int | None] = []
        shown: list[int | None] = []
        duration = 0
        for frame in _decoded(container, stream, stored):
            if not shown:
                transposed, _, _ = _orientation(frame)
                size = (frame.height, frame.width) if transposed else (frame.width, frame.height)
                aspect = Fraction(frame_aspect) if (frame_aspect := stream.sample_aspect_ratio) else Fraction(1)
            shown.append(frame.pts)
            duration = frame.duration
        if avi and len(stored) == len(shown) and None not in stored:
            shown = sorted(stored)
        if None in shown:
            raise ClipError(f"{shown.count(None)} of {len(shown)} frames have no time stamp; remux the clip to mp4")
        pts = np.array(shown, np.int64)
        gaps = np.diff(pts)
        if (gaps <= 0).any():
            k = int(np.argmax(gaps <= 0))
            raise ClipError(
                f"time stamps must rise, but frame {k + 1} is {-gaps[k]} ticks before frame {k}; re-encode it"
            )
        if duration <= 0:
            fallback = 1 / (stream.average_rate * stream.time_base) if stream.average_rate else 1
            duration = int(gaps[-1]) if len(gaps) else max(1, round(fallback))
        if container.format.name.startswith("mov") and stream.duration:
            # An edit list may end in the middle of the last frame; it counts in ms or 1/600 s, so less is rounding.
            remaining = stream.start_time + stream.duration - int(pts[-1])
            if remaining > 0 and (duration - remaining) * stream.time_base > EDIT_ROUNDING:
                duration = remaining
        durations = np.append(gaps, duration).astype(np.int64)
        return ClipInfo(
            width=size[0],
            height=size[1],
            time_base=stream.time_base,
            pts=pts,
            durations=durations,
            rate=len(pts) / (int(durations.sum()) * stream.time_base),
            has_audio=has_audio,
            pixel_aspect=1 / aspect if transposed else aspect,
        )


def frames(path: str | Path) -> Iterator[np.ndarray]:
    """Yield every shown frame, uint8 RGB [height, width, 3] in display orientation, as many as `probe` counts.

    The stream's own matrix and range are used; untagged video is BT.709 from 720 lines and BT.601 below, limited range.
    High dynamic range is reduced to 8 bits without tone mapping. One frame is held at a time. Raises ClipError like
    `probe`, for a truncated clip only after its last good frame.
    """
    with _opened(path) as (container, stream):
        for frame in _decoded(container, stream, []):
            yield _to_rgb(frame)


@contextmanager
def writer(
    path: str | Path, info: ClipInfo, lossless: bool = False, audio: Path | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield `write(frame)` (uint8 RGB [height, width, 3]), which makes an mp4 with the size and time stamps of `info`.

    H.264 yuv420p without B frames, BT.709 from 720 lines and BT.601 below, limited range, tagged. yuv420p can't hold an
    odd side: its last row or column is repeated once (`info.padded`). With `lossless`, H.264 in RGB (High 4:4:4, which
    FFmpeg decodes and browsers don't): `frames` then gives back the very arrays that were written, odd sides included.
    The same frames give the same bytes. No metadata is written. `audio` is a file whose first audio stream is copied,
    or encoded as AAC where mp4 can't hold its codec. Raises ValueError for a frame of another size or another number
    of frames than `info.n_frames`, ClipError when `audio` has no audio.
    """
    tick = info.time_base.numerator
    scale = str(info.time_base.denominator)
    options = {
        "movflags": "+faststart",
        "empty_hdlr_name": "1",
        "fflags": "+bitexact",
        "video_track_timescale": scale,
        # Edit lists are in this unit: the first frame's offset stays exact.
        "movie_timescale": scale,
    }
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = _video_stream(container, info, lossless)
        sound = _Sound(container, audio) if audio else None
        # x264 signs the stream with its build and settings in an SEI unit.
        unsigned = av.BitStreamFilterContext("filter_units=remove_types=6", stream)
        taken = muxed = 0

        def mux(packets: list[av.Packet]) -> None:
            nonlocal muxed
            for packet in packets:
                for clean in unsigned.filter(packet):
                    clean.duration = int(info.durations[muxed]) * tick
                    if sound:
                        sound.mux_until(int(info.pts[muxed]) * info.time_base)
                    container.mux(clean)
                    muxed += 1

        def write(frame: np.ndarray) -> None:
            nonlocal taken
            if frame.shape != (info.height, info.width, 3):
                raise ValueError(f"frame {taken} is {frame.shape}, expected {(info.height, info.width, 3)}")
            if taken == info.n_frames:
                raise ValueError(f"more frames written than the {info.n_frames} of the clip")
            picture = _from_rgb(frame, stream)
            picture.pts = int(info.pts[taken]) * tick
            picture.time_base = Fraction(1, info.time_base.denominator)
            taken += 1
            mux(stream.encode(picture))

        try:
            yield write
            if taken != info.n_frames:
                raise ValueError(f"{taken} frames written, expected the {info.n_frames} of the clip")
            mux(stream.encode(None))
            if muxed != info.n_frames:
                raise ValueError(f"the encoder gave {muxed} frames for {info.n_frames}")
            if sound:
                sound.mux_until(None)
        finally:
            if sound:
                sound.close()


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a clip and its video stream; FFmpeg's errors become ClipError, without the path that they name."""
    try:
        with av.open(str(path), options={"format_whitelist": FORMATS}, metadata_errors="replace") as container:
            _check_size(path, container.format.name)
            videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not videos:
                raise ClipError("no video stream")
            yield container, videos[0]
    except av.FFmpegError as error:
        raise ClipError(f"not a readable mp4, mov, avi, mkv or webm video, or truncated: {error.strerror}") from None


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream, stored: list[int | None]
) -> Iterator[av.VideoFrame]:
    """Yield the shown frames in order, put their packets' decoding times into `stored`, check that none is lost."""
    stream.thread_type = "AUTO"
    vp8 = stream.codec_context.name.startswith("vp8")
    packets = count = 0
    first = None
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ClipError(f"truncated or damaged: {count} frames could be decoded before a broken one")
        if packet.size:
            packets += 1
            # A VP8 frame whose show bit is off serves as a reference only (RFC 6386, section 9.1).
            if not packet.is_discard and not (vp8 and not bytes(packet)[0] & 0x10):
                stored.append(packet.dts)
        try:
            decoded = packet.decode()
        except av.FFmpegError as error:
            raise ClipError(f"truncated or damaged: {error.strerror} after {count} frames") from None
        for frame in decoded:
            if frame.is_corrupt:
                raise ClipError(f"truncated or damaged: frame {count} is broken")
            form = (frame.width, frame.height, _orientation(frame))
            first = first or form
            if form != first:
                raise ClipError(
                    f"frame size changes from {first[0]}x{first[1]} to {form[0]}x{form[1]} or turns at frame {count}"
                )
            count += 1
            yield frame
    if not count:
        raise ClipError("zero frames")
    # The index of an mp4 says how many frames there should be.
    if container.format.name.startswith("mov") and packets < len(stream.index_entries):
        raise ClipError(f"truncated: {packets} frames found, the file declares {len(stream.index_entries)}")
    if len(stored) - count > max(MISSING_FRAMES, MISSING_SHARE * len(stored)):
        raise ClipError(f"truncated or damaged: {count} of {len(stored)} frames could be decoded")


def _check_size(path: str | Path, container_format: str) -> None:
    """Raise ClipError when the outermost elements of a file reach beyond its end."""
    with open(path, "rb") as file:
        found = file.seek(0, 2)
        file.seek(0)
        expected = (
            _matroska_end(file) if container_format.startswith("matroska") else _boxes_end(file, container_format)
        )
    if found < expected:
        raise ClipError(f"truncated: {found} bytes found, the file declares {expected}")


def _boxes_end(file: BinaryIO, container_format: str) -> int:
    """Where an mp4's boxes or an AVI's RIFF chunks end, but for what a camera appends in a format of its own."""
    end, avi = 0, container_format == "avi"
    while len(head := file.read(8)) == 8:
        if avi:
            kind, size = head[:4], int.from_bytes(head[4:], "little") + 8
        else:
            kind, size = head[4:], int.from_bytes(head[:4], "big")
            size = int.from_bytes(file.read(8), "big") if size == 1 else size
        if kind not in BOXES or size < 8:
            break
        end += size
        file.seek(end)
    # Some writers of AVI count these 8 bytes twice.
    return end - 8 if avi else end


def _matroska_end(file: BinaryIO) -> int:
    """Where a Matroska file's segment ends; 0 for live recordings, which don't say."""
    file.seek(4)
    file.seek(_ebml_size(file)[0], 1)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    size, unknown = _ebml_size(file)
    return 0 if unknown else file.tell() + size


def _ebml_size(file: BinaryIO) -> tuple[int, bool]:
    """Read an EBML element size (RFC 8794, section 4): its value, and whether it is the one that means unknown."""
    first = file.read(1)[0]
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first]) + file.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return value, value == (1 << 7 * length) - 1


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to show a frame: transpose it, then mirror its columns, then its rows. Raises ClipError for other angles."""
    # A frame keeps the container that its own `side_data` makes, which keeps the frame: hundreds would lie in memory.
    side_data = SideDataContainer(frame)
    if "DISPLAYMATRIX" not in {data.type.name for data in side_data}:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data["DISPLAYMATRIX"]))
    a, b, c, d = (round(value / 65536, 3) for value in (a, b, c, d))
    if b == c == 0 and a and d:
        return False, a < 0, d < 0
    if a == d == 0 and b and c:
        return True, c < 0, b < 0
    raise ClipError("the clip is to be shown at an angle that is no multiple of 90 degrees")


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Uint8 RGB [height, width, 3] in display orientation."""
    default = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=MATRICES.get(frame.colorspace, default),
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=SCALING,
    ).to_ndarray()
    transposed, mirrored, upended = _orientation(frame)
    if transposed:
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(rgb[:: -1 if upended else 1, :: -1 if mirrored else 1])


def _from_rgb(frame: np.ndarray, stream: av.VideoStream) -> av.VideoFrame:
    """The picture that the encoder of `stream` takes, padded to its size."""
    pad = stream.height - frame.shape[0], stream.width - frame.shape[1]
    if any(pad):
        frame = np.pad(frame, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    if stream.pix_fmt == "rgb24":
        return picture
    return picture.reformat(
        format="yuv420p",
        dst_colorspace=MATRICES[stream.codec_context.colorspace],
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=SCALING,
    )


def _video_stream(container: av.container.OutputContainer, info: ClipInfo, lossless: bool) -> av.VideoStream:
    """Add the H.264 stream; one thread, so that the bytes don't depend on the machine's number of cores."""
    quality = {"qp": "0"} if lossless else {"crf": "17"}
    options = {"preset": "fast", "bf": "0", "threads": "1", "flags": "+bitexact", **quality}
    stream = container.add_stream("libx264rgb" if lossless else "libx264", options=options)
    context = stream.codec_context
    context.framerate = info.rate.limit_denominator(1_000_000)
    context.time_base = Fraction(1, info.time_base.denominator)
    context.sample_aspect_ratio = info.pixel_aspect
    if lossless:
        stream.pix_fmt, stream.width, stream.height = "rgb24", info.width, info.height
        return stream
    stream.pix_fmt, stream.width, stream.height = "yuv420p", info.width + info.width % 2, info.height + info.height % 2
    tag = BT709 if info.height >= 720 else BT601
    context.colorspace = context.color_primaries = context.color_trc = tag
    context.color_range = ColorRange.MPEG
    return stream


class _Sound:
    """The audio of another file, muxed as the video goes on so that the muxer needs to hold back nothing."""

    def __init__(self, output: av.container.OutputContainer, path: str | Path) -> None:
        self.output = output
        try:
            self.source = av.open(str(path), options={"format_whitelist": SOUND_FORMATS}, metadata_errors="replace")
        except av.FFmpegError as error:
            raise ClipError(f"the audio can't be read: {error.strerror}") from None
        if not self.source.streams.audio:
            self.source.close()
            raise ClipError("audio was asked for, but the file given for it has no audio stream")
        template = self.source.streams.audio[0]
        if template.codec_context.codec.canonical_name in MP4_AUDIO:
            self.stream = output.add_stream_from_template(template)
            self.packets = self._copied(template)
        else:
            rate = template.rate if template.rate in AAC_RATES else 48000
            self.stream = output.add_stream("aac", rate=rate, options={"flags": "+bitexact"})
            self.stream.layout = "mono" if template.channels == 1 else "stereo"
            self.packets = self._encoded(template)
        self.stream.metadata.clear()
        self.waiting: av.Packet | None = None

    def mux_until(self, time: Fraction | None) -> None:
        """Mux the packets that start before `time` (seconds), or all that remain."""
        while True:
            try:
                packet = self.waiting or next(self.packets, None)
            except av.FFmpegError as error:
                raise ClipError(f"the audio can't be read: {error.strerror}") from None
            self.waiting = packet
            if packet is None or (time is not None and packet.dts * packet.time_base > time):
                return
            self.waiting = None
            self.output.mux(packet)

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    def _copied(self, template: av.AudioStream) -> Iterator[av.Packet]:
        end = template.start_time + template.duration if template.duration else None
        for packet in self.source.demux(template):
            if packet.dts is None:
                continue
            # Sound that an edit list cuts is not kept, but for the decoder's run-in just before the first sample.
            if (packet.is_discard and packet.pts * packet.time_base < -0.1) or (end is not None and packet.pts >= end):
                continue
            if end is not None:
                packet.duration = min(packet.duration, end - packet.pts)
            packet.stream = self.stream
            yield packet

    def _encoded(self, template: av.AudioStream) -> Iterator[av.Packet]:
        for frame in self.source.decode(template):
            yield from self.stream.encode(frame)
        yield from self.stream.encode(None)
